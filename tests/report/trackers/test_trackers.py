"""Events as other programs get them: what is read back is what was emitted, once, however often it was continued."""

import importlib.util
import threading
from collections.abc import Mapping
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from fednnunet.errors import FednnUNetError
from fednnunet.events.events import (
    Finished,
    FoldValidated,
    RoundCompleted,
    RoundTiming,
    SitesEvaluated,
    StageStarted,
    Traffic,
)
from fednnunet.protocol.messages import (
    EvaluationReport,
    MetricSummaries,
    MetricSummary,
    RoundReport,
    ValidationReport,
)
from fednnunet.report.trackers import check_trackers, trackers_for
from fednnunet.report.trackers.scalars import scalars
from fednnunet.report.trackers.sink import TrackerSink
from fednnunet.report.trackers.tracker import Opening


def begun(fold: str = "0", first_round: int = 1) -> StageStarted:
    return StageStarted(stage="training", fold=fold, rounds=9, first_round=first_round)


def completed(number: int, dice: float | None = 0.5) -> RoundCompleted:
    return RoundCompleted(
        round=number,
        rounds=9,
        seconds=10.0,
        sites={
            "Hospital A": RoundReport(train_loss=-0.25, val_loss=None, mean_dice=dice, dice={"a/b": 0.75}),
            "B": RoundReport(train_loss=-0.75, val_loss=0.5, mean_dice=1.0, dice={}),
        },
        left_out={"C": "its connection broke"},
        timing=RoundTiming(
            training={"Hospital A": 4.0, "B": 2.0, "C": 99.0},
            validating={"Hospital A": 1.0, "B": 2.0},
            moving=2.0,
            averaging=0.5,
        ),
        traffic={"Hospital A": Traffic(to_site=300, from_site=500)},
    )


VALIDATED = FoldValidated(fold="0", sites={"A": ValidationReport(mean_dice=0.75, dice={"x": 0.5, "y": None})})


def evaluated(fold: str = "0") -> SitesEvaluated:
    nothing = MetricSummary()
    summaries = MetricSummaries(dice=MetricSummary(mean=0.75, cases=5), hd95=MetricSummary(mean=2.5), assd=nothing)
    report = EvaluationReport(labels={"x": summaries}, overall=summaries)
    return SitesEvaluated(fold=fold, checkpoint="checkpoint_final", sites={"A": report})


def follow(folder: Path, *events: object, wandb: str | None = None, mlflow: str | None = None) -> None:
    sink = trackers_for(folder, wandb, mlflow)
    for event in events:
        sink.emit(event)  # type: ignore[arg-type]
    sink.close()


def tensorboard(folder: Path, fold: str = "0") -> dict[str, list[tuple[int, float]]]:
    reader = EventAccumulator(str(folder / "tensorboard" / f"fold_{fold}"))
    reader.Reload()
    return {tag: [(item.step, item.value) for item in reader.Scalars(tag)] for tag in reader.Tags()["scalars"]}


def test_the_numbers_of_a_round_have_names_that_every_tracker_takes_and_the_seconds_add_up() -> None:
    numbers = scalars(completed(3))
    assert numbers == {
        "train_loss/Hospital A": -0.25,
        "train_loss/B": -0.75,
        "mean_of_sites/train_loss": -0.5,
        "val_loss/B": 0.5,
        "mean_of_sites/val_loss": 0.5,
        "pseudo_dice/Hospital A": 0.5,
        "pseudo_dice/B": 1.0,
        "mean_of_sites/pseudo_dice": 0.75,
        "pseudo_dice_of/a_b/Hospital A": 0.75,
        "seconds/round": 10.0,
        "seconds/training": 3.0,
        "seconds/validating": 1.5,
        "seconds/waiting": 1.5,
        "seconds/moving": 2.0,
        "seconds/averaging": 0.5,
        "seconds/other": 1.5,
        "bytes/Hospital A": 800.0,
        "bytes_to_site/Hospital A": 300.0,
        "bytes_from_site/Hospital A": 500.0,
        "sites/taking_part": 2.0,
        "sites/left_out": 1.0,
    }


def test_validation_and_evaluation_are_told_as_far_as_they_are_known() -> None:
    assert scalars(VALIDATED) == {
        "validation_dice/A": 0.75,
        "mean_of_sites/validation_dice": 0.75,
        "validation_dice_of/x/A": 0.5,
    }
    assert scalars(evaluated()) == {
        "test_dice/A": 0.75,
        "mean_of_sites/test_dice": 0.75,
        "test_dice_of/x/A": 0.75,
        "test_hd95/A": 2.5,
        "mean_of_sites/test_hd95": 2.5,
        "test_hd95_of/x/A": 2.5,
    }


@pytest.mark.parametrize(("name", "expected"), [("..", "_"), ("a/../b", "a_.._b"), ("é (x)", "é _x_"), (" ", "_")])
def test_what_a_site_calls_itself_cannot_lead_elsewhere(name: str, expected: str) -> None:
    event = FoldValidated(fold="0", sites={name: ValidationReport(mean_dice=0.5, dice={})})
    assert f"validation_dice/{expected}" in scalars(event)


def test_tensorboard_has_each_round_once_although_the_training_was_continued(tmp_path: Path) -> None:
    follow(tmp_path, begun(), completed(1), completed(2, 0.25), completed(3, 0.25))
    follow(
        tmp_path,
        begun(first_round=2),
        completed(2, 0.75),
        completed(3, 1.0),
        VALIDATED,
        evaluated(),
        Finished(seconds=1),
    )
    curves = tensorboard(tmp_path)
    assert curves["pseudo_dice/Hospital_A"] == [(1, 0.5), (2, 0.75), (3, 1.0)]
    assert curves["seconds/waiting"] == [(1, 1.5), (2, 1.5), (3, 1.5)]
    assert curves["validation_dice/A"] == [(3, 0.75)]
    assert curves["test_hd95/A"] == [(3, 2.5)]


def test_a_training_that_begins_anew_hides_the_one_before_and_folds_have_curves_of_their_own(tmp_path: Path) -> None:
    follow(tmp_path, begun(), completed(1, 0.25), completed(2, 0.25))
    follow(tmp_path, begun(), completed(1, 0.75), begun("1"), completed(1, 1.0), completed(2, 1.0))
    assert tensorboard(tmp_path)["pseudo_dice/Hospital_A"] == [(1, 0.75)]
    assert tensorboard(tmp_path, "1")["pseudo_dice/Hospital_A"] == [(1, 1.0), (2, 1.0)]


def test_an_evaluation_by_itself_leaves_the_curves_of_the_training_alone(tmp_path: Path) -> None:
    follow(tmp_path, begun(), completed(1), completed(2))
    follow(tmp_path, evaluated())
    curves = tensorboard(tmp_path)
    assert [step for step, _ in curves["pseudo_dice/B"]] == [1, 2]
    assert curves["test_dice/A"] == [(0, 0.75)]


class Recorder:
    """A tracker that fails, or hangs, when it is told to."""

    def __init__(self, opening: Opening) -> None:
        self.opening = opening
        self.steps: list[int] = []
        self.fails_at = 0
        self.may_go_on = threading.Event()
        self.may_go_on.set()
        self.is_closed = False

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        assert self.may_go_on.wait(60)
        if step == self.fails_at:
            raise ConnectionError("no route to host")
        self.steps.append(step)

    def close(self) -> None:
        self.is_closed = True


def test_a_tracker_that_fails_is_dropped_with_one_warning_and_others_go_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trackers: dict[str, Recorder] = {}

    def opener(name: str, fails_at: int) -> object:
        def open_it(opening: Opening) -> Recorder:
            trackers[name] = Recorder(opening)
            trackers[name].fails_at = fails_at
            return trackers[name]

        return open_it

    sink = TrackerSink(tmp_path, [("Good", opener("Good", 0)), ("Bad", opener("Bad", 2))])  # type: ignore[list-item]
    for event in (begun(), completed(1), completed(2), completed(3), VALIDATED):
        sink.emit(event)
    sink.close()
    assert trackers["Good"].steps == [1, 2, 3, 3]
    assert trackers["Good"].is_closed
    assert trackers["Bad"].steps == [1]
    assert caplog.messages == [
        "Bad receives no more numbers (ConnectionError: no route to host); the training continues."
    ]


def test_a_tracker_that_hangs_holds_nobody_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("fednnunet.report.trackers.sink.CLOSE_SECONDS", 0.01)
    release = threading.Event()

    def hang(opening: Opening) -> Recorder:
        assert release.wait(60)
        return Recorder(opening)

    sink = TrackerSink(tmp_path, [("Slow", hang)])
    for event in (begun(), completed(1)):
        sink.emit(event)
    sink.close()
    assert caplog.messages == ["Slow did not accept all numbers within 0.01 s; the rest is not sent."]
    release.set()


def test_a_folder_that_cannot_be_written_ends_tensorboard_and_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "tensorboard").touch()
    follow(tmp_path, begun(), completed(1))
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith("TensorBoard receives no more numbers")


@pytest.mark.parametrize(("flag", "words"), [("wandb", ("p", None)), ("mlflow", (None, "e"))])
def test_a_missing_package_is_one_sentence_with_the_remedy(
    flag: str, words: tuple[str | None, str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(FednnUNetError, match=rf"^--{flag} needs .* pip install 'fednnunet\[{flag}\]'\.$"):
        check_trackers(*words)


def test_weights_and_biases_without_a_key_is_told_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb")
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with pytest.raises(FednnUNetError, match="wandb login"):
        check_trackers("project", None)
    monkeypatch.setenv("WANDB_MODE", "offline")
    check_trackers("project", None)


def test_mlflow_has_each_round_once_although_the_training_was_continued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "fold_0").mkdir()
    follow(tmp_path, begun(), completed(1), completed(2), mlflow="hospitals")
    follow(tmp_path, begun(first_round=2), completed(2), completed(3, None), VALIDATED, mlflow="hospitals")
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("hospitals")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    history = client.get_metric_history(run.info.run_id, "pseudo_dice/B")
    assert [(item.step, item.value) for item in history] == [(1, 1.0), (2, 1.0), (3, 1.0)]
    assert [item.step for item in client.get_metric_history(run.info.run_id, "pseudo_dice/Hospital A")] == [1, 2]
    assert run.data.metrics["validation_dice/A"] == 0.75
    assert run.info.status == "FINISHED"
    assert set(run.data.tags) == {"mlflow.runName"}  # nothing of machine, user or code
