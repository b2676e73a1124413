from pathlib import Path

import pytest

from fednnunet.errors import CaseError
from fednnunet.labels import Labels
from fednnunet.node.dataset import SiteDataset
from fednnunet.node.dataset_json import DatasetJson
from fednnunet.node.evaluation_input import find_test_cases
from fednnunet.settings.node import EvaluationSettings

CONTENT = DatasetJson(Path("dataset.json"), {}, Labels({"background": 0, "a": 1}), {"0": "R", "1": "G"}, ".png", None)


@pytest.fixture
def dataset(tmp_path, monkeypatch):
    monkeypatch.setenv("nnUNet_raw", str(tmp_path))
    for kind in ("imagesTs", "labelsTs"):
        (tmp_path / "Dataset001_A" / kind).mkdir(parents=True)
    return SiteDataset("Dataset001_A")


def write(dataset, case, files):
    for number in range(files):
        (dataset.raw / "imagesTs" / f"{case}_{number:04d}.png").touch()
    (dataset.raw / "labelsTs" / f"{case}.png").touch()


def found(dataset):
    settings = EvaluationSettings(task="evaluate", dataset="1", configuration="2d", fold="0")
    cases, _ = find_test_cases(settings, dataset, CONTENT)
    return {case.case: len(case.images) for case in cases}


@pytest.mark.parametrize("files", [1, 2])
def test_channels_come_in_one_file_or_in_one_each(dataset, files):
    write(dataset, "a", files)
    write(dataset, "b", files)
    assert found(dataset) == {"a": files, "b": files}


def test_a_case_that_lacks_a_channel_is_told(dataset):
    write(dataset, "a", 2)
    write(dataset, "b", 1)
    with pytest.raises(CaseError, match="case b has 1 of 2 image files"):
        found(dataset)
