"""A whole training in one process: real coordinator, gates and nodes, and trainers that take no time."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from flwr.client import Client
from flwr.common import EvaluateIns, EvaluateRes, FitIns, FitRes, GetPropertiesIns, GetPropertiesRes

from fednnunet.cli.arguments import parse_server
from fednnunet.coordinator.federation import Federation
from fednnunet.coordinator.run_folder import FoldFolder
from fednnunet.launcher.turns import InProcessNode
from fednnunet.node import rounds
from fednnunet.node.dataset import SiteDataset
from fednnunet.node.training import TrainingClient
from fednnunet.privacy.approval import Approver
from fednnunet.privacy.audit import AuditLog
from fednnunet.privacy.gate import Gate
from fednnunet.privacy.policy import Policy
from fednnunet.protocol.conversation import NO_CERTIFICATE, Answer, Question
from fednnunet.protocol.messages import Hello
from fednnunet.secure_aggregation.attempts import Rules
from fednnunet.security.authentication import Authenticator
from fednnunet.security.identity import Identity, SiteList
from fednnunet.settings.node import TrainingSettings
from fednnunet.transport.connection import NO_PARAMETERS
from tests.coordinator.fake_node import OK
from tests.coordinator.training_federation import Events
from tests.node.training_node import DICE, LABELS, Trainer, TrainingLog
from tests.secure_aggregation.sites import identities, site_list

CASES = {"A": 20, "B": 10, "C": 5}
FLAGS = ("--iterations_per_epoch", "1", "--val_iterations_per_epoch", "1")


def network(outputs: int = 3) -> torch.nn.Module:
    """More weights than a block of ranges has, some of them zeros at first.

    They are drawn without torch's own generator, which all nodes of this process seed.
    """
    layers = torch.nn.Sequential(torch.nn.Linear(40, 20), torch.nn.Linear(20, outputs))
    random = torch.Generator().manual_seed(outputs)
    with torch.no_grad():
        for parameter in layers.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=random) / 10)
        layers[0].bias.zero_()
    return layers


class NoisyTrainer(Trainer):
    """Learns something else at every site and in every round, but the same whenever it is asked."""

    def __init__(self, folder: Path, site: str, outputs: int, cases: int) -> None:
        super().__init__(folder, {f"val_{number}": {"organ", "lesion"} for number in range(6)})
        Path(folder).mkdir(parents=True, exist_ok=True)
        self.site, self.cases = site, cases
        self.network = network(outputs)
        self.optimizer = torch.optim.SGD(self.network.parameters(), lr=0.1, momentum=0.9)
        self.broken: Callable[[int], bool] = lambda epoch: False

    def do_split(self) -> tuple[list[str], list[str]]:
        return [f"train_{number}" for number in range(self.cases)], list(self.validation)

    def train_step(self, batch: None) -> dict[str, float]:
        self.steps += 1
        random = torch.Generator().manual_seed(self.current_epoch * 100 + ord(self.site[0]))
        self.optimizer.zero_grad()
        for parameter in self.network.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=random) / 10
            if self.broken(self.current_epoch):
                parameter.grad *= np.nan
        self.optimizer.step()
        return {"loss": 0.25}

    def save_checkpoint(self, path: str) -> None:
        state = {"network": self.network.state_dict(), "optimizer": self.optimizer.state_dict()}
        torch.save({**state, "epoch": self.current_epoch + 1}, path)

    def load_checkpoint(self, path: str) -> None:
        state = torch.load(path, weights_only=True)
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.current_epoch = state["epoch"]

    def on_epoch_end(self) -> None:
        self.current_epoch += 1


class _Log(TrainingLog):
    """The log of a site whose Dice is another one than elsewhere."""

    def __init__(self, dice: float) -> None:
        super().__init__()
        self._dice = dice

    def get_value(self, name: str, step: int) -> object:
        dice = {"mean_fg_dice": self._dice, "dice_per_class_or_region": [self._dice] * len(DICE)}
        return dice[name] if name in dice else super().get_value(name, step)


class Node(InProcessNode):
    """A node, and what its coordinator, or somebody between them, does with its questions.

    Attributes
    ----------
    instead
        Called with each question and what would answer it; returns the answer.
    seen
        All questions, and the answers that left.
    """

    def __init__(self, site: str, client: Client) -> None:
        super().__init__(site, client)
        self.cid = f"{site} {id(self)}"  # of a connection, not of a site
        self.seen: list[tuple[Question, Answer]] = []
        self.instead: Callable[[Question, Callable[[Question], Answer]], Answer] = lambda asked, ask: ask(asked)

    def ask(self, question: Question) -> Answer:
        """Ask the node itself."""
        return Answer.from_config(super().get_properties(GetPropertiesIns(question.to_config()), None, None).properties)

    def get_properties(self, ins: GetPropertiesIns, timeout: float | None, group_id: int | None) -> GetPropertiesRes:
        def ask(question: Question) -> Answer:
            reply = super(Node, self).get_properties(GetPropertiesIns(question.to_config()), timeout, group_id)
            return Answer.from_config(reply.properties)

        question = Question.from_config(ins.config)
        if question.kind == "describe":  # these trainers have no network that could be exported
            return GetPropertiesRes(OK, Answer(failure="the site's policy does not allow this message").to_config())
        answer = self.instead(question, ask)
        self.seen.append((question, answer))
        return GetPropertiesRes(OK, answer.to_config())

    def fit(self, ins: FitIns, timeout: float | None, group_id: int | None) -> FitRes:
        reply = self.get_properties(GetPropertiesIns(ins.config), timeout, group_id)
        return FitRes(OK, NO_PARAMETERS, 1, reply.properties)

    def evaluate(self, ins: EvaluateIns, timeout: float | None, group_id: int | None) -> EvaluateRes:
        reply = self.get_properties(GetPropertiesIns(ins.config), timeout, group_id)
        return EvaluateRes(OK, 0.0, 1, reply.properties)


class Sites:
    """Hospitals, with what stays on their disks whatever happens to their nodes."""

    def __init__(
        self,
        folder: Path,
        monkeypatch: pytest.MonkeyPatch,
        cases: Mapping[str, int] = CASES,
        outputs: Mapping[str, int] | None = None,
        policies: Mapping[str, Policy] | None = None,
    ) -> None:
        self.folder, self.cases = folder, cases
        self.keys: dict[str, Identity] = identities(list(cases))
        self.list: SiteList = site_list(self.keys)
        self.rules = {site: Rules(self.list) for site in cases}
        self.outputs = outputs or {}
        self.policies = policies or {}
        self.dice: dict[str, float] = {}
        self.logs: dict[str, AuditLog] = {}
        self.trainers: dict[str, list[NoisyTrainer]] = {site: [] for site in cases}
        monkeypatch.setattr(rounds, "get_trainer_from_args", self._trainer)
        monkeypatch.setattr(rounds, "maybe_load_checkpoint", lambda *_: None)
        monkeypatch.setattr(rounds, "check_hooks", lambda *_: None)

    def _trainer(self, dataset: str, *_: object) -> NoisyTrainer:
        site = dataset.rpartition("_")[2]
        outputs = self.outputs.get(site, 3)
        self.trainers[site].append(NoisyTrainer(self.folder / site, site, outputs, self.cases[site]))
        if site in self.dice:
            self.trainers[site][-1].logger = _Log(self.dice[site])
        return self.trainers[site][-1]

    def node(self, site: str, *, secure: bool = True, seed: int | None = 1) -> Node:
        """Start the node of a site."""
        settings = TrainingSettings(task="train", dataset="1", configuration="2d", fold="0", device="cpu", seed=seed)
        hello = Hello(
            site=site,
            instance=f"{site} {len(self.trainers[site])}",
            task="train",
            method="AsymFedAvg" if self.outputs else "FFE",
            fold="0",
            cases=self.cases[site],
            versions={},
            labels=LABELS,
            channels={"0": "CT"},
            sites_digest=self.list.digest if secure else None,
        )
        client = TrainingClient(
            settings,
            SiteDataset(f"Dataset001_{site}"),
            hello,
            identity=self.keys[site],
            rules=self.rules[site] if secure else None,
        )
        if site not in self.logs:
            self.logs[site] = AuditLog(self.folder / site / "audit.jsonl", site, "train")
        client.gate = Gate(
            client, self.policies.get(site, Policy()), self.logs[site], Approver(self.folder / site / "waiting")
        )
        return Node(site, client.to_client())

    def log(self, site: str) -> str:
        """The audit log of a site."""
        return (self.folder / site / "audit.jsonl").read_text()


def kill(node: Node) -> None:
    """Let a node vanish, as far as others can see."""

    def gone(question: Question, ask: Callable[[Question], Answer]) -> Answer:
        raise ConnectionError

    node.instead = gone
    manager = node._manager
    assert manager is not None
    manager.unregister(node)


def run(run_dir: Path, sites: Sequence[Node], listed: SiteList | None, *flags: str) -> tuple[Federation, Events]:
    """Let nodes join a coordinator, and run it to its end."""
    federation, events = begin(run_dir, sites, listed, *flags)
    with mock.patch("fednnunet.coordinator.federation._LINGER_SECONDS", 0.0):
        federation.run()
    return federation, events


def begin(run_dir: Path, nodes: Sequence[Node], listed: SiteList | None, *flags: str) -> tuple[Federation, Events]:
    """Let nodes join a coordinator."""
    events = Events()
    words = ["train", "0", "--num_clients", str(len(nodes)), "--run_dir", str(run_dir), "--rounds", "3", *FLAGS, *flags]
    settings = replace(parse_server(words).coordinator, secure=listed is not None)
    federation = Federation(settings, events, Authenticator(listed, NO_CERTIFICATE))
    for node in nodes:
        node.join(federation.registry)
    return federation, events


def model(run_dir: Path, number: int = 3) -> dict[str, np.ndarray]:
    """The global model after a round, and all that goes with it."""
    completed, state = FoldFolder(run_dir / "fold_0").last_model(number)
    assert completed == number
    return state
