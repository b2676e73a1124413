"""The gate of a site: everything that a node sends or gets passes here, is held against the policy, and is logged.

The node behind it does not know of it, nor does the channel before it.
"""

import itertools
import json
import logging
from collections.abc import Mapping, Sequence
from typing import Protocol

from flwr.common import NDArrays, Scalar

from fednnunet.background import Background, Tracker
from fednnunet.channel.approval import Approver
from fednnunet.channel.audit import AuditLog
from fednnunet.channel.identity import Challenge
from fednnunet.channel.kept_approvals import KeptApprovals
from fednnunet.channel.messages import (
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
from fednnunet.channel.paths import without_paths
from fednnunet.channel.policy import KINDS, Kind, Policy, StatisticsRule
from fednnunet.channel.question import identity
from fednnunet.channel.readable import answered, asked
from fednnunet.channel.support import enough, enough_gain
from fednnunet.errors import FednnUNetError
from fednnunet.message import WireMessage, is_readable

logger = logging.getLogger(__name__)

Reply = dict[str, Scalar]

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
    "finish": "metrics",
    "gain": "metrics",
    "test": "metrics",
}
"""What the answer to each question is; to all others it is a sign of life."""

_WITHOUT_METRICS = {
    "evaluate": RoundReport(train_loss=None, val_loss=None, mean_dice=None, dice={}),
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
_QUESTIONS = {*_KIND_OF_ANSWER, "hand", "train_own", "accept", "ping", "farewell", "fit", "evaluate"}

_LONG_QUESTIONS: dict[str, type[WireMessage]] = {
    "install": CommonPlans,
    "plan_alone": PlanAlone,
    "share": Sharing,
    "fit": Query,
}
"""The questions that may be longer than others: no more than these is read of what somebody else has sent."""


class SiteNode(Protocol):
    """A node, as the gate sees it."""

    hello: Hello
    changed_cases: int | None

    def tells_of_cases(self) -> None:
        """Take note that sums over the cases, or a list of them, are about to leave the site."""

    @property
    def has_left(self) -> bool:
        """Whether there is no reason to be connected any more."""

    def introduce(self, challenge: Challenge, certificate: bytes) -> Reply:
        """Return the introduction and its proof."""

    def get_properties(self, config: Reply) -> Reply:
        """See `flwr.client.NumPyClient`."""

    def fit(self, parameters: NDArrays, config: Reply) -> tuple[NDArrays, int, Reply]:
        """See `flwr.client.NumPyClient`."""

    def evaluate(self, parameters: NDArrays, config: Reply) -> tuple[float, int, Reply]:
        """See `flwr.client.NumPyClient`."""


class Gate:
    """Stands before a node.

    A message that the policy does not allow is replaced by one that names the rule. Repeated questions, and answers
    that say no more than that the node is at work, are summed up in the log.

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
        self._is_closed = False

    @property
    def has_left(self) -> bool:
        """Whether there is no reason to be connected any more."""
        return self._node.has_left

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
            "introduction", self._summary("introduction", None, answered(json.loads(text), None, [])), [text.encode()]
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
            matters += ["update before any training (one site only)", "update"] if kind == "update" else [kind]
        return [f"{matter} ({KINDS[_kind_of(matter)]})" for matter in matters]

    def introduce(self, challenge: Challenge, certificate: bytes) -> Reply:
        """Return the introduction and its proof."""
        self._log.run = challenge.run
        self._log.append("in", "challenge", [challenge.to_json().encode()], fields=["run", "nonce"])
        reply = self._node.introduce(challenge, certificate)
        return self._send("introduction", reply, {}, None)

    def get_properties(self, config: Reply) -> Reply:
        """Let a question in, and its answer out."""
        question = str(config.get("ask"))
        kind = _KIND_OF_ANSWER.get(question, "contact")
        body = self._take(question, config, [])
        reply = self._node.get_properties(config)
        if kind == "update" and "body" in reply:
            body = _body(reply)  # what leaves is what the node says it is, not what was asked for
        if question == "start" and "body" in reply:
            self._iterations = _fewest_iterations(body)
        shapes = {"data": _length(body)} if kind == "update" else {}
        return self._release(question, kind, body, shapes, reply)

    def fit(self, parameters: NDArrays, config: Reply) -> tuple[NDArrays, int, Reply]:
        """Let a round's work in, and what came of it out."""
        is_new = not self._is_asked_again("fit", config)
        body = self._take("fit", config, parameters)
        if self._node.hello.task == "train":
            refused = self._count_round(is_new)
            if refused is not None:
                return [], 0, self._withhold("contact", refused, {}, body)
        arrays, weight, reply = self._node.fit(parameters, config)
        kind: Kind = "contact" if self._node.hello.task == "train" else "fingerprint"
        shapes = {f"answer {number}": list(array.shape) for number, array in enumerate(arrays)}
        payload = [array.tobytes() for array in arrays]
        reply = self._release("fit", kind, body, shapes, reply, payload, arrays)
        is_sent = not {"failure", "pending"} & set(reply)
        return (arrays if is_sent else []), (weight if is_sent else 0), reply

    def evaluate(self, parameters: NDArrays, config: Reply) -> tuple[float, int, Reply]:
        """Let a round's result in, and what the site says of it out."""
        body = self._take("evaluate", config, parameters)
        loss, weight, reply = self._node.evaluate(parameters, config)
        return loss, weight, self._release("evaluate", "metrics", body, {}, reply)

    def _take(self, question: str, config: Reply, arrays: NDArrays) -> dict[str, object]:
        """Log what has come, and return the body of the question."""
        if self._is_closed:
            raise ConnectionError("the node is leaving")
        body = _body(config, _LONG_QUESTIONS.get(question, WireMessage).longest_text)
        payload = [*_payload(config), *(array.tobytes() for array in arrays)]
        if question == "ping" or self._is_asked_again(question, config):
            self._log.count("in", "contact", payload)
        else:
            shapes = {"data": _length(body)} if question == "hand" else {}
            name = question if question in _QUESTIONS else "unknown"
            self._log.append("in", name, payload, fields=_fields(body), shapes=shapes, round=_round(body))
        if question != "ping":
            self._last_question = identity(question, config)
        return body

    def _is_asked_again(self, question: str, config: Reply) -> bool:
        """Return whether this is the last question once more."""
        return self._last_question is not None and identity(question, config) == self._last_question

    def _count_round(self, is_new: bool) -> str | None:
        """Return the rule against training one more round, if there is one."""
        rule = self._policy.update
        self._rounds += is_new
        if not rule.allow:
            return "update.allow"  # nothing would come of the work
        if rule.max_rounds is not None and self._rounds > rule.max_rounds:
            return "update.max_rounds"
        return None

    def _release(
        self,
        question: str,
        kind: Kind,
        body: Mapping[str, object],
        shapes: dict[str, list[int]],
        reply: Reply,
        data: Sequence[bytes] = (),
        arrays: NDArrays | None = None,
    ) -> Reply:
        """Return the reply as it may leave."""
        if "pending" in reply:
            return self._send("contact", reply, {}, None)
        if "failure" in reply:
            reply = {"failure": without_paths(str(reply["failure"]))}
            if self._policy.failure.allow:
                return self._send("failure", reply, {}, _round(body))
            return self._withhold("failure", "failure.allow", reply, body)
        rule = self._rule_against(kind, sum(map(len, [*_payload(reply), *data])))
        if rule is None and question in _WITHOUT_METRICS:
            reply, rule = self._counted(question, reply, body)
        payload = [*_payload(reply), *data]
        if rule is None and self._policy.rule(kind).confirm and question not in _TOLD_ANYWAY:
            weights = reply.get("data")
            lines = answered(_body(reply), weights if isinstance(weights, bytes) else None, arrays or [])
            approval = self._approval(kind, body, [*asked(question, body), *lines], payload)
            if not approval.wait(_ANSWER_WITHIN_SECONDS):
                pending = WorkReport(done=0, total=0, waits_for_approval=True)
                return self._send("contact", {"pending": pending.to_json()}, {}, None)
            if not _agreed(approval):
                rule = f"{kind}.confirm"
        if rule is None:
            if kind in _OF_CASES and question not in _TOLD_ANYWAY:
                self._node.tells_of_cases()
            return self._send(kind, reply, shapes, _round(body), data)
        if kind == "metrics" and rule.startswith("metrics.") and question != "test":
            self._log_withheld(kind, rule, reply, body)
            without = _WITHOUT_METRICS[question]
            return self._send("contact", {"body": without.to_json(), "withheld": rule}, {}, _round(body))
        return self._withhold(kind, rule, reply, body)

    def _rule_against(self, kind: Kind, size: int) -> str | None:
        rule = self._policy.rule(kind)
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

    def _counted(self, question: str, reply: Reply, body: Mapping[str, object]) -> tuple[Reply, str | None]:
        """Return those of a report's figures that are made of enough cases; or the rule against all of them."""
        rule, text = self._policy.metrics, str(reply["body"])
        if question == "evaluate" and self._iterations < rule.min_val_iterations:
            return reply, "metrics.min_val_iterations"
        report: RoundReport | ValidationReport | GainReport
        told: RoundReport | ValidationReport | GainReport | None
        if question == "gain":
            report = GainReport.from_json(text)
            told = enough_gain(report, rule.min_cases)
        else:
            report = RoundReport.from_json(text) if question == "evaluate" else ValidationReport.from_json(text)
            told = enough(report, rule.min_cases)
        if told is None:
            return reply, "metrics.min_cases"
        if told == report:
            return reply, None
        self._log_withheld("metrics", "metrics.min_cases", reply, body)
        return {**reply, "body": told.to_json(), "withheld": "metrics.min_cases"}, None

    def _approval(
        self, kind: Kind, body: Mapping[str, object], lines: list[str], payload: list[bytes]
    ) -> Background[bool]:
        """Return the question to a person whether messages of a kind may leave, which is put once."""
        matter, run = _matter(kind, body), self._log.run or ""
        if self._few_changed(kind):
            lines = [_DIFFERENCE.format(self._node.changed_cases), *lines]
            matter = f"{matter}, {self._node.changed_cases} cases changed"
        if matter not in self._approvals:
            summary = self._summary(_matter(kind, body), _round(body), lines)

            def ask(tracker: Tracker) -> bool:
                if self._kept is not None and self._kept.has(run, matter):
                    logger.info("%s: approved before in this run.", matter)
                    return True
                agreed = self._approver.ask(kind, summary, payload, tracker)
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

    def _withhold(self, kind: Kind, rule: str, reply: Reply, body: Mapping[str, object]) -> Reply:
        self._log_withheld(kind, rule, reply, body)
        told: Reply = {"failure": f"the site's policy does not allow this message (rule {rule}): ask the site"}
        return self._send("failure", told, {}, _round(body))

    def _log_withheld(self, kind: Kind, rule: str, reply: Reply, body: Mapping[str, object]) -> None:
        fields = _fields(_body(reply))
        self._log.append("out", kind, [], fields=fields, round=_round(body), decision=f"withheld: {rule}")

    def _send(
        self,
        kind: Kind,
        reply: Reply,
        shapes: dict[str, list[int]],
        round_number: int | None,
        data: Sequence[bytes] = (),
    ) -> Reply:
        payload = [*_payload(reply), *data]
        self._sent += sum(map(len, payload))
        if kind == "contact":
            self._log.count("out", "contact", payload)
        else:
            fields = _fields(_body(reply))
            self._log.append("out", kind, payload, fields=fields, shapes=shapes, round=round_number)
        if "pending" in reply:
            return reply
        entries, digest = self._log.head
        return {**reply, "log": f"{entries}:{digest}"}


def _agreed(approval: Background[bool]) -> bool:
    try:
        return approval.result()
    except FednnUNetError as error:  # a person could not even be asked
        logger.error("%s", error)
        return False


def _payload(values: Mapping[str, Scalar]) -> list[bytes]:
    """Return what travels, part by part."""
    return [
        part
        for name, value in values.items()
        for part in (name.encode(), value if isinstance(value, bytes) else str(value).encode(errors="replace"))
    ]


def _body(config: Reply, longest: int = _LONGEST_ANSWER) -> dict[str, object]:
    """Return the body of a message, empty if there is none; the node will refuse what is malformed, or too long."""
    text = str(config.get("body", "{}"))
    if not is_readable(text.encode(errors="replace"), longest):
        return {}
    try:
        body = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return dict(body) if isinstance(body, dict) else {}


def _fields(body: Mapping[str, object]) -> list[str]:
    """Return the names of a body's fields; what the other side sends may have any number of them, of any length."""
    return [name[:_LONGEST_FIELD] for name in itertools.islice(body, _MOST_FIELDS)]


def _round(body: Mapping[str, object]) -> int | None:
    number = body.get("round")
    return number if isinstance(number, int) and not isinstance(number, bool) else None


def _length(body: Mapping[str, object]) -> list[int]:
    """Return the shape of a part of a model."""
    start, stop = body.get("start"), body.get("stop")
    return [stop - start] if isinstance(start, int) and isinstance(stop, int) else []


def _fewest_iterations(start: Mapping[str, object]) -> int:
    """Return of how many batches the figures of a round will be made, at least."""
    schedule = start.get("schedule")
    counts = [schedule.get(name) for name in _ITERATIONS] if isinstance(schedule, dict) else []
    return min((count for count in counts if isinstance(count, int)), default=1)


def _kind_of(matter: str) -> Kind:
    kind: Kind = matter.split()[0]  # type: ignore[assignment]
    return kind


def _matter(kind: Kind, body: Mapping[str, object]) -> str:
    """Return what a person agrees to: a model that has not been trained yet is another matter than one that has."""
    return f"{kind} 0" if kind == "update" and _round(body) == 0 else kind


def _what_follows(matter: str, policy: Policy) -> str:
    """Return what a yes means for the messages that come after."""
    if matter == "introduction":
        return "The node repeats it whenever it connects."
    if matter == "update 0":
        return (
            "This is the first part of the untrained model; its other parts follow without asking. "
            "The first trained part needs another approval."
        )
    if matter == "update":
        most = policy.update.max_rounds
        rounds = "all later rounds" if most is None else f"all later rounds, {most} with this one,"
        return (
            "This is the first part of the first trained update; its other parts, and the updates of "
            f"{rounds} of every fold that this node trains, follow without asking."
        )
    return "All later messages of this kind follow without asking until the node ends, or joins another run."
