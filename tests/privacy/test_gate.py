"""What passes a site's gate, what does not, and what stands in the log afterwards."""

import hashlib
import json
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fednnunet.background import Tracker
from fednnunet.errors import FednnUNetError
from fednnunet.privacy.approval import Approver
from fednnunet.privacy.audit import AuditEntry, AuditLog, verify
from fednnunet.privacy.gate import Gate
from fednnunet.privacy.kept_approvals import KeptApprovals
from fednnunet.privacy.policy import MaskedRule, MetricsRule, Policy, Rule, StatisticsRule, UpdateRule
from fednnunet.protocol.conversation import Answer, Question
from fednnunet.protocol.messages import (
    Gain,
    GainReport,
    Hello,
    ModelPart,
    PairedDifference,
    RoundReport,
    Support,
    ValidationReport,
    WorkReport,
)
from fednnunet.protocol.secure_aggregation import Joined, Opening, SignedKey, SignedKeys, Trained
from fednnunet.security.identity import Challenge

RUN = "ab" * 16
WAITS = WorkReport(done=0, total=0, waits_for_approval=True)


class _Node:
    """Answers each question with what it is told to."""

    def __init__(self, task: str, cases: int = 9, sites_digest: str | None = None) -> None:
        facts = {"site": "A", "task": task, "method": "FFE", "cases": cases, "sites_digest": sites_digest}
        self.hello = Hello.model_validate({**facts, "versions": {}, "labels": {}, "channels": {}})
        self.reply = Answer("{}")
        self.rounds = 0
        self.changed_cases: int | None = None
        self.told_of_cases = 0

    def tells_of_cases(self) -> None:
        self.told_of_cases += 1

    def answer(self, question: Question) -> Answer:
        if question.kind == "hello":
            return Answer(self.hello.to_json(), b"proof")
        self.rounds += question.kind == "fit"
        return self.reply


class _Person(Approver):
    """Says what it is told to, when it is told to."""

    def __init__(self, answer: bool, waits: bool = False) -> None:
        self.asked: list[tuple[str, str, bytes]] = []
        self.answer = answer
        self.may_answer = threading.Event()
        if not waits:
            self.may_answer.set()

    def ask(self, kind: str, summary: str, payload: Sequence[bytes], tracker: Tracker | None = None) -> bool:
        self.asked.append((kind, summary, b"".join(payload)))
        self.may_answer.wait(60)
        return self.answer


class _Site:
    def __init__(self, folder: Path, node: _Node, policy: Policy, person: Approver) -> None:
        self.node = node
        self.path = folder / "audit.jsonl"
        self.log = AuditLog(self.path, node.hello.site, node.hello.task)
        self.gate = Gate(node, policy, self.log, person)

    def entries(self) -> list[AuditEntry]:
        self.log.flush()
        verify(self.path)
        return [AuditEntry.from_json(line) for line in self.path.read_text().splitlines()]

    def ask(self, kind: str, number: int = 1, **body: Any) -> Answer:
        return self.gate.answer(Question(kind, json.dumps(body), id=f"{kind} {number}", round=body.get("round")))


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Any]:
    sites: list[_Site] = []

    def make_site(
        task: str = "train",
        policy: Policy | None = None,
        cases: int = 9,
        person: Approver | None = None,
        sites_digest: str | None = None,
    ) -> _Site:
        node = _Node(task, cases, sites_digest)
        sites.append(_Site(tmp_path, node, policy or Policy(), person or _Person(True)))
        return sites[-1]

    yield make_site
    for site in sites:
        site.log.close()


def _counts(values: np.ndarray) -> Answer:
    return Answer(data=values.tobytes())


def _without_log(answer: Answer) -> Answer:
    assert answer.log is not None
    return replace(answer, log=None)


def test_without_rules_everything_passes_unchanged_and_is_logged_before_it_does(make: Any) -> None:
    site = make()
    part = ModelPart(round=3, group=0, start=10, stop=14)
    site.node.reply = Answer.of(part, b"\1\2\3\4")
    reply = site.ask("fetch", round=3, group=0, start=10, stop=14)
    *_, came, went = site.entries()
    assert reply.log == (went.number, hashlib.sha256(site.path.read_bytes().splitlines()[-1]).hexdigest())
    assert _without_log(reply) == site.node.reply
    assert (came.direction, came.kind, came.round) == ("in", "fetch", 3)
    assert (went.direction, went.kind, went.round, went.decision) == ("out", "update", 3, "sent")
    assert went.shapes == {"data": [4]}
    assert set(went.fields) == {"round", "group", "start", "stop"}
    payload = b"body" + part.to_json().encode() + b"data" + b"\1\2\3\4"
    assert (went.bytes, went.sha256) == (len(payload), hashlib.sha256(payload).hexdigest())


_KINDS = (
    *("measure", "cases", "install", "plan_alone", "offer", "start", "share", "describe", "fetch", "collect", "hand"),
    *("accept", "fit", "evaluate", "finish", "train_own", "gain", "test", "agree", "join", "open"),
)


@pytest.mark.parametrize("kind", _KINDS)
def test_every_question_is_logged_by_name_and_pings_are_counted(make: Any, kind: str) -> None:
    site = make()
    site.node.reply = Answer(failure="not now")
    site.ask(kind)
    site.ask("ping")
    came = [entry.kind for entry in site.entries() if entry.direction == "in"]
    assert [what for what in came if what != "contact"] == [kind]
    assert "contact" in came


def test_what_nobody_can_be_asked_about_does_not_leave(
    make: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Nobody(Approver):
        def ask(self, kind: str, summary: str, payload: Sequence[bytes], tracker: Tracker | None = None) -> bool:
            raise FednnUNetError("The folder for approvals cannot be written.")

    site = make(policy=Policy(update=UpdateRule(confirm=True)), person=Nobody(tmp_path / "waiting"))
    site.node.reply = Answer.of(ModelPart(round=1, group=0, start=0, stop=1), b"secret")
    reply = site.ask("fetch", round=1, group=0, start=0, stop=1)
    assert "rule update.confirm" in str(reply.failure)
    assert reply.data == b""
    assert "The folder for approvals cannot be written." in caplog.messages


def test_values_do_not_get_into_the_log(make: Any) -> None:
    site = make()
    site.node.reply = Answer.of(RoundReport(train_loss=0.123, val_loss=None, mean_dice=0.456, dice={"7": 0.456}))
    site.ask("evaluate", round=1)
    site.entries()
    assert "0.456" not in site.path.read_text()


def test_the_introduction_names_the_run_in_the_log(make: Any) -> None:
    site = make()
    answer = site.gate.answer(Question.of("hello", Challenge.draw(RUN)))
    assert answer.data == b"proof"
    assert [(entry.kind, entry.run) for entry in site.entries()] == [("challenge", RUN), ("introduction", RUN)]


def test_signs_of_life_are_summed_up(make: Any) -> None:
    site = make()
    for _ in range(5):
        assert site.gate.answer(Question("ping")).log is not None
    site.node.reply = Answer(pending=WorkReport(done=1, total=2))
    for _ in range(3):
        assert site.ask("start") == site.node.reply
    entries = site.entries()
    assert sum(entry.messages for entry in entries if entry.direction == "out") == 8
    assert sum(entry.messages for entry in entries if entry.direction == "in") == 8
    assert len(entries) <= 5


@pytest.mark.parametrize(
    ("question", "kind", "task"),
    [
        ("measure", "fingerprint", "plan_and_preprocess"),
        ("cases", "cases", "plan_and_preprocess"),
        ("install", "plans", "plan_and_preprocess"),
        ("plan_alone", "plans", "plan_and_preprocess"),
        ("offer", "layout", "train"),
        ("start", "layout", "train"),
        ("share", "layout", "train"),
        ("describe", "model", "train"),
        ("fetch", "update", "train"),
    ],
)
def test_what_is_not_allowed_is_not_sent_and_the_coordinator_learns_the_rule(
    make: Any, question: str, kind: str, task: str
) -> None:
    rules = {"fingerprint": StatisticsRule, "cases": StatisticsRule, "update": UpdateRule}
    site = make(task, Policy.model_validate({kind: rules.get(kind, Rule)(allow=False)}))
    site.node.reply = Answer('{"secret": 42}', b"secret")
    reply = _without_log(site.ask(question))
    assert reply == Answer(failure=f"the site's policy does not allow this message (rule {kind}.allow): ask the site")
    withheld, told = site.entries()[-2:]
    assert (withheld.kind, withheld.decision, withheld.bytes) == (kind, f"withheld: {kind}.allow", 0)
    assert (told.kind, told.decision) == ("failure", "sent")


def test_a_site_with_too_few_cases_does_not_answer_about_them(make: Any) -> None:
    policy = Policy(fingerprint=StatisticsRule(min_cases=5))
    few, enough = make("plan_and_preprocess", policy, cases=4), None
    few.node.reply = _counts(np.arange(3))
    reply = few.ask("fit")
    assert reply.data == b""
    assert "fingerprint.min_cases" in str(reply.failure)
    few.log.close()
    enough = make("plan_and_preprocess", policy, cases=5)
    enough.node.reply = _counts(np.arange(3))
    reply = enough.ask("fit")
    assert _without_log(reply) == enough.node.reply
    assert enough.entries()[-1].shapes == {"answer 0": [3]}


def test_a_round_more_than_allowed_is_not_even_trained(make: Any) -> None:
    site = make(policy=Policy(update=UpdateRule(max_rounds=2)))
    for number in (1, 2):
        for _ in range(3):  # asked again while it is at work
            assert site.ask("fit", number).failure is None
    assert "update.max_rounds" in str(site.ask("fit", 3).failure)
    assert site.node.rounds == 6


def test_going_back_to_an_earlier_question_counts_as_a_round_too(make: Any) -> None:
    site = make(policy=Policy(update=UpdateRule(max_rounds=2)))
    for number in (1, 2):
        site.ask("fit", number)
    assert "update.max_rounds" in str(site.ask("fit", 1).failure)


def test_where_no_update_may_leave_nothing_is_trained(make: Any) -> None:
    site = make(policy=Policy(update=UpdateRule(allow=False)))
    assert "update.allow" in str(site.ask("fit").failure)
    assert site.node.rounds == 0


def test_no_more_bytes_leave_than_allowed(make: Any) -> None:
    site = make(policy=Policy.model_validate({"max_bytes": "1000"}))
    site.node.reply = Answer("{}", bytes(400))
    assert site.ask("fetch", 1).data
    assert site.ask("fetch", 2).data
    assert "max_bytes" in str(site.ask("fetch", 3).failure)
    assert sum(entry.bytes for entry in site.entries() if entry.direction == "out") < 1000


def test_training_goes_on_without_metrics_that_may_not_leave(make: Any) -> None:
    site = make(policy=Policy(metrics=MetricsRule(allow=False)))
    site.node.reply = Answer.of(RoundReport(train_loss=1, val_loss=2, mean_dice=0.5, dice={"1": 0.5}))
    reply = site.ask("evaluate", round=1)
    report = RoundReport.from_json(reply.body or "")
    assert report == RoundReport(train_loss=None, val_loss=None, mean_dice=None, dice={})
    assert reply.withheld == "metrics.allow"
    site.node.reply = Answer.of(ValidationReport(mean_dice=0.5, dice={"1": 0.5}))
    assert ValidationReport.from_json(site.ask("finish").body or "").dice == {}
    assert [entry.decision for entry in site.entries() if entry.kind == "metrics"] == ["withheld: metrics.allow"] * 2


@pytest.mark.parametrize(("changed", "passes"), [(None, True), (0, True), (1, False), (4, False), (5, True)])
def test_a_second_fingerprint_that_differs_by_a_few_patients_is_refused(
    make: Any, changed: int | None, passes: bool
) -> None:
    site = make("plan_and_preprocess", Policy(fingerprint=StatisticsRule(min_cases=5)))
    site.node.reply, site.node.changed_cases = _counts(np.arange(3)), changed
    reply = site.ask("fit")
    assert bool(reply.data) == passes
    assert passes or "fingerprint.min_cases" in str(reply.failure)
    assert site.node.told_of_cases == int(passes)  # what was refused counts as not told


def test_a_person_may_let_out_a_second_fingerprint_and_reads_what_that_gives_away(make: Any) -> None:
    person = _Person(True)
    site = make("plan_and_preprocess", Policy(fingerprint=StatisticsRule(min_cases=5, confirm=True)), person=person)
    site.node.reply, site.node.changed_cases = _counts(np.arange(3)), 1
    while not (reply := site.ask("fit")).data:
        assert reply.pending is not None
    assert "1 were added or removed" in person.asked[0][1]
    assert site.node.told_of_cases == 1


def _report(training: int, validation: int, **labels: int) -> RoundReport:
    dice = {label: 0.5 if cases else None for label, cases in labels.items()}
    support = Support(training=training, validation=validation, labels=labels)
    return RoundReport(train_loss=1, val_loss=2, mean_dice=0.5, dice=dice, support=support)


def _round_with(site: _Site, report: RoundReport, iterations: int = 50, val_iterations: int = 50) -> Answer:
    site.node.reply = Answer("{}")
    site.ask("start", schedule={"iterations_per_epoch": iterations, "val_iterations_per_epoch": val_iterations})
    site.node.reply = Answer.of(report)
    return site.ask("evaluate", round=1)


def test_figures_count_the_cases_that_they_are_made_of_not_those_of_the_site(make: Any) -> None:
    site = make(policy=Policy(metrics=MetricsRule(min_cases=5)), cases=100)
    reply = _round_with(site, _report(4, 8, organ=8, lesion=2, cyst=0))
    assert reply.withheld == "metrics.min_cases"
    support = Support(training=None, validation=8, labels={"organ": 8, "lesion": None, "cyst": None})
    assert RoundReport.from_json(reply.body or "") == RoundReport(
        train_loss=None, val_loss=2, mean_dice=None, dice={"organ": 0.5, "lesion": None, "cyst": None}, support=support
    )
    reply = _round_with(site, _report(80, 8, organ=8, cyst=0))  # of a label that no case has there is no figure
    assert reply.withheld is None or RoundReport.from_json(reply.body or "").mean_dice == 0.5
    reply = _round_with(site, _report(80, 4, organ=4))
    assert RoundReport.from_json(reply.body or "") == RoundReport(
        train_loss=None, val_loss=None, mean_dice=None, dice={}
    )


def test_the_full_validation_counts_the_cases_of_each_label_too(make: Any) -> None:
    site = make(policy=Policy(metrics=MetricsRule(min_cases=5)), cases=100)
    support = Support(validation=6, labels={"organ": 6, "lesion": 1})
    site.node.reply = Answer.of(ValidationReport(mean_dice=0.6, dice={"organ": 0.7, "lesion": 0.5}, support=support))
    report = ValidationReport.from_json(site.ask("finish").body or "")
    assert (report.mean_dice, report.dice) == (None, {"organ": 0.7, "lesion": None})


@pytest.mark.parametrize("counts", [(1, 50), (50, 1)])
def test_the_loss_of_a_few_batches_is_not_told(make: Any, counts: tuple[int, int]) -> None:
    site = make(policy=Policy(metrics=MetricsRule(min_val_iterations=10)))
    assert _round_with(site, _report(80, 20, organ=20), *counts).withheld == "metrics.min_val_iterations"
    assert _round_with(site, _report(80, 20, organ=20), 10, 10).withheld is None


@pytest.mark.parametrize("rule", ["allow", "min_cases"])
def test_a_site_that_withholds_its_figures_leaves_the_evaluation(make: Any, rule: str) -> None:
    rules = MetricsRule(allow=False) if rule == "allow" else MetricsRule(min_cases=10)
    site = make("evaluate", Policy(metrics=rules), cases=9)
    site.node.reply = Answer('{"secret": 0.5}')
    reply = _without_log(site.ask("test"))
    assert reply == Answer(failure=f"the site's policy does not allow this message (rule metrics.{rule}): ask the site")
    assert site.entries()[-2].decision == f"withheld: metrics.{rule}"


def test_what_went_wrong_is_kept_to_itself_where_the_policy_says_so(make: Any) -> None:
    site = make(policy=Policy(failure=Rule(allow=False)))
    site.node.reply = Answer(failure="case 17 of Mr X")
    reply = _without_log(site.ask("start"))
    assert reply == Answer(failure="the site's policy does not allow this message (rule failure.allow): ask the site")


def test_a_failure_leaves_without_the_paths_of_the_site(make: Any, tmp_path: Path) -> None:
    site = make()
    site.node.reply = Answer(failure=f"{tmp_path}/Mr X/dataset.json is not JSON: correct it")
    assert _without_log(site.ask("start")) == Answer(failure="dataset.json is not JSON: correct it")


def test_the_first_message_of_a_kind_waits_for_a_person_and_the_next_does_not(make: Any) -> None:
    person = _Person(True, waits=True)
    site = make(policy=Policy(update=UpdateRule(confirm=True)), person=person)
    site.node.reply = Answer("{}", b"weights")
    assert site.ask("fetch", 1) == Answer(pending=WAITS)
    person.may_answer.set()
    while (reply := site.ask("fetch", 1)).pending is not None:
        pass
    assert reply.data == b"weights"
    assert site.ask("fetch", 2).data == b"weights"
    ((kind, summary, payload),) = person.asked
    assert kind == "update"
    assert payload == b"body{}dataweights"
    assert "9 cases" in summary


def test_what_waits_is_shown_in_words_and_numbers_and_not_as_bytes(make: Any) -> None:
    person = _Person(True)
    site = make(policy=Policy(update=UpdateRule(confirm=True, max_rounds=7), metrics=MetricsRule(confirm=True)),
                person=person)  # fmt: skip
    weights = np.array([0.5, -2, 0, 8], "<f4")
    for number, follows in ((0, "needs another approval"), (3, "all later rounds, 7 with this one")):
        part = ModelPart(round=number, group=0, start=0, stop=4)
        site.node.reply = Answer.of(part, weights.tobytes())
        assert site.ask("fetch", number, round=number, group=0, start=0, stop=4).data
        summary = person.asked[-1][1]
        assert f"of round {number} needs approval" in summary
        assert "The coordinator asks for a part of the network's weights." in summary
        assert "weights: 4 numbers from -2 to 8, mean 1.625, 1 of them 0" in summary
        assert follows in summary
        assert "?" not in summary
        assert summary.isascii()
    site.node.reply = Answer.of(_report(80, 20, organ=20))
    site.ask("evaluate", round=3)
    assert "dice.organ: 0.5" in person.asked[-1][1]
    assert "train_loss: 1.0" in person.asked[-1][1]


def test_what_stays_until_the_end_is_an_update_like_any_other(make: Any) -> None:
    part = ModelPart(round=7, group=0, start=0, stop=1)
    refused = make(policy=Policy(update=UpdateRule(allow=False)))
    refused.node.reply = Answer.of(part, b"none")
    assert "rule update.allow" in str(refused.ask("collect", round=7, group=0, start=0, stop=1).failure)
    refused.log.close()
    person = _Person(True)
    site = make(policy=Policy(update=UpdateRule(confirm=True)), person=person)
    site.node.reply = refused.node.reply
    assert site.ask("collect", round=7, group=0, start=0, stop=1).data == b"none"
    assert "local weights, once" in person.asked[0][1]
    assert [(entry.kind, entry.round, entry.shapes) for entry in site.entries()[-2:]] == [
        ("collect", 7, {}),
        ("update", 7, {"data": [1]}),
    ]


def _gains(*, organ: int, lesion: int, overall: int) -> GainReport:
    difference = PairedDifference(mean=0.25, low=0.1, high=0.4)

    def gain(fewest: int) -> Gain:
        return Gain(federated=0.5, personal=0.75, personal_over_federated=difference, cases=20, fewest=fewest)

    labels = {"organ": gain(organ), "lesion": gain(lesion), "in no case": Gain(cases=0, fewest=0)}
    return GainReport(labels=labels, overall=gain(overall), advice="personal", is_certain=True)


def test_what_the_federation_gave_is_told_of_enough_cases_only(make: Any) -> None:
    site = make(policy=Policy(metrics=MetricsRule(min_cases=5)))

    def ask(report: GainReport) -> tuple[GainReport, object]:
        site.node.reply = Answer.of(report)
        reply = site.ask("gain", site.node.rounds)
        site.node.rounds += 1
        return GainReport.from_json(reply.body or ""), reply.withheld

    every = _gains(organ=20, lesion=5, overall=5)
    told, rule = ask(every)
    assert told.overall == every.overall
    assert told.advice == "personal"
    assert told.labels["lesion"] == every.labels["lesion"]
    # a label that is left out could be computed from what is told over all
    told, rule = ask(_gains(organ=20, lesion=4, overall=5))
    assert rule == "metrics.min_cases"
    assert (told.overall, told.advice, told.is_certain) == (Gain(), None, False)
    assert (told.labels["organ"], told.labels["lesion"]) == (
        every.labels["organ"].model_copy(update={"fewest": 20}),
        Gain(),
    )
    told, _ = ask(_gains(organ=20, lesion=20, overall=4))
    assert (told.overall, told.labels["organ"].federated) == (Gain(), 0.5)
    assert ask(_gains(organ=4, lesion=4, overall=4)) == (GainReport(), "metrics.min_cases")
    site.log.close()
    without = make(policy=Policy(metrics=MetricsRule(allow=False)))
    without.node.reply = Answer.of(every)
    assert without.ask("gain").body == GainReport().to_json()


def test_no_count_leaves_before_a_person_agrees_but_that_cases_were_measured_does(make: Any) -> None:
    person = _Person(True, waits=True)
    site = make("plan_and_preprocess", Policy(fingerprint=StatisticsRule(confirm=True)), person=person)
    assert site.ask("measure").body == "{}"
    assert person.asked == []
    site.node.reply = _counts(np.arange(3))
    assert site.ask("fit") == Answer(pending=WAITS)
    assert site.node.told_of_cases == 0
    assert [entry.kind for entry in site.entries() if entry.direction == "out"].count("fingerprint") == 1
    person.may_answer.set()
    while (reply := site.ask("fit")).pending is not None:
        pass
    assert _without_log(reply) == site.node.reply
    assert site.entries()[-1].sha256 == hashlib.sha256(site.node.reply.data).hexdigest()


def test_counts_are_shown_by_how_many_they_are_and_how_large(make: Any) -> None:
    person = _Person(True)
    site = make("plan_and_preprocess", Policy(fingerprint=StatisticsRule(confirm=True)), person=person)
    site.node.reply = _counts(np.array([0, 3, 7]))
    assert site.ask("fit", question={"kind": "moments"}).data
    assert "question.kind: moments" in person.asked[0][1]
    assert "3 numbers from 0 to 7" in person.asked[0][1]


def test_all_that_will_wait_is_told_at_the_start(make: Any, caplog: pytest.LogCaptureFixture) -> None:
    policy = Policy(
        update=UpdateRule(confirm=True), metrics=MetricsRule(confirm=True), fingerprint=StatisticsRule(confirm=True)
    )
    make(policy=policy).gate.approve_introduction()
    told = caplog.text
    assert "update before any training" in told
    assert "metrics (" in told
    assert "fingerprint" not in told  # is not asked in a training


def test_what_was_approved_is_not_asked_again_after_a_restart_but_in_another_run(tmp_path: Path) -> None:
    asked = []
    for number, run in enumerate((RUN, RUN, "cd" * 16)):
        node, person = _Node("train"), _Person(True)
        node.reply = Answer.of(ModelPart(round=1, group=0, start=0, stop=1), b"none")
        log = AuditLog(tmp_path / f"{number}.jsonl", "A", "train")
        kept = KeptApprovals(tmp_path / "approved.json", "train")
        gate = Gate(node, Policy(update=UpdateRule(confirm=True)), log, person, kept)
        gate.answer(Question.of("hello", Challenge.draw(run)))
        while (reply := gate.answer(Question("fetch", id="1"))).pending is not None:
            pass
        assert reply.data
        asked.append(len(person.asked))
        log.close()
    assert asked == [1, 0, 1]


def test_a_no_and_a_damaged_file_are_no_yes_after_a_restart(tmp_path: Path) -> None:
    kept = KeptApprovals(tmp_path / "approved.json", "train")
    kept.add(RUN, "update 0")
    assert kept.has(RUN, "update 0")
    assert not kept.has(RUN, "update")
    assert not KeptApprovals(tmp_path / "approved.json", "evaluate").has(RUN, "update 0")
    (tmp_path / "approved.json").write_text("{")
    assert not kept.has(RUN, "update 0")


def test_what_an_update_is_the_node_says_not_the_question(make: Any) -> None:
    person = _Person(True)
    site = make(policy=Policy(update=UpdateRule(confirm=True)), person=person)
    site.node.reply = Answer.of(ModelPart(round=0, group=0, start=0, stop=1), b"none")
    assert site.ask("fetch", 1, round=0, group=0, start=0, stop=1).data
    person.answer = False
    site.node.reply = Answer.of(ModelPart(round=3, group=0, start=0, stop=1), b"much")
    assert "update.confirm" in str(site.ask("fetch", 2, round=0, group=0, start=0, stop=1).failure)
    assert [entry.round for entry in site.entries() if entry.kind == "update"] == [0, 3]


def test_what_a_person_does_not_agree_to_never_leaves(make: Any) -> None:
    person = _Person(False)
    site = make(policy=Policy(update=UpdateRule(confirm=True)), person=person)
    site.node.reply = Answer("{}", b"weights")
    for number in (1, 2):
        assert "update.confirm" in str(site.ask("fetch", number).failure)
    assert len(person.asked) == 1


def test_malformed_questions_pass_to_the_node_which_refuses_them_and_are_logged(make: Any) -> None:
    site = make()
    site.node.reply = Answer(failure="malformed")
    bodies = ["", "[]", "{", "[" * 100_000, "null", '{"round": "x"}', "\ud800", 3, b"\xff", 1.5]
    for number, body in enumerate(bodies):
        assert site.gate.answer(Question.from_config({"ask": "start", "body": body, "id": str(number)})).failure
    assert site.gate.answer(Question("a question with the name of a patient")).failure
    assert "patient" not in site.path.read_text()
    assert len(site.entries()) == 2 * len(bodies) + 2


@pytest.mark.parametrize(("kind", "length"), [("start", 1 << 17), ("fetch", 1 << 20), ("share", 17 << 20)])
def test_what_is_too_long_to_be_that_question_is_not_even_read(
    kind: str, length: int, make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = make()
    site.node.reply = Answer(failure="malformed")
    read: list[int] = []
    monkeypatch.setattr(json, "loads", lambda text: read.append(len(text)) or {})
    site.gate.answer(Question(kind, '{"round": 1}', id="1"))
    assert read.pop(0) == 12
    read.clear()
    for body in ('{"a": "' + length * "x" + '"}', '{"a": [' + "0," * (length // 2) + "0]}"):
        site.gate.answer(Question(kind, body, id="2"))
    assert max(read, default=0) < 100


_PART = ModelPart(round=1, group=0, start=0, stop=4)
_DIGEST = "0123 4567"
_REQUIRE = Policy(masked=MaskedRule(require=True))


def _masked_part(data: bytes = b"noise") -> Answer:
    return Answer.of(_PART, data, is_masked=True)


def _fetch(site: _Site, answer: Answer) -> Answer:
    site.node.reply = answer
    return site.ask("fetch", round=1, group=0, start=0, stop=4)


def _join(site: _Site, *names: str, salt: str | None = "ab" * 32) -> Answer:
    keys = [SignedKey(site=name, key="0" * 64, context="0" * 64, signature="0" * 128) for name in names]
    site.node.reply = Answer.of(Joined(salt=salt))
    return site.gate.answer(Question.of("join", SignedKeys(round=1, keys=keys), id="join 1"))


@pytest.mark.parametrize("demand", [{"policy": _REQUIRE}, {"sites_digest": _DIGEST}, {}])
def test_terms_of_masked_sums_leave_as_a_kind_of_their_own(make: Any, demand: dict[str, Any]) -> None:
    site = make(**demand)
    assert _fetch(site, _masked_part()).data == b"noise"
    assert (site.entries()[-1].kind, site.entries()[-1].shapes) == ("masked", {"data": [4]})
    site.log.close()
    site = make("plan_and_preprocess", **demand)
    site.node.reply = Answer(data=bytes(300), is_masked=True)
    assert site.ask("fit").data == bytes(300)
    assert (site.entries()[-1].kind, site.entries()[-1].shapes) == ("masked", {"data": [300]})
    assert site.node.told_of_cases == 1


@pytest.mark.parametrize("demand", [{"policy": _REQUIRE}, {"sites_digest": _DIGEST}])
@pytest.mark.parametrize(
    ("task", "question", "answer", "kind"),
    [
        ("plan_and_preprocess", "fit", Answer(data=bytes(16)), "fingerprint"),
        ("plan_and_preprocess", "cases", Answer("{}"), "cases"),
        ("train", "fetch", Answer.of(_PART, b"secret"), "update"),
        ("train", "fetch", Answer("{}", b"secret"), "update"),
        ("train", "collect", Answer.of(_PART, b"secret"), "update"),
    ],
)
def test_where_sums_must_be_masked_no_plain_answer_leaves(
    make: Any, demand: dict[str, Any], task: str, question: str, answer: Answer, kind: str
) -> None:
    site = make(task, **demand)
    site.node.reply = answer
    told = "the site's policy does not allow this message (rule masked.require): ask the site"
    # the round of the question is the coordinator's word, which does not make an update an untrained model
    assert _without_log(site.ask(question, round=0, group=0, start=0, stop=4)) == Answer(failure=told)
    withheld = site.entries()[-2]
    assert (withheld.kind, withheld.decision) == (kind, "withheld: masked.require")
    assert site.node.told_of_cases == 0


@pytest.mark.parametrize(
    ("task", "question", "answer"),
    [
        ("plan_and_preprocess", "measure", Answer('{"is_two_dimensional": true}')),
        ("train", "fetch", Answer.of(ModelPart(round=0, group=0, start=0, stop=4), bytes(16))),
        ("train", "describe", Answer("{}")),
    ],
)
def test_what_tells_nothing_of_cases_leaves_plain_also_where_sums_must_be_masked(
    make: Any, task: str, question: str, answer: Answer
) -> None:
    site = make(task, _REQUIRE)
    site.node.reply = answer
    assert _without_log(site.ask(question)) == answer


@pytest.mark.parametrize("question", ["fetch", "open"])
def test_a_site_may_forbid_masked_sums(make: Any, question: str) -> None:
    site = make(policy=Policy(masked=MaskedRule(allow=False)))
    site.node.reply = _masked_part() if question == "fetch" else Answer.of(Opening(round=1, key="0" * 64))
    assert "rule masked.allow" in str(site.ask(question, round=1).failure)
    assert [entry.kind for entry in site.entries() if entry.is_withheld] == [
        "masked" if question == "fetch" else "opening"
    ]


def test_the_key_that_opens_a_sum_is_a_kind_of_its_own_and_keys_for_it_are_signs_of_life(make: Any) -> None:
    site = make(sites_digest=_DIGEST)
    site.node.reply = Answer('{"signed": {}, "context": "{}"}')
    site.ask("agree")
    _join(site, "A", "B", "C")
    site.node.reply = Answer.of(Opening(round=1, key="0" * 64))
    site.ask("open", round=1)
    out = [(entry.kind, entry.messages) for entry in site.entries() if entry.direction == "out"]
    assert out == [("contact", 1), ("contact", 1), ("opening", 1)]


@pytest.mark.parametrize(
    ("task", "policy", "rule"),
    [
        ("train", Policy(update=UpdateRule(allow=False)), "update.allow"),
        ("train", Policy.model_validate({"max_bytes": "10"}), "max_bytes"),
        ("plan_and_preprocess", Policy(fingerprint=StatisticsRule(allow=False)), "fingerprint.allow"),
        ("plan_and_preprocess", Policy(fingerprint=StatisticsRule(min_cases=10)), "fingerprint.min_cases"),
    ],
)
def test_the_rules_for_what_is_masked_hold_for_its_terms(make: Any, task: str, policy: Policy, rule: str) -> None:
    site = make(task, policy)
    site.node.reply = _masked_part(bytes(100))
    assert f"rule {rule}" in str(site.ask("fetch" if task == "train" else "fit", round=1).failure)
    assert site.entries()[-2].kind == "masked"


def test_a_second_masked_fingerprint_that_differs_by_a_few_patients_is_refused(make: Any) -> None:
    site = make("plan_and_preprocess", Policy(fingerprint=StatisticsRule(min_cases=5)), sites_digest=_DIGEST)
    site.node.reply, site.node.changed_cases = Answer(data=bytes(8), is_masked=True), 2
    assert "fingerprint.min_cases" in str(site.ask("fit").failure)


def test_a_person_reads_over_which_sites_the_sum_goes(make: Any) -> None:
    person = _Person(True)
    site = make(policy=Policy(update=UpdateRule(confirm=True)), person=person, sites_digest=_DIGEST)
    _join(site, "Clinic A", "Clinic B", "Clinic C")
    _join(site, "Clinic X", salt=None)  # the node has refused these keys
    while _fetch(site, _masked_part(b"noise")).pending is not None:
        pass
    ((kind, summary, payload),) = person.asked
    assert kind == "masked"
    assert "sum over Clinic A, Clinic B, Clinic C only" in summary
    assert "of kind 'masked' of round 1" in summary
    assert "first trained update" in summary
    assert b"noise" in payload
    assert _fetch(site, _masked_part(b"more")).data == b"more"  # asked once


def test_a_masked_update_that_a_person_does_not_approve_does_not_leave(make: Any) -> None:
    site = make(policy=Policy(update=UpdateRule(confirm=True)), person=_Person(False), sites_digest=_DIGEST)
    assert "rule update.confirm" in str(_fetch(site, _masked_part()).failure)


def test_a_person_hears_ahead_of_masked_messages(make: Any, caplog: pytest.LogCaptureFixture) -> None:
    make(policy=Policy(update=UpdateRule(confirm=True)), sites_digest=_DIGEST).gate.approve_introduction()
    assert "; masked update (terms of a sum" in caplog.text


def test_the_log_names_the_sites_of_a_sum(make: Any) -> None:
    site = make(sites_digest=_DIGEST)
    _join(site, "A", "B", "C")
    (entry,) = (entry for entry in site.entries() if entry.kind == "join")
    assert entry.sites == ["A", "B", "C"]
    assert [each.sites for each in site.entries() if each.kind != "join"] == [None]


@pytest.mark.parametrize(
    ("name", "number"), [("{:04d} " + "ä" * 100, 3000), ('"' * 120, 3000), ("\\" * 120, 3000), ("", 12_000)]
)
def test_names_of_any_number_and_length_fit_into_the_log(make: Any, name: str, number: int) -> None:
    site = make(sites_digest=_DIGEST)
    names = [name.format(position) for position in range(number)]
    site.node.reply = Answer(failure="too many")
    site.gate.answer(Question("join", json.dumps({"keys": [{"site": name} for name in names]}, ensure_ascii=False)))
    (entry,) = (entry for entry in site.entries() if entry.kind == "join")
    assert entry.sites is not None
    assert len(entry.sites) > 100
    assert entry.sites[:-1] == names[: len(entry.sites) - 1]
    assert entry.sites[-1] == f"{number + 1 - len(entry.sites)} more"


def test_names_that_are_none_are_written_down_as_far_as_they_can_be_shown(make: Any) -> None:
    site = make(sites_digest=_DIGEST)
    strange = json.dumps({"keys": [{"site": ["x"]}, {"site": "y" * 10_000 + "\x1b"}, 3, {}]})
    site.node.reply = Answer(failure="no")
    site.gate.answer(Question("join", strange))
    assert site.entries()[-2].sites == ["['x']", "y" * 119 + "…", "None"]


@pytest.mark.parametrize("rule", [MetricsRule(allow=False), MetricsRule(min_cases=10)])
def test_a_site_whose_metrics_may_not_leave_still_says_whether_its_update_can_be_used(
    make: Any, rule: MetricsRule
) -> None:
    site = make(policy=Policy(metrics=rule), sites_digest=_DIGEST)
    site.node.reply = Answer.of(Trained(round=1, norm=0.5, optimizer_norm=2.0, problem="it has NaN"))
    reply = site.ask("fit", round=1)
    assert Trained.from_json(reply.body or "") == Trained(round=1, problem="it has NaN")
    assert str(reply.withheld).startswith("metrics.")
    assert [entry.kind for entry in site.entries() if entry.is_withheld] == ["metrics"]


def test_norms_of_a_masked_update_are_metrics(make: Any) -> None:
    site = make(sites_digest=_DIGEST)
    site.node.reply = Answer.of(Trained(round=1, norm=0.5))
    assert _without_log(site.ask("fit", round=1)) == site.node.reply
    assert (site.entries()[-1].kind, site.entries()[-1].round) == ("metrics", 1)


def test_what_is_wrong_with_an_update_is_not_told_where_errors_may_not_be(make: Any) -> None:
    site = make(policy=Policy.model_validate({"failure": {"allow": False}}), sites_digest=_DIGEST)
    site.node.reply = Answer.of(Trained(round=1, norm=0.5, problem="a secret"))
    told = Trained.from_json(site.ask("fit", round=1).body or "")
    assert (told.norm, told.problem) == (
        0.5,
        "the site's policy does not allow to say why (rule failure.allow): ask the site",
    )
