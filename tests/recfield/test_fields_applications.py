"""All builders of keras.applications, three depths each in one pass, random weights: every unit agrees with the oracle."""

from __future__ import annotations

import agreement
import networks
import pytest


@pytest.mark.slow
@pytest.mark.parametrize("name", networks.APPLICATIONS)
def test_three_depths_of_every_application_agree_in_every_unit(name: str) -> None:
    model = networks.application(name)
    result = agreement.solve(model, agreement.three_depths(model), batch=8)
    print("\n" + result.line(name))
    wrong = [f"{one.layer}: {one.difference}" for one in result.agreements if one.difference]
    assert not wrong, "\n".join(wrong)


@pytest.mark.slow
def test_there_are_forty_builders() -> None:
    assert len(networks.APPLICATIONS) == 40
