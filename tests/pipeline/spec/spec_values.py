"""Reading specs and errors in tests."""

from __future__ import annotations

from typing import Any

LEAST = {"name": "job", "model": {"source": "keras:VGG16", "layers": ["conv"]}, "data": {"source": "folder:/images"}}


def value_at(spec: Any, key: Any) -> Any:
    for name in key.split("."):
        spec = getattr(spec, name)
    return spec


def one_line(caught: Any, status: Any = 2) -> Any:
    message = str(caught.value)
    assert "\n" not in message and caught.value.exit_code == status
    return message
