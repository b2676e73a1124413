"""What is to blame if nnU-Net does not find a trainer: the name, a file of the user's, or what is installed."""

from pathlib import Path

import pytest
from nnunetv2.utilities import find_objects

from fednnunet.errors import FednnUNetError
from fednnunet.node.trainer_search import check_trainer

_TRAINER = "from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer\n"


@pytest.fixture
def own_trainers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("nnUNet_extTrainer", str(tmp_path))
    return tmp_path


def _complaint(name: str) -> str:
    with pytest.raises(FednnUNetError) as caught:
        check_trainer(name)
    return str(caught.value)


def test_trainers_of_nnunet_and_of_the_user_are_found(own_trainers: Path) -> None:
    (own_trainers / "mine.py").write_text(f"{_TRAINER}class Mine(nnUNetTrainer): pass\n")
    for name in ("nnUNetTrainer", "nnUNetTrainer_5epochs", "Mine"):
        check_trainer(name)


def test_an_unknown_trainer_is_told_with_those_of_a_similar_name(own_trainers: Path) -> None:
    (own_trainers / "mine.py").write_text(f"{_TRAINER}class nnUNetTrainerOfMine(nnUNetTrainer): pass\n")
    told = _complaint("nnUNetTrainer_5epoch")
    assert "No trainer 'nnUNetTrainer_5epoch'" in told
    assert "did you mean nnUNetTrainer_5epochs" in told
    assert "did you mean nnUNetTrainerOfMine" in _complaint("nnUNetTrainerOfMin")
    assert _complaint("Xyz").endswith("correct -tr.")


def test_a_folder_of_trainers_that_is_not_there_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("nnUNet_extTrainer", str(tmp_path / "nowhere"))
    assert f"nnUNet_extTrainer names {tmp_path / 'nowhere'}, which is not a folder" in _complaint("Mine")
    monkeypatch.delenv("nnUNet_extTrainer")
    assert "nnUNet_extTrainer, for custom trainers, is not set" in _complaint("Mine")


@pytest.mark.parametrize(
    ("code", "line", "reason"),
    [
        ("x = 1\ny = z\n", 2, "NameError: name 'z' is not defined"),
        ("class Mine(:\n", 1, "SyntaxError"),
        ("\n\nimport no_such_package\n", 3, "No module named 'no_such_package'"),
        ("import sys\nsys.exit('bye')\n", 2, "SystemExit: bye"),
    ],
)
def test_a_mistake_in_a_trainers_file_is_told_with_file_and_line(
    own_trainers: Path, code: str, line: int, reason: str
) -> None:
    (own_trainers / "mine.py").write_text(code)
    told = _complaint("Mine")
    assert f"{own_trainers / 'mine.py'}, which fails in line {line} (" in told
    assert reason in told
    assert "-tr" not in told


def test_a_class_that_is_no_trainer_is_told(own_trainers: Path) -> None:
    (own_trainers / "mine.py").write_text("class Mine: pass\n")
    assert "Mine is not a trainer" in _complaint("Mine")


@pytest.mark.parametrize(
    ("package", "told"),
    [("torchvision", "install the build of torchvision that fits torch 2"), ("timm", "timm cannot be imported")],
)
def test_a_package_that_cannot_be_imported_is_blamed_and_not_the_trainers_name(
    package: str, told: str, own_trainers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = compile("raise RuntimeError('operator x does not exist')", f"/e/site-packages/{package}/meta.py", "exec")
    monkeypatch.setattr(find_objects, "recursive_find_trainer_class_by_name", lambda _: exec(code))
    message = _complaint("nnUNetTrainer_5epochs")
    assert told in message
    assert "RuntimeError: operator x does not exist" in message
    assert "-tr" not in message
