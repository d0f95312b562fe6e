"""Prints how the solver agrees with the oracle on keras.applications, a line a network.

python tests/recfield/survey.py [NAME ...]
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).parent))

import agreement
import keras
import networks

from recfield import UnsolvableField


def main(names: list[str]) -> int:
    """Returns the exit code: 0 where all units of all layers agree."""
    agreed = asked = 0
    for name in names or networks.APPLICATIONS:
        keras.backend.clear_session()
        model = networks.application(name)
        layers = agreement.three_depths(model)
        asked += len(layers)
        try:
            result = agreement.solve(model, layers, batch=8)
        except UnsolvableField as error:
            print(f"{name:<18} {type(error).__name__}: {error}", flush=True)
            continue
        print(result.line(name), flush=True)
        for one in result.agreements:
            agreed += not one.difference
            if one.difference:
                print(f"    {one.layer}: {one.difference}", flush=True)
    print(f"{agreed} of {asked} layers agree in every unit")
    return int(agreed < asked)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
