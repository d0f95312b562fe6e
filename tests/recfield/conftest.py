"""Makes the oracle and the zoo importable from the tests beside them."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).parent))


def pytest_configure(config: Any) -> None:
    config.addinivalue_line("markers", "slow: minutes; `make test` leaves it out")
