"""What a federation in one process refuses, and where what it prints goes."""

import contextlib
import sys
from pathlib import Path

import pytest

from fednnunet.cli.arguments import parse_run
from fednnunet.errors import FednnUNetError
from fednnunet.events.events import Finished
from fednnunet.launcher.in_process import _Output, _Teller, run_in_process
from fednnunet.launcher.simulation import run_simulation

TRAIN = ("train", "1 2", "2d", "0", "-device", "cpu")


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("raw", "preprocessed", "results"):
        monkeypatch.setenv(f"nnUNet_{name}", str(tmp_path))
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    monkeypatch.delenv("nnUNet_wandb_enabled", raising=False)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("evaluate", "1 2", "2d", "0"), "--in_process is for train, not for evaluate"),
        (("plan_and_preprocess", "1 2"), "--in_process is for train, not for plan_and_preprocess"),
        ((*TRAIN, "--round_timeout", "5"), "--round_timeout does not apply with --in_process"),
        ((*TRAIN, "--port", "4711"), "--port does not apply with --in_process"),
        (("train", "1 2", "2d", "0", "--gpus", "0 1"), "--gpus does not apply with --in_process"),
        (TRAIN, "No dataset with id 1"),
    ],
)
def test_what_has_no_sense_is_refused_in_one_sentence(words: tuple[str, ...], told: str, tmp_path: Path) -> None:
    with pytest.raises(FednnUNetError, match=told):
        run_in_process(parse_run([*words, "--in_process", "--log_dir", str(tmp_path / "logs")]))
    assert not (tmp_path / "logs").exists()


def test_nnunets_logger_for_weights_and_biases_would_mix_the_sites(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("nnUNet_wandb_enabled", "1")
    with pytest.raises(FednnUNetError, match="nnUNet_wandb_enabled needs a process for each site"):
        run_in_process(parse_run([*TRAIN, "--in_process"]))


def test_a_site_named_twice_is_refused(tmp_path: Path) -> None:
    (tmp_path / "Dataset001_A").mkdir()
    with pytest.raises(FednnUNetError, match="Dataset001_A is listed twice"):
        run_in_process(parse_run(["train", "1 Dataset001_A", "2d", "0", "-device", "cpu", "--in_process"]))


def test_warm_sites_without_in_process_is_refused() -> None:
    with pytest.raises(FednnUNetError, match="--warm_sites has no effect without --in_process"):
        run_simulation(parse_run([*TRAIN, "--warm_sites", "2"]))


def test_what_a_function_prints_that_takes_events_is_shown_while_a_site_works(tmp_path, capsys):
    with (tmp_path / "site.log").open("w") as log, contextlib.redirect_stdout(_Output(log, sys.stdout)):
        print("of the site")
        _Teller(lambda event: print(event.seconds)).emit(Finished(seconds=5.0))
        print("of the site again")
    assert capsys.readouterr().out == "5.0\n"
    assert (tmp_path / "site.log").read_text() == "of the site\nof the site again\n"
