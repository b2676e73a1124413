"""What is asked of a site survives its connection, but not its node."""

import contextlib
import itertools
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
from flwr.common import DisconnectRes, EvaluateIns, EvaluateRes, FitIns, FitRes, GetPropertiesIns, ReconnectIns, Scalar
from flwr.common import GetPropertiesRes as Reply

from fednnunet.coordinator.site import Site, SiteLate, SiteLost
from fednnunet.errors import FednnUNetError
from fednnunet.protocol.conversation import Answer, Question
from fednnunet.protocol.messages import Farewell, FoldRequest, Hello, Installed, WorkReport
from fednnunet.transport.connection import NO_PARAMETERS
from tests.coordinator.fake_node import OK, FakeNode

Step = dict[str, Scalar] | Exception | Callable[[], Any]
"""What a node does when it is asked: it answers, its connection breaks, or something else happens first."""

ANSWER: Step = {"body": Installed(plans_digest="abc").to_json()}
BREAK = ConnectionResetError("the other side is gone")


class Node(FakeNode):
    """A node of site A that does one step after the other, and remembers what it was asked."""

    def __init__(self, *steps: Step, instance: str = "first") -> None:
        super().__init__(cid=f"connection {id(self)}")
        self.hello = Hello(
            site="A", instance=instance, task="train", method="FFE", cases=1, versions={}, labels={}, channels={}
        )
        self.steps: Iterable[Step] = iter(steps)
        self.asked: list[tuple[str, str]] = []
        self.ids: list[Scalar] = []
        self.has_left = False

    def get_properties(self, ins: GetPropertiesIns, timeout: float | None, group_id: int | None) -> Reply:
        return Reply(OK, self._answer(str(ins.config["ask"]), ins.config))

    def fit(self, ins: FitIns, timeout: float | None, group_id: int | None) -> FitRes:
        return FitRes(OK, NO_PARAMETERS, 7, self._answer("fit", ins.config))

    def evaluate(self, ins: EvaluateIns, timeout: float | None, group_id: int | None) -> EvaluateRes:
        return EvaluateRes(OK, 0.0, 7, self._answer("evaluate", ins.config))

    def reconnect(self, ins: ReconnectIns, timeout: float | None, group_id: int | None) -> DisconnectRes:
        self.has_left = True
        return DisconnectRes("")

    def _answer(self, kind: str, config: dict[str, Scalar]) -> dict[str, Scalar]:
        self.asked.append((kind, str(config["body"])))
        self.ids.append(config.get("id", ""))
        for step in self.steps:
            if isinstance(step, Exception):
                raise step
            if isinstance(step, dict):
                return step
            step()
        raise AssertionError("the node was asked more than it should have been")


def _pending(done: int, total: int = 9) -> Step:
    return {"pending": WorkReport(done=done, total=total).to_json()}


def _site(node: Node) -> Site:
    return Site(node.hello, node, contact_timeout=60)


def _ask(site: Site) -> Installed:
    return site.ask("install", FoldRequest(fold=3), Installed)


def _in_background(action: Callable[[], Any]) -> Future[Any]:
    executor = ThreadPoolExecutor(1)
    future = executor.submit(action)
    executor.shutdown(wait=False)
    return future


@pytest.fixture
def no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fednnunet.coordinator.site.RETURN_WITHIN_SECONDS", 0.01)


def test_a_question_is_asked_with_an_id_of_its_own_and_answered() -> None:
    node = Node(ANSWER, ANSWER)
    site = _site(node)
    assert [_ask(site), _ask(site)] == [Installed(plans_digest="abc")] * 2
    assert node.asked == [("install", '{"fold":3}')] * 2
    assert len({*node.ids, ""}) == 3


def test_bytes_travel_beside_question_and_answer() -> None:
    class Echo(FakeNode):
        def respond(self, kind: str, body: str, data: bytes) -> dict[str, Scalar]:
            return {"body": body, "data": data[::-1]}

    site = Site(Node().hello, Echo(cid="echo"), contact_timeout=60)
    question = FoldRequest(fold=3)
    assert site.answer(Question.of("echo", question, b"\0ab")) == Answer(question.to_json(), b"ba\0")
    assert site.answer(Question.of("echo", question)) == Answer(question.to_json())


def test_a_question_whose_connection_breaks_is_asked_again_over_the_next_one() -> None:
    asked = threading.Event()
    first, second = Node(asked.set, BREAK), Node(ANSWER)
    site = _site(first)
    answer = _in_background(lambda: _ask(site))
    assert asked.wait(60)
    site.connect(second, second.hello)
    assert answer.result(60) == Installed(plans_digest="abc")
    assert second.asked == first.asked
    assert second.ids == first.ids
    assert site.connection is second


def test_a_connection_that_was_replaced_before_it_broke_does_not_take_the_new_one_along() -> None:
    third = Node(ANSWER)
    second = Node(_pending(1), lambda: site.connect(third, third.hello), BREAK)
    first = Node(lambda: site.connect(second, second.hello), BREAK)
    site = _site(first)
    assert _ask(site) == Installed(plans_digest="abc")
    assert [*second.ids, *third.ids] == first.ids * 3
    assert not site.lose_connection(first.cid)
    assert site.connection is third
    assert site.lose_connection(third.cid)
    assert not site.is_connected


@pytest.mark.parametrize("work", ["fit", "evaluate"])
def test_a_rounds_work_is_asked_for_again_with_the_id_that_it_was_given(work: str) -> None:
    second = Node(_pending(1), {"body": "[5]"})
    first = Node(_pending(0), lambda: site.connect(second, second.hello), BREAK)
    site = _site(first)
    config: dict[str, Scalar] = {"ask": work, "body": "{}", "id": "run train 3"}
    reply: FitRes | EvaluateRes
    if work == "fit":
        reply = site.fit(FitIns(NO_PARAMETERS, config), None, None)
    else:
        reply = site.evaluate(EvaluateIns(NO_PARAMETERS, config), None, None)
    assert reply.metrics["body"] == "[5]"
    assert first.ids + second.ids == ["run train 3"] * 4
    assert first.asked + second.asked == [(work, "{}")] * 4


def test_a_restarted_node_is_not_asked_until_it_is_spoken_to_anew() -> None:
    second = Node(ANSWER, instance="second")
    first = Node(lambda: site.connect(second, second.hello), BREAK)
    site = _site(first)
    for _ in range(2):
        with pytest.raises(SiteLost, match="Site A failed: its node was restarted") as caught:
            _ask(site)
        assert caught.value.site == "A"
    assert second.asked == []
    assert site.is_restarted
    site.renew()
    assert not site.is_restarted
    assert _ask(site) == Installed(plans_digest="abc")
    assert site.hello == second.hello


def test_a_question_that_waits_for_a_connection_ends_when_the_node_was_restarted() -> None:
    site = _site(Node())
    site.lose_connection(site.connection.cid if site.connection else "")
    answer = _in_background(lambda: _ask(site))
    second = Node(instance="second")
    site.connect(second, second.hello)
    with pytest.raises(SiteLost, match="restarted"):
        answer.result(60)


@pytest.mark.usefixtures("no_patience")
def test_a_site_that_does_not_return_is_lost_but_may_return_later() -> None:
    site = _site(Node(BREAK))
    with pytest.raises(SiteLost, match="Site A failed: its connection broke"):
        _ask(site)
    assert not site.is_connected
    later = Node(ANSWER)
    site.connect(later, later.hello)
    assert _ask(site) == Installed(plans_digest="abc")


def test_work_that_takes_long_is_asked_for_again_and_reported() -> None:
    node = Node(_pending(2), _pending(5), ANSWER)
    reports: list[WorkReport] = []
    answer = _site(node).ask("install", None, Installed, progress=reports.append)
    assert answer == Installed(plans_digest="abc")
    assert reports == [WorkReport(done=2, total=9), WorkReport(done=5, total=9)]
    assert node.asked == [("install", "{}")] * 3
    assert len(set(node.ids)) == 1


def test_a_question_keeps_the_name_that_it_was_given() -> None:
    node = Node(_pending(2), ANSWER)
    _site(node).ask("finish", None, Installed, id="run finish")
    assert node.ids == ["run finish"] * 2


def test_a_site_that_exceeds_its_time_is_late_and_stays_connected() -> None:
    node = Node()
    node.steps = itertools.repeat(_pending(1), 10_000)
    site = _site(node)
    with pytest.raises(SiteLate, match="Site A failed: it did not finish within 0 s"):
        site.fit(FitIns(NO_PARAMETERS, {"ask": "fit", "body": "{}"}), 0.0, None)
    assert site.is_connected
    assert len(set(node.ids)) == 1


def test_a_site_that_takes_long_within_its_time_is_not_late() -> None:
    site = _site(Node(_pending(1), _pending(2), {"body": "[5]"}))
    assert site.fit(FitIns(NO_PARAMETERS, {"ask": "fit", "body": "{}"}), 3600.0, None).metrics["body"] == "[5]"


def test_a_site_whose_connections_break_again_and_again_is_late_too() -> None:
    connections: list[Node] = []

    def return_only_to_break_again() -> None:
        if len(connections) < 100:
            connections.append(Node(return_only_to_break_again, BREAK))
        else:
            connections.append(Node({"body": "{}"}))
        site.connect(connections[-1], connections[-1].hello)

    site = _site(Node(return_only_to_break_again, BREAK))
    with pytest.raises(SiteLate):
        site.fit(FitIns(NO_PARAMETERS, {"ask": "fit", "body": "{}"}), 0.0, None)


def test_a_failure_that_the_node_reports_is_told_and_does_not_cost_the_connection() -> None:
    node = Node({"failure": "disk is full"}, {"failure": "disk is full"}, ANSWER)
    site = _site(node)
    with pytest.raises(FednnUNetError, match=r"^disk is full$"):
        _ask(site)
    with pytest.raises(FednnUNetError, match=r"^Site A failed: disk is full$"):
        site.fit(FitIns(NO_PARAMETERS, {"ask": "fit", "body": "{}"}), None, None)
    assert _ask(site) == Installed(plans_digest="abc")


@pytest.mark.parametrize("answer", [{"body": "not JSON"}, {"body": '{"plans": 1}'}, {}, {"pending": "{}"}])
def test_an_answer_that_is_none_is_refused_without_asking_again(answer: Step) -> None:
    node = Node(answer)
    with pytest.raises(FednnUNetError, match="message is malformed"):
        _site(node).ask("install", None, Installed, progress=lambda report: None)
    assert len(node.asked) == 1


def test_questions_that_wait_fail_when_the_coordinator_closes() -> None:
    node = Node()
    node.steps = itertools.repeat(_pending(1), 10_000)
    at_work = _site(node)
    with pytest.raises(SiteLost):
        at_work.ask("install", None, Installed, progress=lambda report: at_work.close())
    assert len(node.asked) == 1
    without_connection = _site(Node())
    assert without_connection.connection is not None
    without_connection.lose_connection(without_connection.connection.cid)
    answer = _in_background(lambda: _ask(without_connection))
    without_connection.close()
    with pytest.raises(SiteLost):
        answer.result(60)


def test_ping_tells_whether_the_node_can_be_reached() -> None:
    node = Node(ANSWER, BREAK)
    site = _site(node)
    site.last_contact = 0.0
    assert site.ping()
    assert site.last_contact > 0
    assert not site.ping()
    assert not site.is_connected
    assert not site.ping()
    assert node.asked == [("ping", "{}")] * 2


def test_ping_does_not_disturb_a_site_that_was_heard_of_or_is_asked_something() -> None:
    pinged: list[bool] = []

    def ping() -> None:
        site.last_contact = 0.0
        pinged.append(site.ping(older_than=5.0))

    node = Node(ping, ANSWER, ANSWER)
    site = _site(node)
    assert site.ping(older_than=3600.0)
    _ask(site)
    assert pinged == [True]
    assert [kind for kind, _ in node.asked] == ["install"]
    site.last_contact = 0.0
    assert site.ping(older_than=5.0)
    assert [kind for kind, _ in node.asked] == ["install", "ping"]


def test_an_answer_counts_as_contact() -> None:
    site = _site(Node(ANSWER))
    site.last_contact = 0.0
    _ask(site)
    assert site.last_contact > 0


def test_leave_is_taken_with_a_reason_and_whoever_is_gone_need_not_hear_it() -> None:
    node = Node(ANSWER, BREAK)
    site = _site(node)
    site.disconnect("no more rounds")
    assert node.asked == [("farewell", Farewell(error="no more rounds").to_json())]
    assert node.has_left
    site.disconnect(None)
    site.lose_connection(node.cid)
    site.disconnect(None)
    assert node.asked[1:] == [("farewell", Farewell(error=None).to_json())]


@pytest.mark.parametrize("last", [ANSWER, {"failure": "no"}])
def test_that_a_person_has_to_agree_is_told_when_it_begins_and_when_it_is_over(last: Step) -> None:
    asks: Step = {"pending": WorkReport(done=0, total=0, waits_for_approval=True).to_json()}
    site = _site(Node(_pending(1), asks, asks, last))
    told: list[bool] = []
    site.on_approval = told.append
    with contextlib.suppress(FednnUNetError):
        _ask(site)
    assert told == [True, False]
    assert not site.waits_for_approval
