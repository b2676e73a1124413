"""nnU-Net's folders, before anything is read or written there."""

import os
from pathlib import Path

import pytest

from fednnunet.errors import FednnUNetError
from fednnunet.node.folders import check_folders


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "raw").mkdir()
    for part in ("raw", "preprocessed", "results"):
        monkeypatch.setenv(f"nnUNet_{part}", str(tmp_path / part))
    return tmp_path


def test_folders_that_are_written_need_not_be_there_yet() -> None:
    for task in ("extract_fingerprint", "plan_and_preprocess", "train", "evaluate"):
        check_folders(task)


def test_variables_that_are_not_set_or_empty_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("nnUNet_results", "")
    with pytest.raises(FednnUNetError, match="nnUNet_results is not set"):
        check_folders("train")
    monkeypatch.delenv("nnUNet_raw")
    with pytest.raises(FednnUNetError, match="nnUNet_raw is not set"):
        check_folders("evaluate")


def test_a_folder_that_is_not_there_or_cannot_be_made_is_told(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folders / "file").touch()
    monkeypatch.setenv("nnUNet_results", str(folders / "file" / "results"))
    with pytest.raises(FednnUNetError, match=r"nnUNet_results names .*file/results, but .*file is not a folder"):
        check_folders("train")
    (folders / "raw").rmdir()
    with pytest.raises(FednnUNetError, match=r"nnUNet_raw names .*raw, which is not a folder"):
        check_folders("plan_and_preprocess")


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder in which even root can make none")
def test_a_folder_that_nobody_can_make_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("nnUNet_preprocessed", "/proc/nobody/preprocessed")
    with pytest.raises(FednnUNetError, match=r"nnUNet_preprocessed names .*, but /proc is not writable"):
        check_folders("plan_and_preprocess")


def test_a_folder_that_may_not_be_written_is_told(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        os, "access", lambda path, _: path != folders / "preprocessed"
    )  # tests may be run by root, who may do all
    with pytest.raises(FednnUNetError, match=r"nnUNet_preprocessed names .*, but .* is not writable"):
        check_folders("extract_fingerprint")
