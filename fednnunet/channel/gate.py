"""The gate of a site: everything that a node sends or gets passes here, is held against the policy, and is logged.

The node behind it does not know of it, nor does the channel before it.
"""

import itertools
import json
import logging
from collections.abc import Mapping, Sequence
from typing import Protocol

from flwr.common import NDArrays, Scalar

from fednnunet.background import Background
from fednnunet.channel.approval import Approver
from fednnunet.channel.audit import AuditLog
from fednnunet.channel.identity import Challenge
from fednnunet.channel.messages import Hello, RoundReport, ValidationReport, WorkReport
from fednnunet.channel.paths import without_paths
from fednnunet.channel.policy import KINDS, Kind, Policy, StatisticsRule
from fednnunet.channel.question import identity
from fednnunet.channel.support import enough
from fednnunet.errors import FednnUNetError

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
    "finish": "metrics",
    "test": "metrics",
}
"""What the answer to each question is; to all others it is a sign of life."""

_WITHOUT_METRICS = {
    "evaluate": RoundReport(train_loss=None, val_loss=None, mean_dice=None, dice={}),
    "finish": ValidationReport(mean_dice=None, dice={}),
}
"""What is sent where metrics may not leave: training can go on without them; an evaluation cannot."""

_OF_CASES: tuple[Kind, ...] = ("fingerprint", "cases")
"""Of what two answers that differ by a patient tell that patient's numbers."""
_TOLD_ANYWAY = {"measure"}
"""Whether images are slices: a person agrees to the first numbers that leave, not to this."""
_DIFFERENCE = (
    "CAREFUL: since this site last told of its cases, {} were added or removed. Whoever has both answers can compute "
    "the numbers of these few patients, by subtracting one from the other."
)
_ITERATIONS = ("iterations_per_epoch", "val_iterations_per_epoch")
_ANSWER_WITHIN_SECONDS = 1.0
_LONGEST_FIELD, _MOST_FIELDS = 100, 50
_QUESTIONS = {*_KIND_OF_ANSWER, "hand", "accept", "ping", "farewell", "fit", "evaluate"}


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
    """

    def __init__(self, node: SiteNode, policy: Policy, log: AuditLog, approver: Approver) -> None:
        self._node = node
        self._policy = policy
        self._log = log
        self._approver = approver
        self._approvals: dict[str, Background[bool]] = {}
        self._last_question: str | None = None
        self._rounds = 0
        self._iterations = 0
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
        text = self._node.hello.to_json()
        if self._policy.rule("introduction").confirm and not self._approver.ask(
            "introduction", _summary("introduction", self._node.hello, None, {}, [text.encode()]), [text.encode()]
        ):
            raise FednnUNetError("The introduction of this site was not approved: the node does not connect.")

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
        reply = self._release("fit", kind, body, shapes, reply, payload)
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
        body = _body(config)
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
            approval = self._approval(kind, body, shapes, payload)
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
            without = _WITHOUT_METRICS["finish" if question == "finish" else "evaluate"]
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
        report = RoundReport.from_json(text) if question == "evaluate" else ValidationReport.from_json(text)
        told = enough(report, rule.min_cases)
        if told is None:
            return reply, "metrics.min_cases"
        if told == report:
            return reply, None
        self._log_withheld("metrics", "metrics.min_cases", reply, body)
        return {**reply, "body": told.to_json(), "withheld": "metrics.min_cases"}, None

    def _approval(
        self, kind: Kind, body: Mapping[str, object], shapes: Mapping[str, Sequence[int]], payload: list[bytes]
    ) -> Background[bool]:
        """Return the question to a person whether messages of a kind may leave, which is put once."""
        # a model that has not been trained yet is another matter than one that has
        matter = f"{kind} 0" if kind == "update" and _round(body) == 0 else kind
        if matter not in self._approvals:
            summary = _summary(kind, self._node.hello, _round(body), shapes, payload)
            if self._few_changed(kind):
                summary = f"{_DIFFERENCE.format(self._node.changed_cases)}\n{summary}"
            self._approvals[matter] = Background(lambda tracker: self._approver.ask(kind, summary, payload, tracker))
        return self._approvals[matter]

    def _withhold(self, kind: Kind, rule: str, reply: Reply, body: Mapping[str, object]) -> Reply:
        self._log_withheld(kind, rule, reply, body)
        told: Reply = {"failure": f"the site's policy does not let this out (rule {rule}): ask the site"}
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


def _body(config: Reply) -> dict[str, object]:
    """Return the body of a message, empty if there is none; the node will refuse what is malformed."""
    try:
        body = json.loads(str(config.get("body", "{}")))
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
    return min((count for count in counts if isinstance(count, int)), default=0)


def _summary(
    kind: Kind, hello: Hello, round_number: int | None, shapes: Mapping[str, Sequence[int]], payload: Sequence[bytes]
) -> str:
    """Return what a person reads before it agrees."""
    of_round = "" if round_number is None else f" of round {round_number}"
    lines = [
        f"The first message of kind '{kind}'{of_round} waits: {KINDS[kind]}.",
        f"From {hello.site}, {hello.cases} cases, for the task {hello.task}; {sum(map(len, payload))} bytes.",
        *(f"{name}: array of shape {tuple(shape)}" for name, shape in shapes.items()),
    ]
    if kind == "update":
        lines.append("This is the first part of the model; its other parts, and later rounds, follow without asking.")
    text = b" ".join(part for part in payload if len(part) < 4000).decode(errors="replace")
    return "\n".join([*lines, "".join(c if c.isprintable() else "?" for c in text)[:2000]])
