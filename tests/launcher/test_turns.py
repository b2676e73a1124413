"""Nodes that work in turn."""

import io
import logging
import threading
from collections.abc import Callable

import numpy as np
import pytest
from flwr.client import NumPyClient
from flwr.common import EvaluateIns, FitIns, GetPropertiesIns, NDArrays, ReconnectIns, Scalar

from fednnunet.background import Background, Worker
from fednnunet.coordinator.registry import ClientRegistry
from fednnunet.launcher.turns import InProcessNode, Turns, join_in_turn, named_records
from fednnunet.node.replies import Replies
from fednnunet.protocol.messages import Hello
from fednnunet.transport.connection import NO_PARAMETERS


class _ByHand:
    """Does jobs when it is told to."""

    def __init__(self) -> None:
        self.jobs: list[Callable[[], None]] = []

    def submit(self, job: Callable[[], None]) -> None:
        self.jobs.append(job)

    def work(self) -> None:
        while self.jobs:
            self.jobs.pop(0)()


def test_jobs_of_all_sites_come_one_after_the_other_in_one_thread() -> None:
    worker, threads = Worker(), list[int]()
    busy = threading.Lock()

    def job(_: object) -> None:
        assert busy.acquire(blocking=False)
        threads.append(threading.get_ident())
        busy.release()

    sites = [Turns(worker, name, io.StringIO()) for name in "AB"]
    works = [Background(job, sites[number % 2]) for number in range(20)]
    for work in works:
        assert work.wait(60)
        work.result()
    assert len(threads) == 20
    assert len(set(threads)) == 1
    assert threads[0] != threading.get_ident()


def test_a_site_finds_its_random_numbers_and_its_output_as_it_has_left_them(
    capsys: pytest.CaptureFixture[str],
) -> None:
    worker, logs = _ByHand(), {name: io.StringIO() for name in "AB"}
    sites = {name: Turns(worker, name, log) for name, log in logs.items()}
    drawn: dict[str, list[float]] = {"A": [], "B": []}

    def seed(name: str) -> None:
        np.random.seed(ord(name))

    def draw(name: str) -> None:
        drawn[name].append(np.random.random())
        print(f"{name} draws")

    for name in "AB":
        sites[name].submit(lambda name=name: seed(name))
    for name in "ABBAAB":
        sites[name].submit(lambda name=name: draw(name))
    worker.work()
    print("the coordinator's")
    for name in "AB":
        np.testing.assert_array_equal(drawn[name], np.random.RandomState(ord(name)).random(3))
        assert logs[name].getvalue() == f"{name} draws\n" * 3
    assert capsys.readouterr().out == "the coordinator's\n"


def test_what_a_site_does_after_its_answer_is_done_before_another_site_has_its_turn() -> None:
    worker, order = _ByHand(), list[str]()
    a, b = (Turns(worker, name, io.StringIO()) for name in "AB")
    replies: Replies[None] = Replies(a)

    def answer(_: object) -> None:
        replies.afterwards(lambda _: order.append("housekeeping of A"))
        order.append("answer of A")

    a.submit(lambda: answer(None))
    b.submit(lambda: order.append("answer of B"))
    a.submit(lambda: order.append("next of A"))
    worker.work()
    assert order == ["answer of A", "housekeeping of A", "answer of B", "next of A"]


class _Node(NumPyClient):
    """Answers, and warns."""

    def get_properties(self, config: dict[str, Scalar]) -> dict[str, Scalar]:
        logging.getLogger("fednnunet.node").warning("asked for %s", config["ask"])
        return {"body": "{}"}

    def fit(self, parameters: NDArrays, config: dict[str, Scalar]) -> tuple[NDArrays, int, dict[str, Scalar]]:
        return [], 7, {"data": b"counts"}

    def evaluate(self, parameters: NDArrays, config: dict[str, Scalar]) -> tuple[float, int, dict[str, Scalar]]:
        return 0.0, 7, {"body": "figures"}


def test_the_coordinator_reaches_a_node_until_it_lets_it_go() -> None:
    registry, node = ClientRegistry(1), InProcessNode("A", _Node().to_client())
    node.join(registry)
    assert registry.next_pending(0) is node
    assert node.get_properties(GetPropertiesIns({"ask": "share"}), None, None).properties == {"body": "{}"}
    assert node.fit(FitIns(NO_PARAMETERS, {}), None, None).metrics == {"data": b"counts"}
    assert node.evaluate(EvaluateIns(NO_PARAMETERS, {}), None, None).metrics == {"body": "figures"}
    node.reconnect(ReconnectIns(None), None, None)
    assert registry.num_available() == 0


def test_any_number_of_nodes_can_join_although_the_roster_has_room_for_few_strangers() -> None:
    registry = ClientRegistry(places=60)
    names = [f"site {number}" for number in range(60)]
    nodes = [InProcessNode(name, _Node().to_client()) for name in names]
    joining = threading.Thread(target=join_in_turn, args=(nodes, registry), daemon=True)
    joining.start()
    refused = {names[7], names[59]}
    for _ in names:
        newcomer = registry.next_pending(60)
        assert newcomer is not None
        if newcomer.cid in refused:
            newcomer.reconnect(ReconnectIns(None), None, None)
        else:
            hello = Hello(site=newcomer.cid, task="train", method="FFE", cases=1, versions={}, labels={}, channels={})
            assert registry.admit(newcomer, hello)
    joining.join(60)
    assert {site.name for site in registry.sites} == set(names) - refused


def test_warnings_tell_which_site_they_come_from_once_for_all_handlers() -> None:
    node = InProcessNode("A", _Node().to_client())
    root, said = logging.getLogger(), list[str]()

    class Keeping(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(record.getMessage())

    handlers = [Keeping(), Keeping()]
    for handler in handlers:
        root.addHandler(handler)
    try:
        with named_records():
            node.get_properties(GetPropertiesIns({"ask": "share"}), None, None)
            root.warning("of %s", "the coordinator")
        node.get_properties(GetPropertiesIns({"ask": "ping"}), None, None)
    finally:
        for handler in handlers:
            root.removeHandler(handler)
    assert said == ["A | asked for share"] * 2 + ["of the coordinator"] * 2 + ["asked for ping"] * 2
