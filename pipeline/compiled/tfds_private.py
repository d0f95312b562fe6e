"""Every undocumented part of TensorFlow Datasets that convscope uses, one small function for each.

Nothing else in the tree may import from inside `tensorflow_datasets`. Each function has a contract test in
tests/pipeline/compiled/test_tfds_private.py. All of it is as in TFDS 4.9.10. TFDS is imported on use: specs are read without it.
"""

from __future__ import annotations

from typing import Any


def builder_on_disk(name: str, data_dir: str | None) -> Any:
    """The builder of a data set that is prepared, in any version that is there, without network.

    `tfds.builder` insists on the version that its own code has, and asks the network for what it lacks.
    Relies on `read_only_builder.builder_from_files`.

    Args:
        name: `NAME[/CONFIG][:VERSION]`.
        data_dir: None for TFDS's own folder.

    Raises: tfds.core.DatasetNotFoundError.
    """
    from tensorflow_datasets.core.read_only_builder import builder_from_files

    return builder_from_files(name, data_dir=data_dir)


def default_data_dir() -> str:
    """The folder in which TFDS looks for and prepares data sets, unless told another.

    Relies on `tfds.core.constants.DATA_DIR`, read from TFDS_DATA_DIR when TFDS is imported.
    """
    from tensorflow_datasets.core import constants

    return str(constants.DATA_DIR)
