"""Connections that fall silent, break, or never come about; everything on loopback."""

import contextlib
import queue
import threading
from collections.abc import Iterator

import grpc
import pytest
from flwr.client import NumPyClient
from flwr.common import GetPropertiesIns, ReconnectIns, Scalar
from flwr.proto.transport_pb2 import ClientMessage
from flwr.server.client_manager import SimpleClientManager
from flwr.server.client_proxy import ClientProxy
from flwr.server.superlink.fleet.grpc_bidi.grpc_bridge import GrpcBridgeClosed

from fednnunet.errors import FednnUNetError
from fednnunet.transport.address import find_free_port, join_address
from fednnunet.transport.long_lived.joining import join
from fednnunet.transport.long_lived.serving import serve
from fednnunet.transport.tls import Endpoint

HOST = "127.0.0.1"


class _Connections(SimpleClientManager):
    def __init__(self) -> None:
        super().__init__()
        self.new: queue.Queue[ClientProxy] = queue.Queue()

    def register(self, client: ClientProxy) -> bool:
        self.new.put(client)
        return super().register(client)


class _Coordinator:
    """Says nothing over some connections, and farewell over the next one."""

    def __init__(self, silent: int, says_farewell: bool = True) -> None:
        self.connections = _Connections()
        self._silent = silent
        self._says_farewell = says_farewell

    def run(self) -> None:
        for _ in range(self._silent):
            self.connections.new.get(timeout=60)
        word = "farewell" if self._says_farewell else "work"
        while True:  # on a busy machine a node may find this one too silent as well
            proxy = self.connections.new.get(timeout=60)
            with contextlib.suppress(GrpcBridgeClosed):
                proxy.get_properties(GetPropertiesIns({"ask": word}), timeout=None, group_id=None)
                break
        if self._says_farewell:
            with contextlib.suppress(GrpcBridgeClosed):  # the node may be faster than its answer
                proxy.reconnect(ReconnectIns(seconds=None), timeout=None, group_id=None)


class _Node(NumPyClient):
    def __init__(self) -> None:
        self.heard: list[str] = []
        self.certificate = b""

    @property
    def has_left(self) -> bool:
        return "farewell" in self.heard

    def get_properties(self, config: dict[str, Scalar]) -> dict[str, Scalar]:
        self.heard.append(str(config["ask"]))
        return {}


def _serve(address: str, coordinator: "_Coordinator | _Asking") -> None:
    serve(address, coordinator.connections, coordinator.run)


def _join(port: int, contact_timeout: float) -> tuple[_Node, threading.Thread]:
    node = _Node()
    words = (Endpoint(HOST, port), node, None, contact_timeout)
    thread = threading.Thread(target=join, args=words, daemon=True)
    thread.start()
    return node, thread


def test_a_connection_over_which_nothing_comes_is_replaced_by_another_one() -> None:
    port = find_free_port(HOST)
    node, thread = _join(port, contact_timeout=1.0)
    _serve(join_address(HOST, port), _Coordinator(silent=2))
    thread.join(60)
    assert not thread.is_alive()
    assert node.heard == ["farewell"]


def test_a_node_serves_the_coordinator_that_takes_the_place_of_one_that_has_gone() -> None:
    port = find_free_port(HOST)
    node, thread = _join(port, contact_timeout=60.0)
    _serve(join_address(HOST, port), _Coordinator(silent=0, says_farewell=False))
    _serve(join_address(HOST, port), _Coordinator(silent=0))
    thread.join(60)
    assert not thread.is_alive()
    assert node.heard == ["work", "farewell"]


def test_a_node_gives_up_when_no_coordinator_comes_for_as_long_as_it_may_retry() -> None:
    with pytest.raises(FednnUNetError, match=r"No coordinator was reachable.*--retry_for"):
        join(Endpoint(HOST, find_free_port(HOST)), _Node(), retry_for=0.1)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
def test_a_proxy_is_not_used_on_this_machine(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_grpc_proxy", "")  # what the node changes there is undone after the test
    for name in ("grpc_proxy", "https_proxy", "http_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{find_free_port(HOST)}")
    port, node = find_free_port(host), _Node()
    thread = threading.Thread(target=join, args=(Endpoint(host, port), node, 60.0), daemon=True)
    thread.start()
    _serve(join_address(host, port), _Coordinator(silent=0))
    thread.join(60)
    assert node.heard == ["farewell"]


def test_a_node_that_waits_names_the_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    proxy = f"127.0.0.1:{find_free_port(HOST)}"
    monkeypatch.setenv("grpc_proxy", f"http://user:secret@{proxy}")
    monkeypatch.setenv("no_grpc_proxy", "")
    with pytest.raises(FednnUNetError) as caught:
        join(Endpoint("192.0.2.7", 8080), _Node(), retry_for=0.1)
    assert f"192.0.2.7:8080 through the proxy http://{proxy} within --retry_for" in str(caught.value)
    assert "secret" not in str(caught.value)


class _Asking:
    """Asks a node one question, and waits a moment for what else there is to hear."""

    def __init__(self, all_is_said: threading.Event) -> None:
        self.connections = _Connections()
        self._all_is_said = all_is_said

    def run(self) -> None:
        self.connections.new.get(timeout=60).get_properties(GetPropertiesIns({"ask": "work"}), None, None)
        self._all_is_said.wait(2)  # which should not happen


class _Clinging(_Asking):
    """Asks a node that has left again and again, and never hangs up."""

    def run(self) -> None:
        proxy = self.connections.new.get(timeout=60)
        while not self._all_is_said.wait(0.1):
            with contextlib.suppress(GrpcBridgeClosed):
                proxy.get_properties(GetPropertiesIns({"ask": "farewell"}), timeout=None, group_id=None)


def test_a_node_that_has_left_ends_though_the_coordinator_does_not_hang_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fednnunet.transport.long_lived.joining._HUNG_UP_ON_WITHIN_SECONDS", 0.5)
    port, node_has_ended = find_free_port(HOST), threading.Event()
    _, thread = _join(port, contact_timeout=60.0)
    threading.Thread(target=lambda: (thread.join(60), node_has_ended.set()), daemon=True).start()
    _serve(join_address(HOST, port), _Clinging(node_has_ended))
    assert not thread.is_alive()


class _Unable(_Node):
    """Cannot write its audit log any more, for example."""

    def get_properties(self, config: dict[str, Scalar]) -> dict[str, Scalar]:
        raise FednnUNetError("the disk is full")


def test_a_node_that_can_answer_nothing_any_more_ends_and_says_why_in_one_sentence(
    caplog: pytest.LogCaptureFixture,
) -> None:
    port = find_free_port(HOST)
    errors: list[str] = []

    def join_and_fail() -> None:
        try:
            join(Endpoint(HOST, port), _Unable())
        except FednnUNetError as error:
            errors.append(str(error))

    thread = threading.Thread(target=join_and_fail, daemon=True)
    thread.start()
    with contextlib.suppress(GrpcBridgeClosed):  # the coordinator's question gets no answer
        _serve(join_address(HOST, port), _Asking(threading.Event()))
    thread.join(60)
    assert errors == ["the disk is full"]
    assert not any(record.exc_info for record in caplog.records)  # no traceback of Flower's before it


def test_what_a_node_says_unasked_does_not_fill_memory() -> None:
    port, is_over, all_is_said = find_free_port(HOST), threading.Event(), threading.Event()
    spoken: list[int] = []

    def talk() -> None:
        word = ClientMessage()
        word.get_properties_res.properties["a"].bytes = bytes(1 << 20)
        message = word.SerializeToString()

        def words() -> Iterator[bytes]:
            while not is_over.is_set() and len(spoken) < 500:
                spoken.append(len(message))
                yield message
            all_is_said.set()

        with grpc.insecure_channel(join_address(HOST, port)) as channel, contextlib.suppress(grpc.RpcError):
            call = channel.stream_stream("/flwr.proto.FlowerService/Join", None, None)
            for _ in call(words(), wait_for_ready=True):
                pass

    thread = threading.Thread(target=talk, daemon=True)
    thread.start()
    _serve(join_address(HOST, port), _Asking(all_is_said))
    is_over.set()
    thread.join(60)
    assert len(spoken) < 100  # the rest waits at the node, for a question
