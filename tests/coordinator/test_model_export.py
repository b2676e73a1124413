"""The files that the coordinator writes: nnU-Net's own, with the weights that were averaged."""

import errno
import json
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.common import EvaluateIns, EvaluateRes, FitIns, FitRes, Scalar

from fednnunet.coordinator.agreement import FoldContext, other_flags
from fednnunet.coordinator.common_model import CommonModel, common_model
from fednnunet.coordinator.exchange import Averaging
from fednnunet.coordinator.model_export import export_model
from fednnunet.coordinator.registry import ClientRegistry
from fednnunet.coordinator.rounds import RoundServer
from fednnunet.coordinator.run_folder import FoldFolder, RunDescription, RunFolderError, SharedTensors
from fednnunet.coordinator.training import train_fold
from fednnunet.events.events import Event, ModelExported, PlansAgreed, StageStarted
from fednnunet.folds import Fold
from fednnunet.protocol.messages import Ready, RoundReport, Schedule, ValidationReport
from fednnunet.settings.coordinator import CoordinatorSettings
from fednnunet.transport.connection import NO_PARAMETERS
from fednnunet.weights.layout import Layout
from fednnunet.weights.packing import pack
from tests.coordinator.example_model import LAYOUT, NORMALIZATION, STATE, WEIGHTS, description, hello, network
from tests.coordinator.fake_node import OK
from tests.coordinator.test_exchange import Holder
from tests.fingerprint.example_plans import FINGERPRINT, PLANS

NAME, MODEL = "Dataset999_FedNNUNet", "nnUNetTrainer__nnUNetPlans__2d"
EXACT = Averaging("float32", "mean", "none", None)


def _describe(run_dir: Path, fold: Fold, *, finished: bool, **changes: Any) -> CommonModel:
    """Keep a training of a fold, and its model."""
    folder = FoldFolder.of(run_dir, fold)
    folder.begin(
        RunDescription(
            run="one",
            fold=fold,
            sites={"A": 1},
            plans={"A": None},
            schedule=Schedule(rounds=1, local_epochs=1, iterations_per_epoch=1, val_iterations_per_epoch=1),
            averaging=EXACT,
            flags={},
            shared=[SharedTensors(sites=["A"], tensors=list(LAYOUT.tensors))],
            finished=finished,
        )
    )
    model = common_model(description(), [hello()], LAYOUT).model_copy(update=changes)
    folder.keep_common_model(model)
    return model


def _export(run_dir: Path, fold: Fold, weights: np.ndarray = WEIGHTS) -> ModelExported:
    exported = export_model(run_dir, fold, weights, LAYOUT, 4, NAME)
    assert exported is not None
    return exported


def _checkpoint(run_dir: Path, fold: Fold) -> dict[str, Any]:
    path = run_dir / "nnUNet_results" / NAME / MODEL / f"fold_{fold}" / "checkpoint_final.pth"
    return torch.load(path, weights_only=False)  # our own file


def test_the_checkpoint_has_the_averaged_weights_under_all_of_their_names_in_order(tmp_path: Path) -> None:
    _describe(tmp_path, 0, finished=False)
    _export(tmp_path, 0)
    checkpoint = _checkpoint(tmp_path, 0)
    state = checkpoint["network_weights"]
    assert list(state) == list(STATE)
    assert len(LAYOUT.tensors) < len(state)  # aliases
    for name, tensor in STATE.items():
        assert state[name].dtype == tensor.dtype
        assert torch.equal(state[name], tensor), name
    assert any(name.endswith("num_batches_tracked") for name in state)
    network().load_state_dict(state)
    assert checkpoint["trainer_name"] == "nnUNetTrainer"
    assert checkpoint["init_args"]["configuration"] == "2d"
    assert checkpoint["init_args"]["plans"] == {**PLANS, "dataset_name": NAME}
    assert checkpoint["inference_allowed_mirroring_axes"] == (0, 1)
    assert checkpoint["current_epoch"] == 4


def test_the_files_beside_it_are_those_of_nnunet(tmp_path: Path) -> None:
    model = _describe(tmp_path, "all", finished=False)
    exported = _export(tmp_path, "all")
    folder = Path(exported.folder)
    assert folder == tmp_path / "nnUNet_results" / NAME / MODEL
    assert sorted(path.name for path in folder.iterdir()) == [
        "dataset.json", "dataset_fingerprint.json", "fold_all", "plans.json"
    ]  # fmt: skip
    content = {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}
    assert content["plans"] == {**PLANS, "dataset_name": NAME}
    assert content["dataset_fingerprint"] == FINGERPRINT
    assert content["dataset"] == {**model.dataset, "numTraining": 7}
    with zipfile.ZipFile(exported.archive) as archive:
        assert archive.testzip() is None
        assert sorted(archive.namelist()) == sorted(
            f"{NAME}/{MODEL}/{name}"
            for name in ("plans.json", "dataset.json", "dataset_fingerprint.json", "fold_all/checkpoint_final.pth")
        )


def test_without_a_common_fingerprint_there_is_none_in_the_archive(tmp_path: Path) -> None:
    _describe(tmp_path, 0, finished=False)
    _export(tmp_path, 0)
    _describe(tmp_path, 0, finished=False, fingerprint=None)
    with zipfile.ZipFile(_export(tmp_path, 0).archive) as archive:
        assert not [name for name in archive.namelist() if "fingerprint" in name]


def _finish(run_dir: Path, fold: Fold, value: float = 0, **changes: Any) -> ModelExported:
    _describe(run_dir, fold, finished=False, **changes)
    exported = _export(run_dir, fold, WEIGHTS + np.float32(value))
    _describe(run_dir, fold, finished=True, **changes)
    return exported


def test_each_fold_joins_those_that_are_finished(tmp_path: Path) -> None:
    for fold in range(4):
        assert _finish(tmp_path, fold, fold).folds == [str(number) for number in range(fold + 1)]
    exported = _finish(tmp_path, 1, 10)  # trained once more
    assert exported.folds == ["0", "1", "2", "3"]
    name = LAYOUT.tensors[0].name
    assert [_checkpoint(tmp_path, fold)["network_weights"][name].flatten()[0].item() for fold in range(4)] == [
        pytest.approx(float(WEIGHTS[0] + np.float32(value))) for value in (0, 10, 2, 3)
    ]
    with zipfile.ZipFile(exported.archive) as archive:
        checkpoints = [entry for entry in archive.namelist() if entry.endswith("checkpoint_final.pth")]
        assert len(checkpoints) == 4
        for fold in range(4):
            written = Path(exported.folder) / f"fold_{fold}" / "checkpoint_final.pth"
            assert archive.read(f"{NAME}/{MODEL}/fold_{fold}/checkpoint_final.pth") == written.read_bytes()


def test_folds_that_are_being_trained_anew_or_of_another_model_are_left_out_and_kept_aside(tmp_path: Path) -> None:
    for fold in range(3):
        _finish(tmp_path, fold)
    _describe(tmp_path, 0, finished=False)  # begun anew
    _describe(tmp_path, 1, finished=True, mirroring_axes=None)
    exported = _finish(tmp_path, 3)
    assert exported.folds == ["2", "3"]
    folder = Path(exported.folder)
    assert sorted(path.name for path in folder.glob("fold_*")) == ["fold_2", "fold_3"]
    assert len(list(folder.glob("until_*_fold_*/checkpoint_final.pth"))) == 2


def test_a_disk_that_is_full_leaves_the_last_archive_and_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = Path(_finish(tmp_path, 0).archive).read_bytes()

    def fail(number: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    _describe(tmp_path, 1, finished=False)
    with monkeypatch.context() as full:
        full.setattr("os.fsync", fail)
        with pytest.raises(RunFolderError, match=r"No space left on device.*start the coordinator again with --c"):
            _export(tmp_path, 1)
        full.undo()
        full.setattr("torch.save", lambda *_: (_ for _ in ()).throw(RuntimeError("unexpected pos 64 vs 0")))
        with pytest.raises(RunFolderError, match=r"unexpected pos.*start the coordinator again with --c"):
            _export(tmp_path, 1)
    assert (tmp_path / f"{NAME}.zip").read_bytes() == before
    assert not list(tmp_path.rglob("*.tmp"))
    assert _export(tmp_path, 1).folds == ["0", "1"]


class _Trainer(Holder):
    """A site that trains the U-Net."""

    describes = True
    refuses = False

    def __init__(self, site: str, layout: Layout, learns: np.ndarray) -> None:
        super().__init__(site, layout, 0)
        self.learns = learns

    def fit(self, ins: FitIns, timeout: float | None, group_id: int | None) -> FitRes:
        self.model.hold(self.learns)
        return FitRes(OK, NO_PARAMETERS, 1, {})

    def evaluate(self, ins: EvaluateIns, timeout: float | None, group_id: int | None) -> EvaluateRes:
        report = RoundReport(train_loss=0, val_loss=0, mean_dice=0, dice={})
        return EvaluateRes(OK, 0.0, 1, {"body": report.to_json()})

    def respond(self, kind: str, body: str, data: bytes) -> dict[str, Scalar]:
        if kind == "collect" and self.refuses:
            return {"failure": "the policy says no"}
        answers = {
            "start": Ready(tensors=list(LAYOUT.tensors), training_cases=3, pretrained=False),
            "describe": description(),
            "finish": ValidationReport(mean_dice=0, dice={}),
        }
        return {"body": answers[kind].to_json()} if kind in answers else super().respond(kind, body, data)


class _Training:
    """A training of one round by two sites, which is kept in `path` already."""

    def __init__(self, path: Path, keep_local: str | None = None, refuses: str | None = None, **changes: Any) -> None:
        self.events: list[Event] = []
        self.path = path
        settings = CoordinatorSettings(
            task="train",
            num_clients=2,
            encoding="float32",
            optimizer_state="local",
            resume=True,
            keep_local=keep_local,
            model_name="Dataset007_Ours",
        )
        stays = set(NORMALIZATION if keep_local == "norm" else ())
        shared, at_end = (
            Layout(tuple(tensor for tensor in LAYOUT.tensors if (tensor.name in stays) == at_end))
            for at_end in (False, True)
        )
        kept = FoldFolder.of(path, 0)
        kept.begin(
            RunDescription(
                run="one",
                fold=0,
                sites={"A": 1, "B": 1},
                plans={site: hello().plans_digest for site in "AB"},
                schedule=Schedule(rounds=1, local_epochs=1, iterations_per_epoch=1, val_iterations_per_epoch=1),
                averaging=EXACT,
                flags=other_flags(settings),
                shared=[SharedTensors(sites=["A", "B"], tensors=list(shared.tensors))],
                at_end=list(at_end.tensors),
            )
        )
        first = pack(STATE, shared)
        kept.keep_model(0, {"0.weights": first})
        self.nodes = [_Trainer(site, LAYOUT, first * 2) for site in "AB"]
        for node, value in zip(self.nodes, (1, 2), strict=True):
            node.kept = np.full(at_end.size, value, np.float32)
            node.refuses = node.cid == refuses
        registry = ClientRegistry(2)
        for node in self.nodes:
            registry.register(node)
            registry.admit(node, hello(node.cid, **changes))
        context = FoldContext(0, settings, path, 2, registry, self)
        train_fold(
            context,
            lambda strategy, last: RoundServer(registry, strategy, lambda: None).fit(last, None),
        )

    def emit(self, event: Event) -> None:
        self.events.append(event)

    def told(self, kind: type[Event]) -> list[Event]:
        return [event for event in self.events if isinstance(event, kind)]


def test_a_training_that_is_continued_asks_what_it_does_not_know_and_exports_before_it_is_finished(
    tmp_path: Path,
) -> None:
    training = _Training(tmp_path)
    started = StageStarted(stage="training", fold="0", rounds=1, first_round=1)
    assert training.told(StageStarted) == [started, StageStarted(stage="validating", fold="0")]
    (agreed,) = training.told(PlansAgreed)
    assert agreed == PlansAgreed(fingerprint=FINGERPRINT, plans={**PLANS, "dataset_name": "Federation"})
    (exported,) = training.told(ModelExported)
    assert isinstance(exported, ModelExported)
    assert exported.archive == str(tmp_path / "Dataset007_Ours.zip")
    path = Path(exported.folder) / "fold_0" / "checkpoint_final.pth"
    state = torch.load(path, weights_only=False)["network_weights"]
    for name, tensor in STATE.items():
        assert torch.equal(state[name], tensor * 2 if tensor.is_floating_point() else tensor), name
    description_of_run = FoldFolder.of(tmp_path, 0).description()
    assert description_of_run is not None
    assert description_of_run.finished


def test_layers_of_normalization_that_stay_at_the_sites_are_averaged_for_the_exported_model(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    training = _Training(tmp_path, "norm")
    (exported,) = training.told(ModelExported)
    assert isinstance(exported, ModelExported)
    assert "may segment nothing" in str(exported.caution)
    state = torch.load(Path(exported.folder) / "fold_0" / "checkpoint_final.pth", weights_only=False)["network_weights"]
    names = set(NORMALIZATION)
    assert {name.rpartition(".")[2] for name in names} == {"weight", "bias", "running_mean", "running_var"}
    for tensor in LAYOUT.tensors:
        expected = torch.full(tensor.shape, 1.5) if tensor.name in names else STATE[tensor.name] * 2
        assert torch.equal(state[tensor.name], expected), tensor.name
    network().load_state_dict(state)
    # a site that does not send its layers does not stop the others
    _Training(tmp_path / "again", "norm", refuses="B")
    assert "excludes the normalization of site B: the policy says no" in caplog.text
    path = next((tmp_path / "again").rglob("checkpoint_final.pth"))
    assert (torch.load(path, weights_only=False)["network_weights"][NORMALIZATION[0]] == 1).all()


@pytest.mark.parametrize(
    ("keep_local", "changes", "reason"),
    [(None, {"method": "AsymFedAvg"}, "each site planned for itself"), ("seg", {}, "--keep_local 'seg' leaves a part")],
)
def test_where_sites_have_no_model_in_common_that_is_said_and_nothing_asked_or_written(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    keep_local: str | None,
    changes: dict[str, Any],
    reason: str,
) -> None:
    with caplog.at_level("INFO"):
        training = _Training(tmp_path, keep_local, **changes)
    (said,) = [message for message in caplog.messages if "no model in common" in message]
    assert reason in said
    assert training.told(ModelExported) + training.told(PlansAgreed) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fold_0"]


def test_where_the_policies_let_no_site_tell_training_goes_on_without_the_model(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_Trainer, "describes", False)
    training = _Training(tmp_path)
    assert len([message for message in caplog.messages if "without a description of the network" in message]) == 1
    assert training.told(ModelExported) == []
    assert (tmp_path / "fold_0" / "history.jsonl").is_file()
