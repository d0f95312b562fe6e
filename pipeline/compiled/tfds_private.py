"""Every undocumented part of TensorFlow Datasets that convscope uses, one small function for each.

Nothing else in the tree may import from inside `tensorflow_datasets`. Each function has a contract test in
tests/pipeline/compiled/test_tfds_private.py. All of it is as in TFDS 4.9.10. TFDS is imported on use: specs are read without it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


def builder_on_disk(name: str, data_dir: str | None) -> Any:
    """The builder of a data set that is prepared, in any version that is there, without network.

    `tfds.builder` insists on the version that its own code has, and asks the network for what it lacks.
    Relies on `read_only_builder.builder_from_files`.

    Args:
        name: `NAME[/CONFIG][:VERSION]`.
        data_dir: None for TFDS's own folder.

    Raises: tfds.core.DatasetNotFoundError; ValueError, for a feature that is none of TFDS's own.
    """
    from tensorflow_datasets.core.read_only_builder import builder_from_files

    with _known_features_alone():
        return builder_from_files(name, data_dir=data_dir)


@contextmanager
def _known_features_alone() -> Iterator[None]:
    """Within the block, no feature that a data set's files name is imported: importing runs the module, whosever it is.

    Relies on `FeatureConnector.cls_from_name` and `_registered_features`.
    """
    from tensorflow_datasets.core.features import feature

    connector = feature.FeatureConnector
    original = vars(connector)["cls_from_name"]

    def known(cls: Any, name: Any) -> Any:
        if name not in cls._registered_features and not str(name).startswith("tensorflow_datasets."):
            raise ValueError(f"it asks for the feature {str(name)[:80]!r}, which is none of TFDS's own")
        return original.__get__(None, cls)(name)

    setattr(connector, "cls_from_name", classmethod(known))  # noqa: B010
    try:
        yield
    finally:
        setattr(connector, "cls_from_name", original)  # noqa: B010


def default_data_dir() -> str:
    """The folder in which TFDS looks for and prepares data sets, unless told another.

    Relies on `tfds.core.constants.DATA_DIR`, read from TFDS_DATA_DIR when TFDS is imported.
    """
    from tensorflow_datasets.core import constants

    return str(constants.DATA_DIR)
