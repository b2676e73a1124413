"""Measures the cost of moving and averaging weights, over real gRPC on loopback, in one run.

``python benchmarks/weights.py [--millions 31 100] [--nodes 2 8 32] [--encodings float32 float16 int8] [--trust]
[--secure]``

Every node is a process of its own that has no network to train: it encodes and decodes as a real one does, but keeps
one slice of weights only, so that many fit on one machine. Beside it runs plain Flower: ``FedAvg`` and a
``NumPyClient`` that returns a list of float32 arrays, with as many nodes as `--plain_up_to` allows, as each holds a
whole model. All nodes share this machine's cores; in a real federation each has its own.

With ``--trust`` each of our rows comes a second time as between hospitals: over TLS, and through each site's gate with
its audit log.

With ``--secure`` each comes again with masked updates. A node masks for all other sites, rounds to fixed ranges, and
hashes as many bytes as a global model has, like a real one; signatures, keys and openings are real too. Only the hash
itself is left out of what sites agree on, because no node has the whole model.
"""

import argparse
import hashlib
import logging
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from unittest import mock

import grpc
import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flwr.client import NumPyClient
from flwr.common import NDArrays, Scalar, ndarrays_to_parameters
from flwr.server import ServerConfig, start_server
from flwr.server.client_manager import SimpleClientManager
from flwr.server.strategy import FedAvg
from rich.console import Console
from rich.table import Table

from fednnunet.coordinator.exchange import Averaging, Exchange
from fednnunet.coordinator.masked_exchange import MaskedExchange, MaskedTraining
from fednnunet.coordinator.run_folder import FoldFolder
from fednnunet.coordinator.site import Site
from fednnunet.privacy.audit import AuditLog
from fednnunet.protocol.conversation import NO_CERTIFICATE, Answer, Answers, Question
from fednnunet.protocol.messages import Hello, ModelPart, Shared
from fednnunet.protocol.secure_aggregation import Joined, Opening, OpeningRequest, SignedKeys, SumRequest
from fednnunet.secure_aggregation.attempts import TRAILER_LENGTH, Attempt, Context, Rules
from fednnunet.secure_aggregation.contexts import TrainingFacts, update_context
from fednnunet.security.certificates import create_certificates
from fednnunet.security.identity import Identity, SiteList, listed_site
from fednnunet.transport.address import find_free_port, join_address
from fednnunet.transport.long_lived.serving import serve
from fednnunet.transport.tls import Endpoint, authority
from fednnunet.weights.encoding import ENCODINGS, Sender, receive, rounding
from fednnunet.weights.fixed_point import FixedPoint
from fednnunet.weights.global_model import slices
from fednnunet.weights.layout import Layout, TensorSpec
from fednnunet.weights.sharing import Group

HOST = "127.0.0.1"
ROUNDS = 2
_ARRAYS = 100
_SLICE = 1 << 20
_TRUST, _SECURE = "TLS and log", "masks"
_READY = "ready"
_FACTS = TrainingFacts("a run", 0, "")


def main() -> None:
    """Measure every combination, each with processes of its own, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--millions", type=int, nargs="+", default=[31, 100], help="parameters of the model, 1e6")
    parser.add_argument("--nodes", type=int, nargs="+", default=[2, 8, 32])
    parser.add_argument("--encodings", nargs="+", default=list(ENCODINGS))
    parser.add_argument("--plain_up_to", type=int, default=8, help="most nodes of plain Flower")
    parser.add_argument("--plain_millions", type=int, default=31, help="largest model of plain Flower, 1e6 parameters")
    parser.add_argument("--trust", action="store_true", help="measure TLS, gate and audit log too")
    parser.add_argument("--secure", action="store_true", help="measure masked updates too")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--role", default="main", help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--index", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.role != "main":
        {"server": _server, "node": _node, "plain-server": _plain_server, "plain-node": _plain_node}[arguments.role](
            arguments
        )
        return
    console = Console(width=160)
    table = Table(title=f"seconds per round, median of {ROUNDS} rounds")
    columns = ("bytes up", "bytes down", "s", "copying in memory, s", "peak MB", "processor s", "of it coordinator")
    for column in ("", "M parameters", "nodes", *columns):
        table.add_column(column, justify="right" if column else "left")
    for millions in arguments.millions:
        for nodes in arguments.nodes:
            rows = [(encoding, "server", "node", "") for encoding in arguments.encodings]
            for how in (_TRUST,) * arguments.trust + (_SECURE,) * arguments.secure:
                rows += [(encoding, "server", "node", how) for encoding in arguments.encodings]
            if nodes <= arguments.plain_up_to and millions <= arguments.plain_millions:
                rows.append(("plain Flower", "plain-server", "plain-node", ""))
            for name, server, node, how in rows:
                with tempfile.TemporaryDirectory() as folder:
                    result = _measure(millions, nodes, name, server, node, Path(folder) if how == _TRUST else None, how)
                name = f"{name}, {how}" if how else name
                table.add_row(name, str(millions), str(nodes), *result)
                console.print(f"{name}, {millions} M, {nodes} nodes: {' '.join(result)}", highlight=False)
    console.print(table)


def _measure(millions: int, nodes: int, name: str, server: str, node: str, folder: Path | None, how: str) -> list[str]:
    """Start a coordinator and its nodes, and return the cells of the table; with a folder, over TLS."""
    port = str(find_free_port(HOST))
    words = [sys.executable, __file__, "--port", port, "--millions", str(millions), "--nodes", str(nodes)]
    if name in ENCODINGS:
        words += ["--encodings", name]
    if folder is not None:
        create_certificates(["localhost"], folder)
        words += ["--folder", str(folder)]
    if how == _SECURE:
        words.append("--secure")
    processes = [
        subprocess.Popen([*words, "--role", node, "--index", str(index)], stderr=subprocess.DEVNULL)
        for index in range(nodes)
    ]
    try:
        coordinator = subprocess.Popen([*words, "--role", server], stdout=subprocess.PIPE, text=True)
        assert coordinator.stdout is not None
        line, begun, seconds = coordinator.stdout.readline(), 0.0, 0.0
        if line.strip() == _READY:
            begun = _processor_seconds(processes)
            line = coordinator.stdout.readline()
            seconds = (_processor_seconds(processes) - begun) / ROUNDS
        coordinator.communicate()
    finally:
        for process in processes:
            process.terminate()
            process.wait()
    cells = line.split()
    return cells if len(cells) < _CELLS else [*cells[:-1], f"{seconds + float(cells[-1]):.2f}", cells[-1]]


_CELLS = 6
"""Of a row that knows the processor time of its coordinator."""


def _processor_seconds(processes: Sequence["subprocess.Popen[bytes]"]) -> float:
    """Return the processor time that all of these have taken so far."""
    fields = [Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split() for process in processes]
    return sum(int(user) + int(system) for *_, user, system in (each[:13] for each in fields)) / os.sysconf(
        "SC_CLK_TCK"
    )


class _Measuring:
    """A coordinator that exchanges a model a few times."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.manager = SimpleClientManager()
        self._arguments = arguments

    def run(self) -> None:
        """Exchange and print the figures."""
        nodes, encoding = self._arguments.nodes[0], self._arguments.encodings[0]
        size = self._arguments.millions[0] * 1_000_000
        self.manager.wait_for(nodes, timeout=600)
        proxies = list(self.manager.all().values())
        sites = [Site(_hello(_name(number)), proxy, 600) for number, proxy in enumerate(proxies)]
        if self._arguments.secure:
            hellos = [(site.ask("hello", None, Hello), proxy) for site, proxy in zip(sites, proxies, strict=True)]
            sites = [Site(hello, proxy, 600) for hello, proxy in sorted(hellos, key=lambda each: each[0].site)]
        names = tuple(site.name for site in sites)
        groups, averaging = [Group(names, _layout(size))], Averaging(encoding, "mean", "none", None)
        exchange = self._masked(groups, averaging) if self._arguments.secure else Exchange(groups, averaging)
        exchange.initialize({site.name: site for site in sites}, [])
        weights, first = dict.fromkeys(names, 1), 1
        if self._arguments.secure:  # the first changes travel in 32 bits, whatever comes later
            exchange.aggregate(sites, first, weights)
            exchange.broadcast(sites, first)
            first += 1
        seconds, processor = [], time.process_time()
        print(_READY, flush=True)
        for number in range(first, first + ROUNDS):
            began = time.monotonic()
            exchange.aggregate(sites, number, weights)
            exchange.broadcast(sites, number)
            seconds.append(time.monotonic() - began)
        processor = (time.process_time() - processor) / ROUNDS
        down = ENCODINGS[encoding].size(size) / size
        trailers = 8 * TRAILER_LENGTH * len(list(slices(size, nodes)))
        up = _bits(encoding) / 8 + trailers / size if self._arguments.secure else down
        _print_cells(up, down, float(np.median(seconds)), (up + down) * size * nodes, processor)

    def _masked(self, groups: Sequence[Group], averaging: Averaging) -> MaskedExchange:
        names = groups[0].sites
        listed = SiteList([listed_site(name, _identity(name)) for name in names])
        mock.patch("fednnunet.coordinator.masked_exchange.update_context", _context).start()
        folder = FoldFolder(Path(tempfile.mkdtemp()))
        training = MaskedTraining(_FACTS, listed, dict.fromkeys(names, 1), by_cases=False, folder=folder)
        return MaskedExchange(groups, averaging, Layout(()), training)


def _context(
    facts: TrainingFacts, request: SumRequest, members: Sequence[str], fixed: FixedPoint, model: np.ndarray
) -> Context:
    """Return the context of a sum, for which the model is hashed in vain: each node has a slice of it only."""
    return {**update_context(facts, request, members, fixed, model), "global model": ""}


def _name(number: int) -> str:
    return f"site {number:02d}"


def _identity(name: str) -> Identity:
    return Identity(Ed25519PrivateKey.from_private_bytes(hashlib.sha256(name.encode()).digest()))


def _bits(encoding: str) -> int:
    return 32 if ENCODINGS[encoding].is_exact else 16  # type: ignore[index]


def _hello(site: str) -> Hello:
    return Hello(site=site, task="train", method="FFE", cases=1, versions={}, labels={}, channels={})


def _layout(size: int) -> Layout:
    return Layout((TensorSpec("weights", (size,), "float32"),))


def _print_cells(up: float, down: float, seconds: float, moved: float, processor: float | None = None) -> None:
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    chunk = np.ones(1 << 22, np.uint8)
    target = np.empty_like(chunk)
    began = time.monotonic()
    for _ in range(max(1, round(moved / chunk.size))):
        np.copyto(target, chunk)
    copying = time.monotonic() - began
    cells = [f"{up:.3f}", f"{down:.3f}", f"{seconds:.2f}", f"{copying:.2f}", f"{int(peak.split()[1]) / 1000:.0f}"]
    print(*cells, *([] if processor is None else [f"{processor:.2f}"]), flush=True)


def _server(arguments: argparse.Namespace) -> None:
    folder: Path | None = arguments.folder
    tls = None if folder is None else ((folder / "server.pem").read_bytes(), (folder / "server.key").read_bytes())
    measuring = _Measuring(arguments)
    serve(join_address(HOST, arguments.port), measuring.manager, measuring.run, tls)


class _Node(NumPyClient):
    """Has one slice of weights, which stands for all of them."""

    has_left = False
    certificate = NO_CERTIFICATE
    changed_cases = None
    hello = _hello("a site")

    def __init__(self, encoding: str, size: int) -> None:
        rng = np.random.default_rng(0)
        self._layout = _layout(size)
        self._encoding = ENCODINGS[encoding]  # type: ignore[index]
        self._known = rng.normal(size=_SLICE).astype(np.float32)
        self._update = self._known + rng.normal(size=_SLICE).astype(np.float32) / 100
        self._sender = Sender(self._encoding, _SLICE)
        self.gate: Answers = self

    def get_properties(self, config: dict[str, Scalar]) -> dict[str, Scalar]:
        """Hand a question to the gate, if there is one."""
        return self.gate.answer(Question.from_config(config)).to_config()

    def tells_of_cases(self) -> None:
        """Tell of none."""

    def answer(self, question: Question) -> Answer:
        """Agree, or send or take a part."""
        if question.kind == "share":
            return Answer.of(Shared(digests=[self._layout.digest]))
        part = question.read(ModelPart)
        here = slice(0, part.stop - part.start)
        encoding = ENCODINGS["float32"] if part.round == 0 else self._encoding
        if question.kind == "fetch":
            if part.round == 0:
                return Answer.of(part, encoding.encode(self._known[here], rounding(0))[0])
            random = rounding(part.round, part.start)
            data, _ = self._sender.encode(here, self._update[here], self._known[here], random)
            return Answer.of(part, data)
        receive(encoding, question.data, self._known[here])
        return Answer.of(part)


class _MaskedNode(_Node):
    """Has one slice, and sends it as a term of masked sums."""

    def __init__(self, encoding: str, size: int, number: int, nodes: int) -> None:
        super().__init__(encoding, size)
        self.hello = _hello(_name(number))
        self._names = [_name(other) for other in range(nodes)]
        self._rules = Rules(SiteList([listed_site(name, _identity(name)) for name in self._names]))
        self._error = np.zeros(_SLICE, np.float32)
        self._fixed: FixedPoint
        self._attempt: Attempt

    def answer(self, question: Question) -> Answer:
        """Agree, join, mask a part, or open; the rest as a node that masks nothing."""
        if question.kind == "hello":
            return Answer.of(self.hello)
        if question.kind == "agree":
            return self._agree(question.read(SumRequest), question.data)
        if question.kind == "join":
            return Answer.of(Joined(salt=self._attempt.join(question.read(SignedKeys).keys, self._rules)))
        if question.kind == "open":
            request = question.read(OpeningRequest)
            return Answer.of(Opening(round=request.round, key=self._attempt.opening(request.salt).hex()))
        if question.kind == "fetch" and (part := question.read(ModelPart)).round:
            return Answer.of(part, self._masked(part))
        return super().answer(question)

    def _agree(self, request: SumRequest, exponents: bytes) -> Answer:
        size = self._layout.size
        for start in range(0, size, _SLICE):
            hashlib.sha256(self._known[: min(_SLICE, size - start)].data)
        self._fixed = FixedPoint.of_bytes(request.bits, exponents, size, request.total)
        context = _context(_FACTS, request, self._names, self._fixed, self._known)
        self._attempt = Attempt(_identity(self.hello.site), self.hello.site, context)
        return Answer.of(self._attempt.statement)

    def _masked(self, part: ModelPart) -> bytes:
        here = slice(0, part.stop - part.start)
        wanted = self._update[here] - self._known[here] + self._error[here]
        random = None if self._encoding.is_exact else rounding(part.round, part.start)
        values, sent = self._fixed.encode(part.start, wanted, 1, random)
        np.subtract(wanted, sent, out=self._error[here])
        return self._attempt.mask_part(values, part.start, 1)


def _node(arguments: argparse.Namespace) -> None:
    # the coordinator, whose memory is measured, imports none of this
    from fednnunet.privacy.approval import Approver
    from fednnunet.privacy.gate import Gate
    from fednnunet.privacy.policy import Policy
    from fednnunet.transport.long_lived.joining import join

    encoding, size = arguments.encodings[0], arguments.millions[0] * 1_000_000
    node = (
        _MaskedNode(encoding, size, arguments.index, arguments.nodes[0]) if arguments.secure else _Node(encoding, size)
    )
    folder: Path | None = arguments.folder
    if folder is None:
        join(Endpoint(HOST, arguments.port), node)
        return
    log = AuditLog(folder / f"{arguments.index}.jsonl", "a site", "train")
    node.gate = Gate(node, Policy(), log, Approver(folder, terminal=False))
    join(Endpoint("localhost", arguments.port, authority(str(folder / "ca.pem"))), node)


def _model(arguments: argparse.Namespace) -> NDArrays:
    size = arguments.millions[0] * 1_000_000 // _ARRAYS
    return [np.full(size, 0.1, np.float32) for _ in range(_ARRAYS)]


def _plain_server(arguments: argparse.Namespace) -> None:
    logging.getLogger("flwr").setLevel(logging.ERROR)
    nodes = arguments.nodes[0]
    strategy = FedAvg(
        fraction_evaluate=0.0,
        min_fit_clients=nodes,
        min_available_clients=nodes,
        initial_parameters=ndarrays_to_parameters(_model(arguments)),
        accept_failures=False,
    )
    began: list[float] = []
    configure = strategy.configure_fit

    def configure_fit(*words: object, **named: object) -> object:
        strategy_instructions = configure(*words, **named)  # type: ignore[arg-type]
        began.append(time.monotonic())
        return strategy_instructions

    aggregate = strategy.aggregate_fit
    seconds: list[float] = []

    def aggregate_fit(*words: object, **named: object) -> object:
        result = aggregate(*words, **named)  # type: ignore[arg-type]
        seconds.append(time.monotonic() - began[-1])
        return result

    strategy.configure_fit = configure_fit  # type: ignore[method-assign, assignment]
    strategy.aggregate_fit = aggregate_fit  # type: ignore[method-assign, assignment]
    start_server(
        server_address=join_address(HOST, arguments.port),
        strategy=strategy,
        config=ServerConfig(num_rounds=ROUNDS),
    )
    moved = 8.0 * arguments.millions[0] * 1_000_000 * nodes
    _print_cells(4, 4, float(np.median(seconds)), moved)


def _plain_node(arguments: argparse.Namespace) -> None:
    from flwr.client import NumPyClient, start_client

    class PlainClient(NumPyClient):
        """What a tutorial would write: parameters in, parameters out."""

        def __init__(self, model: NDArrays) -> None:
            self._model = model

        def fit(self, parameters: NDArrays, config: dict[str, Scalar]) -> tuple[NDArrays, int, dict[str, Scalar]]:
            """Return a model without having trained."""
            return self._model, 1, {}

    logging.getLogger("flwr").setLevel(logging.ERROR)
    with grpc.insecure_channel(join_address(HOST, arguments.port)) as probe:
        grpc.channel_ready_future(probe).result()
    client = PlainClient(_model(arguments)).to_client()
    start_client(server_address=join_address(HOST, arguments.port), client=client, insecure=True, max_wait_time=60)


if __name__ == "__main__":
    main()
