"""The contracts with TensorFlow Datasets: what convscope relies on beyond the documented API."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds

from pipeline.compiled.tfds_private import builder_on_disk, default_data_dir


class ContractNumbers(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """Three numbers, in a version that this code gives up later."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> Any:
        features = tfds.features.FeaturesDict({"number": tfds.features.Tensor(shape=(), dtype=np.int64)})
        return tfds.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, dl_manager: Any) -> Any:
        return {"test": ((index, {"number": index}) for index in range(3))}

    def _generate_examples(self) -> None:
        raise NotImplementedError


def test_a_prepared_data_set_opens_in_the_version_on_disk_without_its_code(tmp_path: Path) -> None:
    ContractNumbers(data_dir=str(tmp_path)).download_and_prepare()
    builder = builder_on_disk("contract_numbers", str(tmp_path))
    assert type(builder) is not ContractNumbers and str(builder.version) == "1.0.0"
    assert builder.info.splits["test"].num_examples == 3


def test_no_module_that_the_files_of_a_data_set_name_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ContractNumbers(data_dir=str(tmp_path)).download_and_prepare()
    (tmp_path / "evil_features.py").write_text(f"open({str(tmp_path / 'proof')!r}, 'w')")
    monkeypatch.syspath_prepend(tmp_path)  # as where a spec is run beside the data
    file = tmp_path / "contract_numbers" / "1.0.0" / "features.json"
    whole = file.read_text()
    assert whole.count("tensorflow_datasets.core.features.tensor_feature.Tensor") == 1
    file.write_text(whole.replace("tensorflow_datasets.core.features.tensor_feature.Tensor", "evil_features.Tensor"))
    with pytest.raises(ValueError, match="the feature 'evil_features.Tensor', which is none of TFDS's own"):
        builder_on_disk("contract_numbers", str(tmp_path))
    assert not (tmp_path / "proof").exists()
    file.write_text(whole)
    assert builder_on_disk("contract_numbers", str(tmp_path)).info.features


def test_what_is_not_on_disk_is_an_error_of_its_own(tmp_path: Path) -> None:
    with pytest.raises(tfds.core.DatasetNotFoundError):
        builder_on_disk("contract_nothing", str(tmp_path))


def test_the_folder_of_prepared_data_sets_is_the_one_that_the_environment_names(tmp_path: Path, program: Any) -> None:
    code = "from pipeline.compiled.tfds_private import default_data_dir; print(default_data_dir())"
    child = program(code, environment={"TFDS_DATA_DIR": str(tmp_path)})
    assert child.out.strip() == str(tmp_path), child.err
    assert default_data_dir()
