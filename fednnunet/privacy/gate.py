"""The gate of a site: everything that a node sends or gets passes here, is held against the policy, and is logged."""

import contextlib
import itertools
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from fednnunet.background import Background, Tracker
from fednnunet.errors import FednnUNetError
from fednnunet.fingerprint.questions import COUNT_BYTES
from fednnunet.privacy.approval import Approver
from fednnunet.privacy.audit import AuditLog
from fednnunet.privacy.kept_approvals import KeptApprovals
from fednnunet.privacy.paths import without_paths
from fednnunet.privacy.policy import KINDS, Kind, Policy, StatisticsRule
from fednnunet.privacy.readable import answered, asked, counts, masked, weights
from fednnunet.privacy.support import enough, enough_gain
from fednnunet.protocol.conversation import FAREWELL, HELLO, NO_BODY, PING, TRAIN, VALIDATE, Answer, Answers, Question
from fednnunet.protocol.messages import (
    CommonPlans,
    GainReport,
    Hello,
    PlanAlone,
    Query,
    RoundReport,
    Sharing,
    Task,
    ValidationReport,
    WorkReport,
)
from fednnunet.protocol.secure_aggregation import AGREE, FIGURES, JOIN, OPEN, FiguresRequest, SignedKeys, Trained
from fednnunet.schema import WireMessage, cleaned, is_readable
from fednnunet.security.identity import Challenge

logger = logging.getLogger(__name__)

Body = Mapping[str, object]

_KIND_OF_ANSWER: dict[str, Kind] = {
    "measure": "fingerprint",
    "cases": "cases",
    "install": "plans",
    "plan_alone": "plans",
    "offer": "layout",
    "start": "layout",
    "share": "layout",
    "describe": "model",
    "fetch": "update",
    "collect": "update",
    OPEN: "opening",
    FIGURES: "metrics",
    "finish": "metrics",
    "gain": "metrics",
    "test": "metrics",
    VALIDATE: "metrics",
}
"""What the answer to each question is; to all others it is a sign of life."""

_WITHOUT_METRICS = {
    VALIDATE: RoundReport(train_loss=None, val_loss=None, mean_dice=None, dice={}),
    "finish": ValidationReport(mean_dice=None, dice={}),
    "gain": GainReport(),
}
"""What is sent where metrics may not leave: training can go on without them; an evaluation cannot."""

_KINDS_OF_TASK: dict[Task, tuple[Kind, ...]] = {
    "extract_fingerprint": ("fingerprint", "cases", "plans"),
    "plan_and_preprocess": ("fingerprint", "cases", "plans"),
    "train": ("layout", "model", "update", "metrics"),
    "evaluate": ("metrics",),
}
"""Of which kinds the messages of a task are."""

_SUMMED: tuple[Kind, ...] = ("fingerprint", "update", "metrics")
"""What can leave as a term of a masked sum."""
_OF_CASES: tuple[Kind, ...] = ("fingerprint", "cases")
"""Of what two answers that differ by a patient tell that patient's numbers."""
_TOLD_ANYWAY = {"measure"}
"""Whether images are slices: a person agrees to the first numbers that leave, not to this."""
_DIFFERENCE = (
    "WARNING: since this site last answered about its cases, {} were added or removed. Both answers together reveal "
    "the numbers of these few patients: subtracting one from the other is enough."
)
_ITERATIONS = ("iterations_per_epoch", "val_iterations_per_epoch")
_ANSWER_WITHIN_SECONDS = 1.0
_LONGEST_FIELD, _MOST_FIELDS = 100, 50
_LONGEST_ANSWER = 1 << 28
_LONGEST_SITE, _LONGEST_SITES = 120, 1 << 15
_QUESTIONS = {*_KIND_OF_ANSWER, AGREE, JOIN, "hand", "train_own", "accept", PING, FAREWELL, TRAIN}

_LONG_QUESTIONS: dict[str, type[WireMessage]] = {
    "install": CommonPlans,
    "plan_alone": PlanAlone,
    "share": Sharing,
    JOIN: SignedKeys,
    FIGURES: FiguresRequest,
    TRAIN: Query,
}
"""The questions that may be longer than others: no more than these is read of what somebody else has sent."""


class SiteNode(Answers, Protocol):
    """A node, as the gate sees it."""

    hello: Hello
    changed_cases: int | None

    def tells_of_cases(self) -> None:
        """Take note that sums over the cases, or a list of them, are about to leave the site."""


class Gate:
    """Stands before a node.

    A message that the policy does not allow is replaced by one that names the rule. Repeated questions, and answers
    that say no more than that the node is at work, are summed up in the log. Where the policy demands masked sums, or
    the node has a list of sites for them, no plain answer about cases and no plain trained update passes.

    Parameters
    ----------
    node
        The node.
    policy
        What may leave.
    log
        Where everything is written down before it is sent.
    approver
        Asks a person, where the policy wants that.
    kept
        What a person has agreed to before the node was started again.
    """

    def __init__(
        self, node: SiteNode, policy: Policy, log: AuditLog, approver: Approver, kept: KeptApprovals | None = None
    ) -> None:
        self._node = node
        self._policy = policy
        self._log = log
        self._approver = approver
        self._approvals: dict[str, Background[bool]] = {}
        self._last_question: str | None = None
        self._rounds = 0
        self._kept = kept
        self._iterations = 1
        """Batches of which the losses and the Dice of a round are made, training's or validation's."""
        self._sent = 0
        self._summed_over: list[str] = []
        """The sites of the last sum that was joined."""
        self._is_masking = policy.masked.require or node.hello.sites_digest is not None
        self._is_closed = False

    def close(self) -> None:
        """Let nothing through any more."""
        self._is_closed = True
        for approval in self._approvals.values():
            approval.tracker.stop()

    def approve_introduction(self) -> None:
        """Let a person agree to what the site will say of itself, if the policy wants that.

        Raises
        ------
        FednnUNetError
            If the person does not agree.
        """
        ahead = self._asked_ahead()
        if ahead:
            logger.warning("A person here will be asked to approve: %s. Stay near.", "; ".join(ahead))
        text = self._node.hello.to_json()
        if self._policy.rule("introduction").confirm and not self._approver.ask(
            "introduction", self._summary("introduction", None, answered(json.loads(text), [])), [text.encode()]
        ):
            raise FednnUNetError("The introduction of this site was not approved: the node does not connect.")

    def _asked_ahead(self) -> list[str]:
        """Return what will wait for a person's yes in this task, each with what it is."""
        hello, matters = self._node.hello, []
        if self._policy.introduction_confirm:
            matters.append("introduction")
        for kind in _KINDS_OF_TASK[hello.task]:
            rule = self._policy.rule(kind)
            if not rule.confirm or not rule.allow or (kind == "cases" and hello.fingerprint != "shared-cases"):
                continue
            untrained = ["update before any training (one site only)"] if kind == "update" else []
            matters += [*untrained, _matter(kind, None, is_masked=self._is_masking)]
        return [f"{matter} ({KINDS[_kind_of(matter)]})" for matter in matters]

    def answer(self, question: Question) -> Answer:
        """Let a question in, and its answer out.

        Raises
        ------
        ConnectionError
            After `close`.
        FednnUNetError
            If what passes cannot be logged.
        """
        if self._is_closed:
            raise ConnectionError("the node is leaving")
        if question.kind == HELLO:
            return self._introduce(question)
        is_new = question.key is None or question.key != self._last_question
        body = self._log_question(question, is_new)
        if question.kind == TRAIN and self._node.hello.task == "train":
            rule = self._rule_against_training(is_new)
            if rule is not None:  # nothing would come of the work
                return self._withhold(question, "contact", rule, Answer())
        answer = self._node.answer(question)
        if question.kind == "start" and answer.body is not None:
            self._iterations = _fewest_iterations(body)
        if question.kind == JOIN and _parsed(answer.body or NO_BODY).get("salt") is not None:
            self._summed_over = _sites(body)
        return self._release(question, body, answer)

    def _introduce(self, question: Question) -> Answer:
        """Let a challenge in, and the introduction out."""
        with contextlib.suppress(FednnUNetError):  # the node will refuse what is none
            self._log.run = Challenge.from_json(question.body).run
        name, body = "challenge", _parsed(question.body, Challenge.longest_text)
        self._log.append("in", name, [question.body.encode(errors="replace")], fields=_fields(body))
        answer = self._node.answer(question)
        return self._send("introduction" if answer.failure is None else "failure", answer, None)

    def _log_question(self, question: Question, is_new: bool) -> Body:
        """Log what has come, and return its body."""
        kind = question.kind
        body = _parsed(question.body, _LONG_QUESTIONS.get(kind, WireMessage).longest_text)
        if kind == PING or not is_new:
            self._log.count("in", "contact", question.payload)
        else:
            shapes = {"data": _length(body)} if kind == "hand" else {}
            name, sites = kind if kind in _QUESTIONS else "unknown", _sites(body) if kind == JOIN else None
            self._log.append(
                "in", name, question.payload, fields=_fields(body), shapes=shapes, round=question.round, sites=sites
            )
        if kind != PING:
            self._last_question = question.key
        return body

    def _rule_against_training(self, is_new: bool) -> str | None:
        """Count a round, and return the rule against training it, if there is one."""
        rule = self._policy.update
        self._rounds += is_new
        if not rule.allow:
            return "update.allow"
        if rule.max_rounds is not None and self._rounds > rule.max_rounds:
            return "update.max_rounds"
        return None

    def _kind(self, question: Question, answer: Answer) -> Kind:
        """Return what the answer to a question is; to those that are not listed it is a sign of life."""
        if question.kind == TRAIN and self._node.hello.task != "train":
            return "fingerprint"
        if question.kind == TRAIN and answer.body not in (None, NO_BODY):
            return "metrics"
        return _KIND_OF_ANSWER.get(question.kind, "contact")

    def _release(self, question: Question, body: Body, answer: Answer) -> Answer:
        """Return the answer as it may leave."""
        kind = self._kind(question, answer)
        if answer.pending is not None:
            return self._send("contact", answer, None)
        if answer.failure is not None:
            answer = Answer(failure=without_paths(answer.failure))
            if not self._policy.failure.allow:
                return self._withhold(question, "failure", "failure.allow", answer)
            return self._send("failure", answer, question.round)
        if kind == "metrics" and question.kind == TRAIN:
            answer = self._without_problem(answer)
        rule = self._rule_against(kind, question, answer)
        if rule is None and question.kind in _WITHOUT_METRICS:
            answer, rule = self._counted(question, answer)
        if rule is None and self._policy.rule(kind).confirm and question.kind not in _TOLD_ANYWAY:
            approval = self._approval(kind, question, body, answer)
            if not approval.wait(_ANSWER_WITHIN_SECONDS):
                waiting = WorkReport(done=0, total=0, waits_for_approval=True)
                return self._send("contact", Answer(pending=waiting), None)
            rule = None if _agreed(approval) else f"{kind}.confirm"
        if rule is not None:
            return self._withhold(question, kind, rule, answer)
        if kind in _OF_CASES and question.kind not in _TOLD_ANYWAY:
            self._node.tells_of_cases()
        return self._send(_kind_sent(kind, answer), answer, _round(question, answer))

    def _without_problem(self, answer: Answer) -> Answer:
        """Return what a site says of its masked update, with what is wrong with that only if errors may be told."""
        told = Trained.from_json(answer.body or "")
        if told.problem is None or self._policy.failure.allow:
            return answer
        untold = "the site's policy does not allow to say why (rule failure.allow): ask the site"
        return replace(answer, body=told.model_copy(update={"problem": untold}).to_json())

    def _rule_against(self, kind: Kind, question: Question, answer: Answer) -> str | None:
        """Return the rule that does not let an answer out, whoever agrees to it, if there is one."""
        rule, size = self._policy.rule(kind), sum(map(len, answer.payload))
        if (answer.is_masked or kind == "opening") and not self._policy.masked.allow:
            return "masked.allow"
        if self._is_masking and _can_be_masked(kind, question, answer) and not answer.is_masked:
            return "masked.require"
        if kind == "metrics" and self._policy.metrics.masked and not answer.is_masked:
            return "metrics.masked"
        if not rule.allow:
            return f"{kind}.allow"
        if isinstance(rule, StatisticsRule) and self._node.hello.cases < rule.min_cases:
            return f"{kind}.min_cases"
        if self._few_changed(kind) and not rule.confirm:
            return f"{kind}.min_cases"
        if self._policy.max_bytes is not None and self._sent + size > self._policy.max_bytes:
            return "max_bytes"
        return None

    def _few_changed(self, kind: Kind) -> bool:
        """Return whether an answer differs from an earlier one by so few cases that both together tell of these."""
        rule, changed = self._policy.rule(kind), self._node.changed_cases
        if kind not in _OF_CASES or not isinstance(rule, StatisticsRule) or changed is None:
            return False
        return 0 < changed < rule.min_cases

    def _counted(self, question: Question, answer: Answer) -> tuple[Answer, str | None]:
        """Return those of a report's figures that are made of enough cases; or the rule against all of them."""
        rule, text = self._policy.metrics, answer.body or ""
        if question.kind == VALIDATE and self._iterations < rule.min_val_iterations:
            return answer, "metrics.min_val_iterations"
        report: RoundReport | ValidationReport | GainReport
        told: RoundReport | ValidationReport | GainReport | None
        if question.kind == "gain":
            report = GainReport.from_json(text)
            told = enough_gain(report, rule.min_cases)
        else:
            report = RoundReport.from_json(text) if question.kind == VALIDATE else ValidationReport.from_json(text)
            told = enough(report, rule.min_cases)
        if told is None:
            return answer, "metrics.min_cases"
        if told == report:
            return answer, None
        self._log_withheld("metrics", "metrics.min_cases", question, answer)
        return replace(answer, body=told.to_json(), withheld="metrics.min_cases"), None

    def _approval(self, kind: Kind, question: Question, body: Body, answer: Answer) -> Background[bool]:
        """Return the question to a person whether messages of a kind may leave, which is put once."""
        number, run = _round(question, answer), self._log.run or ""
        about = matter = _matter(kind, number, is_masked=answer.is_masked)
        told = _parsed(answer.body or NO_BODY)
        arrays = [masked(answer.data, self._summed_over)] if answer.is_masked else _shown(kind, answer, told)
        lines = [*asked(question.kind, told if kind == "update" else body), *answered(told, arrays)]
        if self._few_changed(kind):
            lines = [_DIFFERENCE.format(self._node.changed_cases), *lines]
            matter = f"{matter}, {self._node.changed_cases} cases changed"
        if matter not in self._approvals:
            summary = self._summary(about, number, lines)

            def ask(tracker: Tracker) -> bool:
                if self._kept is not None and self._kept.has(run, matter):
                    logger.info("%s: approved before in this run.", matter)
                    return True
                agreed = self._approver.ask(_kind_of(matter), summary, answer.payload, tracker)
                if agreed and self._kept is not None and run:
                    self._kept.add(run, matter)
                return agreed

            self._approvals[matter] = Background(ask)
        return self._approvals[matter]

    def _summary(self, matter: str, round_number: int | None, lines: Sequence[str]) -> str:
        """Return what a person reads before it agrees."""
        hello, kind = self._node.hello, _kind_of(matter)
        of_round = "" if round_number is None else f" of round {round_number}"
        first = f"The first message of kind '{kind}'{of_round} needs approval: {KINDS[kind]}."
        whose = f"From {hello.site}, {hello.cases} cases, for the task {hello.task}."
        return "\n".join([first, whose, *lines, _what_follows(matter, self._policy)])

    def _withhold(self, question: Question, kind: Kind, rule: str, answer: Answer) -> Answer:
        """Send in place of an answer that the policy does not let it out, and why."""
        self._log_withheld(_kind_sent(kind, answer), rule, question, answer)
        without = _without_metrics(question, answer) if rule.startswith("metrics.") else None
        if without is not None:
            return self._send("contact", Answer(without.to_json(), withheld=rule), question.round)
        told = Answer(failure=f"the site's policy does not allow this message (rule {rule}): ask the site")
        return self._send("failure", told, _round(question, answer))

    def _log_withheld(self, kind: Kind, rule: str, question: Question, answer: Answer) -> None:
        fields = _fields(_parsed(answer.body or NO_BODY))
        number = _round(question, answer)
        self._log.append("out", kind, [], fields=fields, round=number, decision=f"withheld: {rule}")

    def _send(self, kind: Kind, answer: Answer, round_number: int | None) -> Answer:
        payload = answer.payload
        self._sent += sum(map(len, payload))
        if kind == "contact":
            self._log.count("out", "contact", payload)
        else:
            body = _parsed(answer.body or NO_BODY)
            shapes = _shapes(kind, answer, body)
            self._log.append("out", kind, payload, fields=_fields(body), shapes=shapes, round=round_number)
        return answer if answer.pending is not None else replace(answer, log=self._log.head)


def _can_be_masked(kind: Kind, question: Question, answer: Answer) -> bool:
    """Return whether an answer tells what masked sums are for: anything of the cases, or weights that were trained."""
    if kind == "update":
        return answer.round != 0
    return kind in _OF_CASES and question.kind not in _TOLD_ANYWAY


def _kind_sent(kind: Kind, answer: Answer) -> Kind:
    """Return as what an answer of a kind leaves."""
    return "masked" if answer.is_masked and kind in _SUMMED else kind


def _without_metrics(question: Question, answer: Answer) -> WireMessage | None:
    """Return what is sent in place of metrics, where something else can be."""
    if question.kind == TRAIN:
        told = Trained.from_json(answer.body or "")
        return Trained(round=told.round, problem=told.problem)
    return _WITHOUT_METRICS.get(question.kind)


def _sites(keys: Body) -> list[str]:
    """Return the names in a list of signed keys, as many as an entry of the log has room for."""
    signed = keys.get("keys")
    listed = [key.get("site") for key in signed if isinstance(key, dict)] if isinstance(signed, list) else []
    names, room = [cleaned(str(name), _LONGEST_SITE) for name in listed], _LONGEST_SITES
    for number, name in enumerate(names):
        room -= len(f"{json.dumps(name, ensure_ascii=False)},".encode())
        if room < 0:
            return [*names[:number], f"{len(names) - number} more"]
    return names


def _agreed(approval: Background[bool]) -> bool:
    try:
        return approval.result()
    except FednnUNetError as error:  # a person could not even be asked
        logger.error("%s", error)
        return False


def _round(question: Question, answer: Answer) -> int | None:
    """Return the round of what leaves: the node's word, where it has one, is what counts, not what was asked for."""
    return question.round if answer.round is None else answer.round


def _parsed(text: str, longest: int = _LONGEST_ANSWER) -> Body:
    """Return the body of a message, empty if there is none; the node will refuse what is malformed, or too long."""
    if not is_readable(text.encode(errors="replace"), longest):
        return {}
    try:
        body = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return dict(body) if isinstance(body, dict) else {}


def _shapes(kind: Kind, answer: Answer, body: Body) -> dict[str, list[int]]:
    """Return the shapes of the arrays beside an answer."""
    if kind == "fingerprint" and answer.data:
        return {"answer 0": [len(answer.data) // COUNT_BYTES]}
    if kind == "masked" and "start" not in body:
        return {"data": [len(answer.data)]}
    return {"data": _length(body)} if kind in ("update", "masked") else {}


def _shown(kind: Kind, answer: Answer, body: Body) -> list[str]:
    """Return lines that tell a person of the arrays beside an answer."""
    if not answer.data:
        return []
    return [counts(answer.data) if kind == "fingerprint" else weights(answer.data, body)]


def _fields(body: Body) -> list[str]:
    """Return the names of a body's fields; what the other side sends may have any number of them, of any length."""
    return [name[:_LONGEST_FIELD] for name in itertools.islice(body, _MOST_FIELDS)]


def _length(body: Body) -> list[int]:
    """Return the shape of a part of a model."""
    start, stop = body.get("start"), body.get("stop")
    return [stop - start] if isinstance(start, int) and isinstance(stop, int) else []


def _fewest_iterations(start: Body) -> int:
    """Return of how many batches the figures of a round will be made, at least."""
    schedule = start.get("schedule")
    counts = [schedule.get(name) for name in _ITERATIONS] if isinstance(schedule, dict) else []
    return min((count for count in counts if isinstance(count, int)), default=1)


def _kind_of(matter: str) -> Kind:
    kind: Kind = matter.split()[0]  # type: ignore[assignment]
    return kind


def _matter(kind: Kind, number: int | None, *, is_masked: bool) -> str:
    """Return what a person agrees to: a model that has not been trained yet is another matter than one that has."""
    if is_masked and kind in _SUMMED:
        return f"masked {kind}"
    return f"{kind} 0" if kind == "update" and number == 0 else kind


def _what_follows(matter: str, policy: Policy) -> str:
    """Return what a yes means for the messages that come after."""
    if matter == "introduction":
        return "The node repeats it whenever it connects."
    if matter == "update 0":
        return (
            "This is the first part of the untrained model; its other parts follow without asking. "
            "The first trained part needs another approval."
        )
    if matter in ("update", "masked update"):
        most = policy.update.max_rounds
        rounds = "all later rounds" if most is None else f"all later rounds, {most} with this one,"
        return (
            "This is the first part of the first trained update; its other parts, and the updates of "
            f"{rounds} of every fold that this node trains, follow without asking."
        )
    return "All later messages of this kind follow without asking until the node ends, or joins another run."
