"""The folder of what all jobs of a user share, such as solved fields."""

from __future__ import annotations

import os
from pathlib import Path

VARIABLE = "CONVSCOPE_CACHE"  # a folder, or "off"


def user_cache() -> Path | None:
    """$CONVSCOPE_CACHE, else ~/.cache/convscope; None where it is "off"."""
    named = os.environ.get(VARIABLE)
    if named:
        return None if named == "off" else Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "convscope"
