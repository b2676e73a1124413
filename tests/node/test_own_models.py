"""What a node trains for itself beside the federation's model."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from fednnunet.background import Stopped, Tracker
from fednnunet.node.own_models import train_own_model
from fednnunet.node.own_trainer import OwnTrainer
from fednnunet.protocol.messages import GainReport, GainRequest, OwnModel, OwnTrained, OwnTraining, Schedule
from tests.node.training_node import LABELS, RUN, SIZE, STEP, UNTRAINED, Reply, Trainer, TrainingNode

FEDERATED = 8.0
"""All weights of the federation's final model."""
CASES = {f"case_{number}": {"organ", "lesion"} for number in range(6)}


class _Site(TrainingNode):
    """A node that has finished a federated training, unless it says otherwise."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(folder, monkeypatch, CASES)
        monkeypatch.setenv("nnUNet_results", str(folder / "results"))
        monkeypatch.setenv("nnUNet_preprocessed", str(folder / "preprocessed"))
        self.plans = folder / "preprocessed" / "Dataset001_A" / "nnUNetPlans.json"
        self.plans.parent.mkdir(parents=True)
        configurations = {"2d": {"data_identifier": "data"}}
        self.plans.write_text(
            json.dumps({"plans_name": "nnUNetPlans", "dataset_name": "Dataset001_A", "configurations": configurations})
        )
        monkeypatch.setattr(OwnTrainer, "build", lambda own, device: self._own_trainer(own))
        self.dies_after: int | None = None
        self.federated = self.results("nnUNetPlans")
        self.federated.mkdir(parents=True)
        (self.federated / "federated_run.txt").write_text(RUN)
        weights = {"weight": torch.full((1, SIZE), FEDERATED)}
        torch.save({"network_weights": weights}, self.federated / "checkpoint_final.pth")

    def results(self, plans: str) -> Path:
        return self.folder / "results" / "Dataset001_A" / f"nnUNetTrainer__{plans}__2d" / "fold_0"

    def _own_trainer(self, own: OwnTrainer) -> Trainer:
        self.trainers.append(_OwnTrainer(own.folder, self))
        return self.trainers[-1]

    def train_own(self, model: OwnModel = "personal", epochs: int = 3, run: str = RUN) -> Reply:
        return self.ask("train_own", asked(model, epochs, run).to_json())

    def final(self, model: str) -> float:
        """Return the weights of one of its own models, all of which are the same number."""
        state = torch.load(self.results(f"nnUNetPlans_{model}") / "checkpoint_final.pth", weights_only=True)
        (value,) = state["weight"].unique().tolist()
        return float(value)


class _OwnTrainer(Trainer):
    """Counts epochs as nnU-Net does, and dies in the middle of one if its site says so."""

    def __init__(self, folder: Path, site: _Site) -> None:
        super().__init__(folder, CASES)
        folder.mkdir(parents=True, exist_ok=True)
        self.site = site

    def train_step(self, batch: None) -> dict[str, float]:
        if self.site.dies_after == self.current_epoch:
            raise Stopped
        return super().train_step(batch)

    def on_epoch_end(self) -> None:
        self.current_epoch += 1

    def save_checkpoint(self, path: str) -> None:
        torch.save({**self.network.state_dict(), "epoch": torch.tensor(self.current_epoch + 1)}, path)

    def load_checkpoint(self, path: str) -> None:
        state = torch.load(path, weights_only=True)
        self.current_epoch = int(state.pop("epoch"))
        self.network.load_state_dict(state)

    def on_train_end(self) -> None:
        self.save_checkpoint(str(Path(self.output_folder) / "checkpoint_final.pth"))


def asked(model: OwnModel = "personal", epochs: int = 3, run: str = RUN) -> OwnTraining:
    schedule = Schedule(rounds=epochs, local_epochs=1, iterations_per_epoch=2, val_iterations_per_epoch=1)
    return OwnTraining(fold=0, run=run, model=model, schedule=schedule)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[_Site]:
    site = _Site(tmp_path, monkeypatch)
    yield site
    site.client.close()


def test_a_personal_model_begins_with_the_federations_which_stays_as_it_is(site: _Site) -> None:
    before = (site.federated / "checkpoint_final.pth").read_bytes()
    assert OwnTrained.from_json(str(site.train_own()["body"])) == OwnTrained(epochs=3)
    assert site.final("personal") == FEDERATED + 3 * 2 * STEP
    assert (site.results("nnUNetPlans_personal") / "validation" / "summary.json").is_file()
    assert (site.federated / "checkpoint_final.pth").read_bytes() == before
    assert not (site.results("nnUNetPlans_personal") / "federated").exists()


def test_a_model_that_is_trained_alone_knows_nothing_of_the_federation(site: _Site) -> None:
    site.train_own("alone")
    assert site.final("alone") == UNTRAINED + 3 * 2 * STEP
    site.train_own("alone", run=RUN)
    assert len(site.trainers) == 1  # it is there
    (site.federated / "federated_run.txt").write_text("cd" * 16)
    site.train_own("alone", run="cd" * 16)
    assert len(site.trainers) == 1  # another federation does not change it
    (site.plans.parent / "splits_final.json").write_text("[]")
    site.train_own("alone", run="cd" * 16)
    assert len(site.trainers) == 2  # other cases do


@pytest.mark.parametrize("epoch", range(3))
@pytest.mark.parametrize("is_damaged", [False, True])
def test_a_node_that_dies_goes_on_from_the_last_epoch_that_can_be_read(
    site: _Site, epoch: int, is_damaged: bool
) -> None:
    site.dies_after = epoch
    with pytest.raises(Stopped):
        train_own_model(site.arguments, site.client.dataset, asked(), Tracker())
    assert not (site.results("nnUNetPlans_personal") / "checkpoint_final.pth").exists()
    site.dies_after = None
    if is_damaged and epoch:
        (site.results("nnUNetPlans_personal") / "federated" / f"round_{epoch:06d}.pth").write_bytes(b"half")
    site.trainers.clear()
    site.train_own()
    steps = [trainer.steps for trainer in site.trainers if trainer.steps]
    assert site.final("personal") == FEDERATED + 3 * 2 * STEP
    again = epoch - 1 if is_damaged and epoch else epoch
    assert steps == [2 * (3 - again)]


def test_a_personal_model_of_another_training_is_kept_aside(site: _Site) -> None:
    site.train_own()
    site.train_own()
    assert len(site.trainers) == 1
    site.train_own(epochs=5)
    assert site.final("personal") == FEDERATED + 5 * 2 * STEP
    (aside,) = site.results("nnUNetPlans_personal").parent.glob("until_*_fold_0")
    assert (torch.load(aside / "checkpoint_final.pth", weights_only=True)["weight"] == FEDERATED + 6 * STEP).all()


def test_without_the_federations_model_there_is_no_personal_one_and_the_node_goes_on(
    site: _Site, caplog: pytest.LogCaptureFixture
) -> None:
    could_not = OwnTrained(epochs=None).to_json()
    assert site.train_own(run="cd" * 16)["body"] == could_not
    assert "has not finished" in caplog.messages[-1]
    (site.federated / "checkpoint_final.pth").write_bytes(b"half")
    assert site.train_own()["body"] == could_not
    assert "cannot be read" in caplog.messages[-1]
    (site.federated / "checkpoint_final.pth").unlink()
    assert site.train_own()["body"] == could_not
    assert "has not finished" in caplog.messages[-1]
    assert not site.client.has_left
    assert not site.results("nnUNetPlans_personal").joinpath("checkpoint_final.pth").exists()


def test_a_fold_for_which_the_node_was_not_started_is_not_trained(site: _Site) -> None:
    body = asked().model_copy(update={"fold": 1}).to_json()
    assert "for which this node was not started" in str(site.ask("train_own", body)["failure"])


_DICE = {"": (0.5, 0.6, 0.7), "_personal": (0.75, 0.8, 0.9), "_alone": (0.5, 0.5, 0.75)}


def _write_summaries(site: _Site, **missing: int) -> None:
    (site.plans.parent / "dataset.json").write_text(json.dumps({"labels": LABELS}))
    for own, values in _DICE.items():
        per_case = []
        for number, value in enumerate(values):
            lesion = float("nan") if missing.get(own) == number else value - 0.25
            metrics = {"1": {"Dice": value}, "2": {"Dice": lesion}}
            per_case.append({"metrics": metrics, "prediction_file": f"/somewhere/{own}/patient_{number}.nii.gz"})
        path = site.results(f"nnUNetPlans{own}") / "validation" / "summary.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"metric_per_case": per_case}))


def _gain(site: _Site, *models: OwnModel, run: str = RUN) -> Reply:
    return site.ask("gain", GainRequest(fold=0, run=run, models=list(models)).to_json())


def test_the_coordinator_gets_means_and_the_site_every_case_and_a_sentence(
    site: _Site, caplog: pytest.LogCaptureFixture
) -> None:
    _write_summaries(site, _personal=2)
    with caplog.at_level("INFO"):
        body = str(_gain(site, "personal", "alone")["body"])
    assert "patient" not in body
    report = GainReport.from_json(body)
    organ, lesion = report.labels["organ"], report.labels["lesion"]
    assert (organ.federated, organ.personal, organ.alone, organ.cases) == (0.6, 0.8167, 0.5833, 3)
    assert (lesion.federated, lesion.cases, lesion.fewest) == (0.3, 2, 1)
    assert organ.federated_over_alone is not None
    assert organ.federated_over_alone.mean == 0.0167
    assert report.advice == "personal"
    content = json.loads((site.federated / "federation_gain.json").read_text())
    assert content["dice_by_case"]["alone"]["patient_2.nii.gz"] == {"organ": 0.75, "lesion": 0.5}
    assert content["reason"] in caplog.messages
    assert content["reason"].startswith("Use the personal model")
    text = (site.federated / "federation_gain.md").read_text()
    assert content["reason"] in text
    assert "| organ | 3 | 0.6000 | 0.8167 | 0.5833 | +0.2167 [" in text


def test_a_site_that_would_be_better_off_alone_is_told_so(site: _Site, caplog: pytest.LogCaptureFixture) -> None:
    _write_summaries(site)
    path = site.results("nnUNetPlans_alone") / "validation" / "summary.json"
    path.write_text(site.results("nnUNetPlans_personal").joinpath("validation", "summary.json").read_text())
    assert GainReport.from_json(str(_gain(site, "alone")["body"])).advice == "alone"
    assert [record.levelname for record in caplog.records if "would be better off alone" in record.message] == [
        "WARNING"
    ]


def test_without_a_summary_nothing_is_told_and_the_node_goes_on(site: _Site) -> None:
    _write_summaries(site)
    (site.results("nnUNetPlans_personal") / "validation" / "summary.json").unlink()
    assert _gain(site, "personal")["body"] == GainReport().to_json()
    assert "has not finished" in str(_gain(site, "alone", run="cd" * 16)["failure"])
