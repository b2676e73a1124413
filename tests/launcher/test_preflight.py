"""What ``run`` tells before it starts a process, once, and without leaving anything behind."""

from pathlib import Path

import pytest

from fednnunet.cli.commands import run_main
from fednnunet.demo.hospitals import HOSPITALS, write_hospitals
from fednnunet.launcher import preflight, simulation

_CPU = ["-device", "cpu"]


@pytest.fixture
def hospitals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two hospitals with raw data only; nothing is ever started."""
    for part in ("raw", "preprocessed", "results"):
        monkeypatch.setenv(f"nnUNet_{part}", str(tmp_path / part))
        (tmp_path / part).mkdir()
    write_hospitals(tmp_path / "raw", hospitals=HOSPITALS[:2], training_cases=5, test_cases=1, resolution=0.2)
    monkeypatch.setattr(simulation, "run_together", lambda *_, **__: 0)
    return tmp_path


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["train", "901", "902", "2d", "0", *_CPU], "Site Dataset901_HospitalA has no plans file"),
        (["train", "901 999", "2d", "0", *_CPU], "No dataset with id 999"),
        (["train", "901 901", "2d", "0", *_CPU], "Dataset901_HospitalA is listed twice"),
        (["train", "901 902", "2d", "0", *_CPU, "-num_gpus", "2"], "-num_gpus 2 is not supported"),
        (["train", "901 902", "2d", "0", *_CPU, "--c", "--val"], "--c goes with neither --val nor"),
        (["train", "901 902", "2d", "first", *_CPU], "Invalid fold 'first'"),
        (["evaluate", "901 902", "2d", "0", *_CPU], "Site Dataset901_HospitalA has no "),
        (["evaluate", "901 902", "2d", "0", *_CPU, "-step_size", "2"], "-step_size 2.0 is invalid"),
        (["plan_and_preprocess", "901 902", "3d_fullress"], "no configuration '3d_fullress': did you mean 3d_fullres?"),
        (["plan_and_preprocess", "901 902", "-c", "2d", "big"], "no configuration 'big': choose from 2d, 3d_fullres"),
        (["plan_and_preprocess", "901 902", "-pl", "Nobody"], "nnU-Net has no class 'Nobody'"),
        (["extract_fingerprint", "901 902", "-fpe", "Nobody"], "nnU-Net has no class 'Nobody'"),
    ],
)
def test_what_a_node_would_refuse_is_told_once_before_anything_starts(
    words: list[str], told: str, hospitals: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_main(words) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("Error:") == 1
    assert told in err
    assert list((hospitals / "results").iterdir()) == []


def test_the_other_sites_that_are_not_ready_are_named(hospitals: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for site in HOSPITALS[:2]:
        next((hospitals / "raw").glob(f"*{site.name}/imagesTr/*")).unlink()
    assert run_main(["plan_and_preprocess", "901 902", "2d"]) == 1
    err = capsys.readouterr().err
    assert "Dataset901_HospitalA" in err
    assert "4 training cases" in err
    assert "Not ready either: Dataset902_HospitalB." in err


def test_a_training_that_can_do_without_a_site_begins_without_it(
    hospitals: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def not_ready_at(*sites: str) -> None:
        monkeypatch.setattr(preflight, "_problem_of", lambda node: "ill" if node.dataset in sites else None)

    words = ["train", "901 902", "2d", "0", *_CPU]
    not_ready_at("902")
    assert run_main([*words, "--min_clients", "1"]) == 0
    assert run_main(words) == 1
    not_ready_at("901", "902")
    assert run_main([*words, "--min_clients", "1"]) == 1
    assert capsys.readouterr().err == "Error: ill\n" * 2


def test_a_folder_that_is_not_there_is_told_rather_than_a_dataset(
    hospitals: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("nnUNet_raw", str(hospitals / "nowhere"))
    assert run_main(["plan_and_preprocess", "901 902", "2d"]) == 1
    assert "nnUNet_raw names" in capsys.readouterr().err


def test_sites_that_are_ready_are_started(hospitals: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_main(["plan_and_preprocess", "901,902", "2d"]) == 0
    shown = capsys.readouterr().out
    assert "Dataset901_HospitalA: " in shown
    assert "Dataset902_HospitalB: " in shown
