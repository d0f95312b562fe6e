"""Doors: the table of all of them."""

from __future__ import annotations

import data_doors
import job_doors
import meaning_doors
import model_doors
import spec_doors
from door import Door

DOORS: dict[str, Door] = {**spec_doors.DOORS, **model_doors.DOORS, **data_doors.DOORS, **job_doors.DOORS, **meaning_doors.DOORS}
