"""The table of stages: each declares all that the run, the spec and the page have to know of it."""

from __future__ import annotations

import typing
from typing import Any

import pytest

from pipeline.spec import STAGES as NAMES
from pipeline.spec import JobSpec
from pipeline.stages import STAGES
from pipeline.store.tables import INDEX


def test_the_table_holds_the_stages_of_a_spec_in_the_order_in_which_they_run() -> None:
    assert tuple(STAGES) == NAMES and all(stage.name == name for name, stage in STAGES.items())


def test_every_index_table_is_written_by_exactly_one_stage() -> None:
    written = [table for stage in STAGES.values() for table in stage.index]
    assert sorted(written) == sorted(INDEX)


def test_the_table_of_a_stage_is_the_field_of_the_spec_that_bears_its_name() -> None:
    hints = typing.get_type_hints(JobSpec)
    assert {stage.name: stage.table for stage in STAGES.values() if stage.table} == {
        name: hints[name] for name in JobSpec.model_fields.keys() - {"name", "stages", "model", "data"}
    }


def test_no_two_stages_write_into_one_folder() -> None:
    folders = [folder for stage in STAGES.values() for folder in stage.folders]
    assert len(folders) == len(set(folders))


def test_the_page_depends_on_all_that_the_other_stages_depend_on() -> None:
    page = STAGES["report"]
    assert {table for stage in STAGES.values() for table in stage.tables} <= set(page.tables)
    assert "stages" in page.tables and page.names_classes


@pytest.mark.parametrize("stage", [stage for stage in STAGES.values() if stage.name != "report"], ids=lambda stage: stage.name)
def test_every_stage_says_what_the_page_lacks_without_it(stage: Any) -> None:
    assert stage.section is not None and stage.section.shows
