"""Trainings of which the coordinator sees sums of updates only."""

import json
import os
import shutil
import signal
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fednnunet.coordinator.federation import Federation
from fednnunet.coordinator.run_folder import CanGoOnError, FoldFolder
from fednnunet.errors import FednnUNetError
from fednnunet.events.events import FoldValidated
from fednnunet.node.openings import Openings
from fednnunet.privacy.policy import Policy
from fednnunet.protocol.conversation import Answer, Question
from fednnunet.protocol.messages import ModelPart
from fednnunet.protocol.secure_aggregation import Joined, SignedKeys, Statement, SumRequest
from fednnunet.secure_aggregation.attempts import Attempt, FigureRules, Rules
from fednnunet.weights.fixed_point import FixedPoint
from tests.coordinator.training_federation import Events
from tests.node.training_node import DICE, LOSS
from tests.secure_aggregation.masked_federation import CASES, Node, Sites, model, run

MEAN_DICE = sum(DICE.values()) / len(DICE)
STEPS = ("agree", "join", "fetch", "open")
Ask = Callable[[Question], Answer]


def _train(folder: Path, monkeypatch: pytest.MonkeyPatch, *flags: str, secure: bool = True) -> dict[str, np.ndarray]:
    """Return the last global model of a training that nothing disturbs."""
    sites = Sites(folder / "sites", monkeypatch)
    nodes = [sites.node(site, secure=secure) for site in sites.cases]
    federation, events = run(folder / "run", nodes, sites.list if secure else None, *flags)
    assert federation.error is None
    assert not events.left_out
    return model(folder / "run")


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for nodes that do not come back no longer than this."""
    monkeypatch.setattr("fednnunet.coordinator.site.RETURN_WITHIN_SECONDS", 0.5)
    monkeypatch.setattr("fednnunet.coordinator.participation._LOOK_EVERY_SECONDS", 0.1)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    """The last global model of a masked training with 16 bits that nothing disturbs."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        return _train(tmp_path_factory.mktemp("undisturbed"), monkeypatch)


@pytest.mark.parametrize(
    ("flags", "tolerance"),
    [
        (("--encoding", "float32"), 1e-6),
        (("--encoding", "float32", "--weighting", "uniform", "--optimizer_state", "local"), 1e-6),
        (("--encoding", "float32", "--server_optimizer", "momentum"), 1e-6),
        (("--encoding", "float16"), 1e-3),
        (("--encoding", "int8"), 1e-2),
    ],
)
def test_the_global_model_is_that_of_plain_updates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: tuple[str, ...], tolerance: float
) -> None:
    plain = _train(tmp_path / "plain", monkeypatch, *flags, secure=False)
    masked = _train(tmp_path / "masked", monkeypatch, *flags)
    for name, values in plain.items():
        if "error" not in name:  # what rounding has left out, which is another part
            # momentum travels down as int8 wherever weights are rounded
            atol = max(tolerance, 1e-2) if name == "1.weights" and tolerance > 1e-6 else tolerance
            np.testing.assert_allclose(masked[name], values, rtol=0, atol=atol, err_msg=name)
    assert not any("exponents" in name for name in plain)


def test_nothing_that_leaves_a_site_is_its_update_in_any_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[np.ndarray] = []
    encode = FixedPoint.encode

    def recorded(self: FixedPoint, *words: object) -> tuple[np.ndarray, np.ndarray]:
        values, sent = encode(self, *words)  # type: ignore[arg-type]
        written.append(values)
        return values, sent

    monkeypatch.setattr(FixedPoint, "encode", recorded)
    sites = Sites(tmp_path / "sites", monkeypatch)
    nodes = [sites.node(site) for site in sites.cases]
    federation, _ = run(tmp_path / "run", nodes, sites.list)
    assert federation.error is None
    left = [answer for node in nodes for question, answer in node.seen if question.kind == "fetch"]
    parts = [answer.data for answer in left if ModelPart.from_json(answer.body or "").round]
    assert len(parts) == len(set(parts)) == 3 * 3 * 2  # sites, rounds, and groups: weights and momentum
    everything = b"".join(parts)
    assert not any(
        values[at : at + 8].tobytes() in everything for values in written for at in range(0, len(values), 50)
    )
    bits = np.unpackbits(np.frombuffer(everything, np.uint8))
    assert abs(bits.mean() - 0.5) < 4 * 0.5 / np.sqrt(len(bits))  # noise, whatever it hides
    # the first model, which no site has trained, is the only one that leaves as it is, and once
    initial = [answer for answer in left if answer.data not in parts]
    assert len(initial) == 2
    for site in sites.cases:
        assert '"kind":"update"' not in sites.log(site).replace('"round":0', "") or site == "A"


class _Disturbed:
    """A training in which something happens at a step of its second round.

    Attributes
    ----------
    happened
        Whether it has.
    """

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sites = Sites(folder / "sites", monkeypatch)
        self.nodes = {site: self.sites.node(site) for site in CASES}
        self.run_dir = folder / "run"
        self.happened = threading.Event()
        self.restarted: list[Node] = []

    def run(self, *flags: str) -> tuple[Federation, Events]:
        return run(self.run_dir, list(self.nodes.values()), self.sites.list, *flags)

    def at(self, step: str, does: Callable[[Question, Ask], Answer], site: str = "B") -> None:
        """Do something once, when a site is asked something of the second round."""

        def instead(question: Question, ask: Ask) -> Answer:
            number = _round_of(question)
            if question.kind == step and number == 2 and not self.happened.is_set():
                self.happened.set()
                return does(question, ask)
            return ask(question)

        self.nodes[site].instead = instead

    def kill(self, site: str, *, restart: bool = True, answered: bool = False) -> Callable[[Question, Ask], Answer]:
        """Return what kills the node of a site, which is started again."""

        def does(question: Question, ask: Ask) -> Answer:
            if answered:
                ask(question)
            node = self.nodes[site]
            node.instead = _gone
            manager = node._manager
            assert manager is not None
            manager.unregister(node)
            if restart:
                self.restarted.append(self.sites.node(site))
                self.restarted[-1].join(manager)
            raise ConnectionError

        return does


def _gone(question: Question, ask: Ask) -> Answer:
    raise ConnectionError


def _round_of(question: Question) -> int | None:
    return SumRequest.from_json(question.body).round if question.kind == "agree" else question.round


@pytest.mark.parametrize("answered", [False, True])
@pytest.mark.parametrize("step", STEPS)
def test_a_site_that_is_killed_in_any_step_and_comes_back_changes_no_bit(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    undisturbed: dict[str, np.ndarray],
    step: str,
    answered: bool,
) -> None:
    disturbed = _Disturbed(tmp_path, monkeypatch)
    disturbed.at(step, disturbed.kill("B", answered=answered))
    federation, events = disturbed.run()
    assert federation.error is None
    assert disturbed.happened.is_set()
    assert [left.site for left in events.left_out] == ["B"]
    for name, values in model(disturbed.run_dir).items():
        np.testing.assert_array_equal(values, undisturbed[name], err_msg=name)


@pytest.mark.parametrize("step", [*STEPS, "hand", "evaluate"])
def test_a_coordinator_that_is_killed_in_any_step_goes_on_with_equal_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undisturbed: dict[str, np.ndarray], step: str
) -> None:
    disturbed = _Disturbed(tmp_path, monkeypatch)
    killed = tmp_path / "as it was"

    def kill(question: Question, ask: Ask) -> Answer:
        ask(question)
        for node in disturbed.nodes.values():
            node.instead = _gone
        shutil.copytree(disturbed.run_dir, killed)
        os.kill(os.getpid(), signal.SIGTERM)
        raise ConnectionError

    disturbed.at(step, kill)
    federation, _ = disturbed.run()
    assert isinstance(federation.error, KeyboardInterrupt)
    for node in disturbed.nodes.values():
        node.instead = lambda question, ask: ask(question)
    disturbed.run_dir = killed
    federation, events = disturbed.run("--c")
    assert federation.error is None
    assert not events.left_out
    for name, values in model(killed).items():
        np.testing.assert_array_equal(values, undisturbed[name], err_msg=name)
    steps = {site: trainer.steps for site, of_site in disturbed.sites.trainers.items() for trainer in of_site[-1:]}
    if step in {"agree", "join", "fetch", "open", "hand"}:  # nobody has to train the round again
        assert steps == dict.fromkeys(CASES, 3)


def test_without_a_site_the_round_is_one_of_the_others_and_no_update_was_in_two_sums(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sum with a site, less the one without it, would be that site's update."""
    cases = {**CASES, "D": 7}
    disturbed = _Disturbed(tmp_path, monkeypatch)
    disturbed.sites = Sites(tmp_path / "four", monkeypatch, cases)
    disturbed.nodes = {site: disturbed.sites.node(site) for site in cases}
    disturbed.at("fetch", disturbed.kill("B", restart=False))
    federation, events = disturbed.run("--min_clients", "3")
    assert federation.error is None
    assert [left.site for left in events.left_out] == ["B"]
    assert [sorted(event.sites) for event in events.rounds] == [sorted(cases), ["A", "C", "D"], ["A", "C", "D"]]
    opened = [
        (question.body, answer.body)
        for node in disturbed.nodes.values()
        for question, answer in node.seen
        if question.kind == "open" and question.round == 2
    ]
    assert len(opened) == 3 * 2  # each of the others, once for weights and once for momentum


def test_fewer_than_three_sites_make_no_sum(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disturbed = _Disturbed(tmp_path, monkeypatch)
    disturbed.at("fetch", disturbed.kill("B", restart=False))
    federation, events = disturbed.run("--give_up_after", "1")
    assert "B did not come back" in str(federation.error)
    assert [event.round for event in events.rounds] == [1]


def test_after_an_opening_a_round_is_trained_again_with_the_same_sites_as_often_as_it_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disturbed = _Disturbed(tmp_path, monkeypatch)
    disturbed.sites.rules = {site: Rules(disturbed.sites.list, max_repeats=0) for site in CASES}
    disturbed.nodes = {site: disturbed.sites.node(site) for site in CASES}
    disturbed.at("open", disturbed.kill("C", answered=True), "C")
    federation, events = disturbed.run()
    assert federation.error is None
    assert [event.round for event in events.rounds] == [1, 2, 3]


def test_after_an_opening_a_sum_over_other_sites_is_one_of_those_that_the_policy_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cases = {**CASES, "D": 7}
    for repeats in (0, 1):
        disturbed = _Disturbed(tmp_path / str(repeats), monkeypatch)
        disturbed.sites = Sites(tmp_path / str(repeats) / "four", monkeypatch, cases)
        disturbed.sites.rules = {site: Rules(disturbed.sites.list, max_repeats=repeats) for site in cases}
        disturbed.nodes = {site: disturbed.sites.node(site) for site in cases}
        disturbed.at("open", disturbed.kill("D", answered=True, restart=False), "D")
        federation, events = disturbed.run("--min_clients", "3", "--give_up_after", "1")
        if repeats:
            assert federation.error is None
            assert [event.round for event in events.rounds] == [1, 2, 3]
        else:
            assert [event.round for event in events.rounds] == [1]
            assert any("masked.max_repeats" in left.reason for left in events.left_out)


@pytest.mark.parametrize("purpose", ["update", "local"])
def test_no_sum_of_an_update_is_made_once_its_mean_has_come_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, purpose: str
) -> None:
    """The sum with other sites, less the one that there was, would be a single site's."""
    disturbed = _Disturbed(tmp_path, monkeypatch)
    requests: dict[int | None, Question] = {}
    refusals: list[str | None] = []

    def instead(question: Question, ask: Ask) -> Answer:
        if question.kind == "agree":
            requests[_round_of(question)] = question
        if question.kind == "finish" or (question.kind == "fit" and question.round == 3):
            asked = requests[2 if question.kind == "fit" else 3]
            body = SumRequest.from_json(asked.body).model_copy(update={"purpose": purpose})
            refusals.append(ask(Question.of("agree", body, asked.data)).failure)
        return ask(question)

    disturbed.nodes["B"].instead = instead
    disturbed.run()
    assert len(refusals) == 2
    assert all(refusal is not None and "the coordinator asks for" in refusal for refusal in refusals)


def test_another_training_of_a_round_is_another_sum_of_it(tmp_path: Path) -> None:
    first = Openings(tmp_path, "run 1")
    first.add(1, "g" * 64, ["A", "B", "C"])
    first.add(1, "g" * 64, ["A", "B", "C"])
    for openings in (first, Openings(tmp_path, "run 1"), Openings(tmp_path, "run 2")):
        openings.check(1, "g" * 64, ["A", "B", "C"], 0)
        openings.check(2, "g" * 64, ["A", "B"], 0)
        openings.check(1, "g" * 64, ["A", "B"], 1)
        with pytest.raises(FednnUNetError, match=r"masked\.max_repeats"):
            openings.check(1, "g" * 64, ["A", "B"], 0)
    Openings(tmp_path, "run 2").add(1, "g" * 64, ["A", "B"])
    with pytest.raises(FednnUNetError, match=r"masked\.max_repeats"):
        Openings(tmp_path, "run 2").check(1, "g" * 64, ["B", "C"], 1)
    Openings(tmp_path, "run 3", begins_anew=True).check(1, "g" * 64, ["B", "C"], 0)
    with (tmp_path / "federated_openings.jsonl").open("a") as file:
        file.write('{"run": "run 2", "rou')
    assert Openings(tmp_path, "run 2")
    (tmp_path / "federated_openings.jsonl").write_text("damaged\n")
    with pytest.raises(FednnUNetError, match="not known which sums were opened"):
        Openings(tmp_path, "run 2")


Change = Callable[[Question], Question]


def _other_ranges(question: Question) -> Question:
    return Question(**{**vars(question), "data": bytes(len(question.data))})


def _other(**fields: object) -> Change:
    def change(question: Question) -> Question:
        body = SumRequest.from_json(question.body).model_copy(update=fields)
        return Question(**{**vars(question), "body": body.to_json()})

    return change


@pytest.mark.parametrize(
    ("step", "change", "words"),
    [
        ("agree", _other_ranges, "they differ in ranges"),
        ("agree", _other(total=36), "they differ in total weight"),
        ("agree", _other(by_cases=False), "they differ in weights by cases"),
        ("agree", _other(total=9), "this site alone has 10"),
        ("agree", _other(group="0" * 64), "does not share"),
        ("agree", _other(purpose="fingerprint"), "not held here"),
    ],
)
def test_a_site_that_is_asked_for_another_sum_gives_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, change: Change, words: str
) -> None:
    disturbed = _Disturbed(tmp_path, monkeypatch)
    disturbed.at(step, lambda question, ask: ask(change(question)))
    federation, events = disturbed.run("--give_up_after", "0.5")
    assert [event.round for event in events.rounds] == [1]
    assert [left.site for left in events.left_out] == ["B"]
    assert words in events.left_out[0].reason
    assert federation.error is not None


def test_a_site_that_was_given_another_model_means_another_sum(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that only one site has, and a sum that differs by it, would tell of that site."""
    disturbed = _Disturbed(tmp_path, monkeypatch)

    def instead(question: Question, ask: Ask) -> Answer:
        if question.kind == "hand" and question.round == 1:
            question = Question(**{**vars(question), "data": bytes(len(question.data))})
        return ask(question)

    disturbed.nodes["B"].instead = instead
    federation, events = disturbed.run("--give_up_after", "0.5")
    assert [event.round for event in events.rounds] == [1]
    assert "they differ in global model" in events.left_out[0].reason
    assert federation.error is not None


def test_a_site_that_is_told_of_other_sites_masks_for_them_and_the_sum_is_noise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disturbed = _Disturbed(tmp_path, monkeypatch)
    cases = {**CASES, "D": 7}
    disturbed.sites = Sites(tmp_path / "four", monkeypatch, cases)
    disturbed.nodes = {site: disturbed.sites.node(site) for site in cases}

    def fewer(question: Question, ask: Ask) -> Answer:
        keys = SignedKeys.from_json(question.body)
        some = keys.model_copy(update={"keys": keys.keys[:3]})
        return ask(Question(**{**vars(question), "body": some.to_json()}))

    disturbed.at("join", fewer)
    federation, events = disturbed.run("--give_up_after", "0.5")
    assert "it has joined another sum than the other sites" in events.left_out[0].reason
    assert [event.round for event in events.rounds] == [1]
    assert federation.error is not None


def test_a_sum_that_is_noise_is_never_applied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disturbed = _Disturbed(tmp_path, monkeypatch)

    def damaged(question: Question, ask: Ask) -> Answer:
        answer = ask(question)
        return Answer(answer.body, bytes(len(answer.data)))

    disturbed.at("fetch", damaged)
    federation, events = disturbed.run()
    assert isinstance(federation.error, CanGoOnError)
    assert "is noise" in str(federation.error)
    assert [event.round for event in events.rounds] == [1]
    assert FoldFolder(disturbed.run_dir / "fold_0").models() == [0, 1]


def test_a_site_that_lies_about_its_weight_makes_no_change_larger(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mask_part = Attempt.mask_part

    def lying(self: Attempt, values: np.ndarray, start: int, weight: int) -> bytes:
        return mask_part(self, values, start, (weight - 34) % 2**64 if weight == CASES["B"] else weight)

    monkeypatch.setattr(Attempt, "mask_part", lying)
    federation, events = _Disturbed(tmp_path, monkeypatch).run()
    assert isinstance(federation.error, CanGoOnError)
    assert "the sites' weights add up to 1, not to 35" in str(federation.error)
    assert not events.rounds


def test_a_site_that_comes_back_with_other_training_cases_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disturbed = _Disturbed(tmp_path, monkeypatch)
    kill = disturbed.kill("B")

    def change(question: Question, ask: Ask) -> Answer:
        disturbed.sites.cases = {**CASES, "B": 9}
        return kill(question, ask)

    disturbed.at("fetch", change)
    federation, events = disturbed.run("--give_up_after", "1")
    assert [event.round for event in events.rounds] == [1]
    assert any("it has 9 training cases, and had 10" in left.reason for left in events.left_out)
    assert federation.error is not None


def test_after_a_round_a_site_gives_no_other_sum_of_its_update_and_nothing_as_an_untrained_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disturbed = _Disturbed(tmp_path, monkeypatch)
    refused: list[str | None] = []

    def curious(question: Question, ask: Ask) -> Answer:
        seen = [asked for asked, _ in disturbed.nodes["B"].seen]
        (first, *_) = [asked for asked in seen if asked.kind == "agree" and _round_of(asked) == 2]
        (part, *_) = [asked for asked in seen if asked.kind == "fetch" and asked.round == 2]
        untrained = ModelPart.from_json(part.body).model_copy(update={"round": 0})
        refused.append(ask(replace(first, id="again")).failure)
        refused.append(ask(replace(part, body=untrained.to_json(), round=0, id="untrained")).failure)
        return ask(question)

    disturbed.at("hand", curious)
    federation, _ = disturbed.run()
    assert federation.error is None
    assert ["another sum of an update" in str(refused[0]), "an untrained model" in str(refused[1])] == [True, True]


def test_a_spoilt_update_is_told_of_by_its_site_and_no_part_of_any_sum(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cases = {**CASES, "D": 7}
    disturbed = _Disturbed(tmp_path, monkeypatch)
    disturbed.sites = Sites(tmp_path / "four", monkeypatch, cases)
    disturbed.nodes = {site: disturbed.sites.node(site) for site in cases}
    trainers = disturbed.sites.trainers["D"]

    def broken(question: Question, ask: Ask) -> Answer:
        trainers[-1].broken = lambda epoch: True
        return ask(question)

    disturbed.at("fit", broken, "D")
    federation, events = disturbed.run("--min_clients", "3")
    assert federation.error is None
    assert [left.site for left in events.left_out] == ["D"]
    assert "NaN" in events.left_out[0].reason
    assert all(np.isfinite(values).all() for values in model(disturbed.run_dir).values())


def test_layers_of_fewer_than_three_sites_stay_local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sites = Sites(
        tmp_path / "sites",
        monkeypatch,
        {**CASES, "D": 7, "E": 9},
        {"A": 3, "B": 3, "C": 3, "D": 4, "E": 4},
    )
    nodes = [sites.node(site) for site in sites.cases]
    federation, events = run(tmp_path / "run", nodes, sites.list, "--asym_cohorts", "--optimizer_state", "local")
    assert federation.error is None
    description = FoldFolder(tmp_path / "run" / "fold_0").description()
    assert description is not None
    shared = {tuple(group.sites): [tensor.name for tensor in group.tensors] for group in description.shared}
    assert shared == {("A", "B", "C", "D", "E"): ["0.weight", "0.bias"], ("A", "B", "C"): ["1.weight", "1.bias"]}
    assert [event.round for event in events.rounds] == [1, 2, 3]


def test_a_policy_that_wants_masked_sums_refuses_plain_updates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = Policy.model_validate({"masked": {"require": True}})
    sites = Sites(tmp_path, monkeypatch, policies={"B": policy})
    nodes = [sites.node(site, secure=False) for site in CASES]
    federation, events = run(tmp_path / "run", nodes, None, "--give_up_after", "0.5")
    assert not events.rounds
    assert "masked.require" in events.left_out[0].reason
    assert federation.error is not None


def _hiding(folder: Path, monkeypatch: pytest.MonkeyPatch, sites: str) -> _Disturbed:
    """Four sites, of which some hide their figures."""
    cases = {**CASES, "D": 7}
    disturbed = _Disturbed(folder, monkeypatch)
    policies = dict.fromkeys(sites, Policy.model_validate({"metrics": {"masked": True}}))
    disturbed.sites = Sites(folder / "four", monkeypatch, cases, policies=policies)
    for site in sites:
        disturbed.sites.rules[site] = replace(disturbed.sites.rules[site], figures=FigureRules())
    disturbed.nodes = {site: disturbed.sites.node(site) for site in cases}
    return disturbed


def test_losses_and_dice_leave_for_sums_only_where_a_policy_hides_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disturbed = _hiding(tmp_path, monkeypatch, "ABC")
    disturbed.sites.dice = {"A": 0.75, "B": 0.25, "C": 0.125, "D": 0.0625}
    federation, events = disturbed.run()
    assert federation.error is None
    assert len(events.rounds) == 3
    mean = pytest.approx((0.75 + 0.25 + 0.125) / 3, abs=1e-6)
    for event in events.rounds:
        assert [event.sites[site].mean_dice for site in "ABC"] == [mean] * 3
        assert event.sites["D"].mean_dice == 0.0625
        assert event.sites["A"].dice == {"organ": mean, "lesion": mean}
        assert event.sites["A"].train_loss == event.sites["D"].train_loss == LOSS
    (validated,) = [event for event in events.seen if isinstance(event, FoldValidated)]
    assert validated.sites["A"].mean_dice == pytest.approx(MEAN_DICE, abs=1e-6)
    for site in "ABC":
        told = " ".join(answer.body or "" for _, answer in disturbed.nodes[site].seen)
        assert not any(figure in told for figure in ("0.75", "0.25", "0.125", "0.875"))
        assert '"norm":null' in told
        entries = map(json.loads, disturbed.sites.log(site).splitlines())
        decisions = {entry["decision"] for entry in entries if entry["kind"] == "metrics"}
        assert decisions == {"withheld: metrics.masked"}
    assert '"norm":null' not in " ".join(answer.body or "" for _, answer in disturbed.nodes["D"].seen)


def test_figures_of_a_round_are_told_for_one_set_of_sites(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sum over four sites, less the one over three, would be one site's loss."""
    disturbed = _hiding(tmp_path, monkeypatch, "ABCD")
    joined: list[str | None] = []

    def again(question: Question, ask: Ask) -> Answer:
        answer = ask(question)
        body = SumRequest(purpose="figures", round=2, total=3)
        asked = {site: node for site, node in disturbed.nodes.items() if site != "D"}
        statements = [node.ask(Question.of("agree", body)).read(Statement) for node in asked.values()]
        keys = SignedKeys(keys=[statement.signed for statement in statements])
        joined.append(asked["A"].ask(Question.of("join", keys)).read(Joined).salt)
        return answer

    disturbed.at("figures", again, "A")
    federation, events = disturbed.run()
    assert federation.error is None
    assert len(events.rounds) == 3
    assert joined == [None]


def test_without_a_site_a_round_has_no_figures_and_the_training_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disturbed = _hiding(tmp_path, monkeypatch, "ABCD")
    disturbed.at("figures", disturbed.kill("B", answered=True))
    federation, events = disturbed.run()
    assert federation.error is None
    dice = [[report.mean_dice for report in event.sites.values()] for event in events.rounds]
    assert dice == [[pytest.approx(MEAN_DICE, abs=1e-6)] * 4, [None] * 4, [pytest.approx(MEAN_DICE, abs=1e-6)] * 4]
