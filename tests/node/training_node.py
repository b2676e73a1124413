"""A node of the task ``train`` whose trainer does in no time what nnU-Net's does in hours."""

import json
import pickle
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from fednnunet.node import rounds
from fednnunet.node.dataset import SiteDataset
from fednnunet.node.training import TrainingClient
from fednnunet.protocol.conversation import Config, Question
from fednnunet.protocol.messages import Hello, ModelPart, RoundRequest, Schedule, Sharing, Start
from fednnunet.settings.node import TrainingSettings

Reply = Config
RUN = "ab" * 16
TENSOR, SIZE = "weight", 6
UNTRAINED, STEP = 1.0, 1.0
"""All weights at first, and what each training step adds to them."""
LABELS = {"background": 0, "organ": 1, "lesion": 2}
LOSS, DICE = 0.25, {"organ": 0.875, "lesion": 0.5}


class TrainingLog:
    """nnU-Net's log, as far as a node reads it."""

    def __init__(self) -> None:
        self._values: dict[str, list[Any]] = {}

    def get_checkpoint(self) -> dict[str, list[Any]]:
        return self._values

    def load_checkpoint(self, values: dict[str, list[Any]]) -> None:
        self._values = values

    def get_value(self, name: str, step: int) -> Any:
        per_label = list(DICE.values())
        return {"mean_fg_dice": sum(per_label) / 2, "dice_per_class_or_region": per_label}.get(name, LOSS)


class Trainer:
    """What the node asks of an ``nnUNetTrainer``.

    Parameters
    ----------
    folder
        nnU-Net's folder of the fold.
    validation
        Identifiers of the validation cases, with the labels that each has.
    """

    def __init__(self, folder: Path, validation: dict[str, set[str]]) -> None:
        self.output_folder = str(folder)
        self.validation = validation
        self.dataset_json: dict[str, Any] = {"labels": LABELS}
        self.label_manager = SimpleNamespace(has_regions=False, foreground_labels=[1, 2])
        self.network = torch.nn.Linear(SIZE, 1, bias=False)
        torch.nn.init.constant_(self.network.weight, UNTRAINED)
        self.optimizer = torch.optim.SGD(self.network.parameters(), lr=0.1, momentum=0.9)
        self.logger = TrainingLog()
        self.num_epochs, self.num_iterations_per_epoch, self.num_val_iterations_per_epoch = 1000, 250, 50
        self.current_epoch, self.batch_size = 0, 2
        self.disable_checkpointing = False
        self.hooks: list[str] = []
        self.steps = self.validations = self.full_validations = 0
        self.preprocessed_dataset_folder = str(folder / "cases")
        for case, has in validation.items():
            path = folder / "cases" / f"{case}.pkl"
            path.parent.mkdir(parents=True, exist_ok=True)
            found = {LABELS[label]: [[0, 1, 2, 3]] if label in has else [] for label in DICE}
            path.write_bytes(pickle.dumps({"class_locations": found}))
        self.dataloader_train = self.dataloader_val = iter(lambda: None, "never")

    def train_step(self, batch: None) -> dict[str, float]:
        self.steps += 1
        with torch.no_grad():
            self.network.weight += STEP
        return {"loss": LOSS}

    def validation_step(self, batch: None) -> dict[str, float]:
        self.validations += 1
        return {"loss": LOSS}

    def do_split(self) -> tuple[list[str], list[str]]:
        return [f"train_{number}" for number in range(20)], list(self.validation)

    def save_checkpoint(self, path: str) -> None:
        torch.save(self.network.state_dict(), path)

    def load_checkpoint(self, path: str) -> None:
        self.network.load_state_dict(torch.load(path, weights_only=True))

    def perform_actual_validation(self, save_probabilities: bool) -> None:
        self.full_validations += 1
        per_case = []
        for has in self.validation.values():
            dice = {label: value if label in has else float("nan") for label, value in DICE.items()}
            per_case.append({"metrics": {str(LABELS[label]): {"Dice": value} for label, value in dice.items()}})
        mean = {str(LABELS[label]): {"Dice": value} for label, value in DICE.items()}
        summary = {"metric_per_case": per_case, "mean": mean, "foreground_mean": {"Dice": sum(DICE.values()) / 2}}
        path = Path(self.output_folder) / "validation" / "summary.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(summary))

    def __getattr__(self, name: str) -> Any:
        """Do nothing in nnU-Net's other hooks but note them."""
        if not name.startswith("on_"):
            raise AttributeError(name)
        return lambda *_: self.hooks.append(name)


class TrainingNode:
    """The node, and the questions of its coordinator."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, validation: dict[str, set[str]]) -> None:
        self.folder, self.validation = folder, validation
        self.trainers: list[Trainer] = []
        monkeypatch.setattr(rounds, "get_trainer_from_args", self._trainer)
        monkeypatch.setattr(rounds, "maybe_load_checkpoint", lambda *_: None)
        monkeypatch.setattr(rounds, "check_hooks", lambda *_: None)  # which are those of nnU-Net's classes only
        arguments = TrainingSettings(task="train", dataset="1", configuration="2d", fold="0", device="cpu")
        hello = Hello(
            site="A", task="train", method="FFE", fold="0", cases=25, versions={}, labels=LABELS, channels={"0": "CT"}
        )
        self.client = TrainingClient(arguments, SiteDataset("Dataset001_A"), hello)
        self.questions = 0

    @property
    def arguments(self) -> TrainingSettings:
        """The node's settings."""
        return self.client.arguments

    def change(self, **settings: Any) -> None:
        """Give the node other settings."""
        self.client.arguments = replace(self.arguments, **settings)

    def _trainer(self, *_: Any) -> Trainer:
        self.trainers.append(Trainer(self.folder, self.validation))
        return self.trainers[-1]

    def ask(self, kind: str, body: str = "{}", data: bytes = b"") -> Reply:
        """Ask a new question, until the answer is there."""
        self.questions += 1
        number = json.loads(body).get("round") if body.startswith("{") else None
        question = Question(kind, body, data, str(self.questions), number if isinstance(number, int) else None)
        while (answer := self.client.gate.answer(question)).pending is not None:
            pass
        return answer.to_config()

    def fit(self, number: int) -> Reply:
        """Let it train a round."""
        return self.ask("fit", RoundRequest(round=number).to_json())

    def evaluate(self, number: int) -> Reply:
        """Let it validate a round."""
        return self.ask("evaluate", RoundRequest(round=number).to_json())

    def start(self, completed: int = 0, run: str = RUN, val_iterations: int = 50, local_epochs: int = 1) -> Reply:
        """Let it get ready."""
        schedule = Schedule(
            rounds=30,
            local_epochs=local_epochs,
            iterations_per_epoch=1,
            val_iterations_per_epoch=val_iterations,
            save_every=1000,
        )
        return self.ask("start", Start(fold=0, schedule=schedule, run=run, completed=completed).to_json())

    def share(self, at_end: bool = False) -> Reply:
        """Tell it what is shared: everything or, `at_end`, nothing but for its mean after the last round."""
        groups = {"groups": [], "at_end": [TENSOR]} if at_end else {"groups": [[TENSOR]]}
        return self.ask("share", Sharing.of(**groups, encoding="float32").to_json())

    def collect(self, number: int) -> Reply:
        """Ask for what stays at the site."""
        return self.ask("collect", ModelPart(round=number, group=0, start=0, stop=SIZE).to_json())

    def fetch(self, number: int) -> Reply:
        """Ask for the update of a round."""
        return self.ask("fetch", ModelPart(round=number, group=0, start=0, stop=SIZE).to_json())

    def hand(self, number: int, weights: bytes) -> Reply:
        """Give it a model."""
        return self.ask("hand", ModelPart(round=number, group=0, start=0, stop=SIZE).to_json(), weights)

    def begin(self, completed: int = 0) -> None:
        """Bring it to where it can train."""
        for reply in (self.start(completed), self.share(), self.hand(0, bytes(4 * SIZE))):
            assert "failure" not in reply
        self.ask("accept", json.dumps({"round": completed}))
