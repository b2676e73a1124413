"""What programs use, with stubs in the place of trainings."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import fednnunet as fed
from fednnunet.api import comparisons, federations
from fednnunet.cli.arguments import parse_run
from fednnunet.events.event_files import EVENTS
from fednnunet.events.events import (
    Event,
    Finished,
    FoldValidated,
    ModelExported,
    PlansAgreed,
    RoundCompleted,
    SiteJoined,
    SitesEvaluated,
    StageStarted,
)
from fednnunet.launcher.steps import Job
from fednnunet.protocol.messages import EvaluationReport, RoundReport, ValidationReport
from tests.markdown import DOCS, blocks

SITES = ("Dataset301_A", "Dataset302_B")
_SUMMARY = {"mean": 0.5, "std": 0.1, "median": 0.5, "cases": 3}
_SUMMARIES = {"dice": _SUMMARY, "hd95": _SUMMARY, "assd": _SUMMARY}


def _round(number: int, dice: float | None) -> RoundCompleted:
    report = RoundReport(train_loss=1 / number, val_loss=None, mean_dice=dice, dice={"organ": dice})
    return RoundCompleted(round=number, rounds=2, seconds=1.0, sites=dict.fromkeys(SITES, report))


PLANS = {"configurations": {"2d": {"patch_size": [48, 48]}}}
HISTORY: tuple[Event, ...] = (
    *(SiteJoined(site=site, cases=5, joined=1, expected=2) for site in SITES),
    PlansAgreed(plans=PLANS, fingerprint={"spacings": []}),
    StageStarted(stage="training", rounds=2, fold="0"),
    _round(1, 0.25),
    _round(2, 0.1),
    _round(2, 0.75),  # repeated after the coordinator was started again
    ModelExported(folder="/models/exported", archive="/models/exported.zip", folds=["0"]),
    FoldValidated(fold="0", sites={site: ValidationReport(mean_dice=0.7, dice={"organ": 0.7}) for site in SITES}),
    SitesEvaluated(
        fold="0",
        checkpoint="checkpoint_final.pth",
        sites={SITES[0]: EvaluationReport.model_validate({"labels": {"organ": _SUMMARIES}, "overall": _SUMMARIES})},
    ),
    Finished(seconds=3.0),
)


def _write(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / EVENTS).write_text("".join(event.to_json() + "\n" for event in HISTORY))


class Federations:
    """Stands for `fednnunet run`, and for trainings in this process."""

    def __init__(self) -> None:
        self.jobs: list[Job] = []
        self.trainers: list[str | None] = []
        self.in_process: list[Any] = []

    def run_job(self, job: Job, on_event: Callable[[Event], None]) -> None:
        self.jobs.append(job)
        self.trainers.append(os.environ.get("nnUNet_extTrainer"))
        words = list(job.words)
        _write(Path(words[words.index("--run_dir") + 1]) if "--run_dir" in words else job.logs)
        for event in HISTORY:
            on_event(event)

    def run_in_process(self, settings: Any, on_event: Callable[[Event], None]) -> int:
        self.in_process.append(settings)
        _write(settings.coordinator.run_dir)
        return 0


@pytest.fixture
def federation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Federations:
    for name in ("raw", "preprocessed", "results"):
        monkeypatch.setenv(f"nnUNet_{name}", str(tmp_path / f"nnUNet_{name}"))
    monkeypatch.delenv("nnUNet_extTrainer", raising=False)
    monkeypatch.chdir(tmp_path)
    for site in (*SITES, "Dataset303_C"):
        (tmp_path / "nnUNet_raw" / site).mkdir(parents=True)
    stub = Federations()
    monkeypatch.setattr(federations, "run_job", stub.run_job)
    monkeypatch.setattr("fednnunet.launcher.in_process.run_in_process", stub.run_in_process)
    return stub


def test_importing_it_takes_nothing_else_along() -> None:
    script = (
        "import sys, fednnunet; print({'torch', 'numpy', 'pandas', 'flwr', 'rich'} & set(sys.modules)); "
        "fednnunet.Run; fednnunet.train; print({'torch', 'pandas', 'matplotlib'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\nset()\n"


def test_all_that_is_public_is_there_and_nothing_else() -> None:
    for name in fed.__all__:
        assert getattr(fed, name).__doc__, name
        assert name in dir(fed)
    with pytest.raises(AttributeError, match="tarin"):
        fed.tarin  # noqa: B018


def test_a_training_is_the_command_that_a_user_would_type(federation: Federations, tmp_path: Path) -> None:
    events: list[Event] = []
    run = fed.train(
        [301, "302"], "2d", rounds=4, device="cpu", seed=3, gpus=None, keep_local="a b", on_event=events.append
    )
    (job,) = federation.jobs
    assert parse_run(job.words).nodes[1].dataset == "302"
    folder = tmp_path / "nnUNet_results" / "fednnunet_runs" / "301+302__nnUNetTrainer__nnUNetPlans__2d"
    assert job.words == [
        *["train", "301 302", "2d", "0", "--rounds", "4", "--keep_local", "a b", "--run_dir", str(folder), "--quiet"],
        *["--seed", "3", "-device", "cpu", "--host", "127.0.0.1"],
    ]
    assert run.path == folder
    assert events == list(HISTORY)


@pytest.mark.parametrize(
    "words",
    [
        ["train", "301 302", "2d", "0", "--c", "--gpus", "0 1", "--val", "--wandb", "--warm_sites", "2"],
        ["train", "301", "2d", "all", "--in_process", "--overwrite", "-tr", "T", "-p", "P", "--asym_cohorts"],
        ["plan_and_preprocess", "301 302", "2d", "-c", "3d_lowres", "-np", "3", "4", "--gpu_memory_target", "8 11"],
        ["plan_and_preprocess", "301 302", "--asym", "-overwrite_target_spacing", "1", "2", "3"],
        ["extract_fingerprint", "301 302", "-np", "3", "--port", "9000"],
        ["train", "301 302 303", "2d", "0", "--secure"],
        ["plan_and_preprocess", "301 302 303", "--secure"],
        ["evaluate", "301", "2d", "0", "-m", "model", "-i", "i", "-l", "l", "--nsd_tolerance", "2"],
    ],
)
def test_words_made_of_settings_are_read_as_the_same_settings(words: list[str]) -> None:
    settings = parse_run(words)
    assert parse_run(federations.run_words(settings)) == settings


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"rouns": 3}, "Unknown setting 'rouns', did you mean rounds?"),
        ({"quiet": True}, "Unknown setting 'quiet'"),
        ({"rounds": 0}, "rounds cannot be 0: 0 is less than 1"),
        ({"rounds": "many"}, "rounds cannot be 'many'"),
        ({"encoding": "float8"}, "encoding cannot be 'float8': choose from float32, float16, int8"),
        ({"aggregation": "midrang"}, "aggregation cannot be 'midrang': choose from mean"),
        ({"min_clients": 3}, "--min_clients 3 exceeds the number of sites, 2"),
        ({"resume": True, "overwrite": True}, "--overwrite would remove"),
        ({"secure": True}, "--secure sums answers of at least 3 authenticated sites"),
        ({"fold": "first"}, "first"),
        ({"trainer": type("Mine", (), {"__module__": "a_notebook"})}, "Mine is not defined in a file"),
    ],
)
def test_mistakes_are_told_before_anything_starts(federation: Federations, settings: dict[str, Any], told: str) -> None:
    with pytest.raises(fed.FednnUNetError) as caught:
        fed.train([301, 302], "2d", **settings)
    assert told in str(caught.value)
    assert not federation.jobs


def test_given_plans_and_planning_do_not_go_together(federation: Federations) -> None:
    with pytest.raises(fed.FednnUNetError, match="--asym controls planning"):
        fed.plan([301, 302], asym=True, given_plans="plans.json")
    fed.plan([301, 302], ["2d", "3d_fullres"], given_plans="plans.json")
    (job,) = federation.jobs
    assert job.words[:4] == ["plan_and_preprocess", "301 302", "--plans", "plans.json"]
    assert job.words[job.words.index("-c") :][:3] == ["-c", "2d", "3d_fullres"]


def test_a_rule_of_this_program_is_used_in_this_process_only(federation: Federations) -> None:
    fed.register_aggregation("first_of_all", lambda models, weights: models[0])
    with pytest.raises(fed.FednnUNetError, match="in_process=True"):
        fed.train([301, 302], "2d", aggregation="first_of_all")
    fed.train([301, 302], "2d", aggregation="first_of_all", in_process=True)
    assert federation.in_process[0].coordinator.aggregation == "first_of_all"
    assert parse_run(["train", "301", "2d", "0", "--aggregation", "first_of_all"])


def test_a_run_folder_is_read_as_tables(tmp_path: Path) -> None:
    _write(tmp_path)
    run = fed.Run(tmp_path)
    assert (run.sites, run.is_finished, run.model) == (list(SITES), True, Path("/models/exported"))
    assert (run.plans, run.fingerprint) == (PLANS, {"spacings": []})
    history = run.history()
    assert list(history.columns) == [
        *["fold", "round", "site", "mean_dice", "train_loss", "val_loss", "dice_organ"],
    ]
    assert history["mean_dice"].tolist() == [0.25, 0.25, 0.75, 0.75]
    assert history["val_loss"].isna().all()
    assert run.validation()["label"].tolist() == ["organ", "mean"] * 2
    scores = run.scores()
    assert scores["metric"].tolist() == ["dice", "hd95", "assd"] * 2
    assert set(scores["cases"]) == {3}
    lines = run.curves().axes[0].lines
    assert [line.get_label() for line in lines] == list(SITES)
    assert [list(line.get_ydata()) for line in lines] == [[0.25, 0.75]] * 2
    assert run.write_report().read_text("utf-8").startswith("<!")


def test_a_folder_without_a_run_or_a_curve_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(fed.FednnUNetError, match="is not a run folder"):
        fed.Run(tmp_path)
    _write(tmp_path)
    with pytest.raises(fed.FednnUNetError, match="choose from mean_dice"):
        fed.Run(tmp_path).curves("dice")
    with pytest.raises(fed.FednnUNetError, match="no results of a comparison"):
        fed.Comparison(tmp_path)


def test_folders_are_made_and_named_to_nnunet(tmp_path: Path) -> None:
    script = (
        "import fednnunet as fed, os; print(fed.use_folders('here')); print(os.environ['nnUNet_raw']); "
        "import nnunetv2.paths; fed.use_folders('here'); fed.use_folders('there')"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.split() == [str(tmp_path / "here"), str(tmp_path / "here" / "nnUNet_raw")]
    assert "nnU-Net is imported already, and has other folders" in done.stderr


def test_every_example_of_the_guide_runs(
    federation: Federations, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def compare_methods(settings: Any, console: Any) -> tuple[Any, Path]:
        assert [method.name for method in settings.methods] == ["local", "ffe", "FedBN"]
        for name in ("comparison", "differences"):
            (tmp_path / f"{name}.csv").write_text("method,dice_mean\nffe,0.8\n")
        return None, tmp_path

    monkeypatch.setattr(comparisons, "compare_methods", compare_methods)
    monkeypatch.setattr("fednnunet.use_folders", lambda root: tmp_path / root)  # nnU-Net may be imported here
    (tmp_path / "my_trainers.py").write_text("class ShortTrainer:\n    pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    examples = blocks((DOCS / "api.md").read_text("utf-8"), "python")
    names: dict[str, Any] = {}
    for example in examples:
        exec(example, names)
    assert len(examples) > 7
    assert [job.words[0] for job in federation.jobs] == ["plan_and_preprocess", "train", "evaluate", "train", "train"]
    assert federation.trainers[-1] == str(tmp_path)
    assert "nnUNet_extTrainer" not in os.environ
    assert (tmp_path / "curves.png").is_file()
    assert names["comparison"].table()["dice_mean"].tolist() == [0.8]


def test_the_examples_of_the_docstrings_hold(tmp_path: Path) -> None:
    names = ["api.folders", "api.run", "weights.aggregation", "weights.server_optimizers"]
    script = (
        f"import doctest, importlib; found = [doctest.testmod(importlib.import_module('fednnunet.' + name)) "
        f"for name in {names}]; print(sum(one.failed for one in found), [one.attempted > 0 for one in found])"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "0 [True, True, True, True]\n"
