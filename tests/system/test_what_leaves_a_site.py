"""Every byte that a node sends while a federation plans, as a listener on its line would see them."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest
from flwr.proto.transport_pb2 import ClientMessage, ServerMessage

from fednnunet.coordinator.receipts import RECEIPTS
from fednnunet.fingerprint.distribution import Distribution
from fednnunet.fingerprint.measurement import SiteMeasurement
from fednnunet.fingerprint.moments import VECTOR_LENGTH, Moments
from fednnunet.fingerprint.questions import COUNTS, DigitsQuestion, Follow
from fednnunet.node.extraction import KEPT_MEASUREMENT
from fednnunet.node.gated import AUDIT_LOG
from fednnunet.privacy.audit import read_receipts, verify
from fednnunet.protocol.messages import Farewell, Hello, Installed, Measured, Query, SharedCases, WorkReport
from fednnunet.protocol.secure_aggregation import Joined, Statement
from fednnunet.schema import Message
from fednnunet.transport.address import find_free_port
from tests.system.conftest import CASES, SITES
from tests.system.test_planning import copy_site
from tests.system.wire import RecordingProxy, grpc_messages, split_frames
from tests.system.workspace import Workspace, finish

pytestmark = pytest.mark.system

Exchange = list[tuple[ServerMessage, ClientMessage]]
OBSERVED = SITES[1]


def _observe(workspace: Workspace, *flags: str) -> tuple[Exchange, int]:
    """Plan with all sites, and return what the observed one was asked and has answered, and how many bytes it sent."""
    port = find_free_port("127.0.0.1")
    task = ("plan_and_preprocess", "--port", port)
    with RecordingProxy(port) as proxy:
        processes = [workspace.start("server", *task, "--num_clients", 3)]
        for dataset in (901, 903):
            processes.append(workspace.start("client", *task, dataset, "2d", "--no_pp", "-npfp", 1, *flags))
        # the probe for a coordinator must not reach the proxy before its target listens
        assert processes[0].stdout is not None
        assert "Waiting" in processes[0].stdout.readline()
        observed = ("plan_and_preprocess", "--port", proxy.port, 902, "2d", "--no_pp", "-npfp", 1, *flags)
        processes.append(workspace.start("client", *observed))
        for process in processes:
            status, output = finish(process)
            assert status == 0, output
    asked, answered, rest = b"", b"", b""
    for sent, received in zip(proxy.sent, proxy.received, strict=True):
        data, others = split_frames(bytes(sent))
        answered, rest = answered + data, rest + others
        asked += split_frames(bytes(received))[0]
    # headers and flow control of HTTP/2: too little to hide anything in, and no name of anything
    assert len(rest) < 4000
    for word in (OBSERVED, *CASE_NAMES):
        assert word.encode() not in rest
    questions = [ServerMessage.FromString(message) for message in grpc_messages(asked)]
    probe, *messages = grpc_messages(answered)
    assert probe == b""  # which only asks whether anybody is there
    answers = [ClientMessage.FromString(message) for message in messages]
    for answer, message in zip(answers, messages, strict=True):
        answer.DiscardUnknownFields()
        assert answer.ByteSize() == len(message)
    assert questions.pop().HasField("reconnect_ins")  # after which the node ends the connection without a word
    exchange = list(zip(questions, answers, strict=True))
    _check_log(workspace, exchange, len(asked), len(answered))
    return exchange, len(answered)


def _check_log(workspace: Workspace, exchange: Exchange, asked: int, answered: int) -> None:
    """Assert that the site's audit log accounts for every byte of what was said, and for the wire but for framing."""
    log = workspace.preprocessed / OBSERVED / f"{AUDIT_LOG}.jsonl"
    verified = verify(log, receipts=read_receipts(workspace.results / "fednnunet_runs/plan_and_preprocess" / RECEIPTS))
    assert verified.receipt is not None, "no receipt"
    assert sum(verified.out.values()) == sum(_size_of_answer(answer) for _, answer in exchange)
    assert sum(verified.received.values()) == sum(_size_of_question(question) for question, _ in exchange)
    assert 0 < answered - sum(verified.out.values()) < _FRAMING * len(exchange)
    assert 0 < asked - sum(verified.received.values()) < _FRAMING * (len(exchange) + 1)
    for name in CASE_NAMES:
        assert name not in log.read_text()


def _size_of_answer(answer: ClientMessage) -> int:
    """Return the bytes that an answer tells, without what Flower and the log's own hash add."""
    if answer.WhichOneof("msg") == "get_properties_res":
        return _size(answer.get_properties_res.properties)
    metrics = answer.fit_res.metrics
    return len(metrics["data"].bytes) if "data" in metrics else _size(metrics)


def _size_of_question(question: ServerMessage) -> int:
    is_fit = question.WhichOneof("msg") == "fit_ins"
    config = question.fit_ins.config if is_fit else question.get_properties_ins.config
    # a challenge is logged without the words around it
    is_hello = "ask" in config and config["ask"].string == "hello"
    return len(config["body"].string) if is_hello else _size(config)


def _size(values: Mapping[str, Any]) -> int:
    return sum(len(name) + len(value.string) + len(value.bytes) for name, value in values.items() if name != "log")


_FRAMING = 400
"""Bytes that Flower, protobuf and numpy add to a message, and the hash of the log in it."""

CASE_NAMES = ("imagesTr", ".nii.gz", "HospitalB_0")
ANSWERS: dict[str, tuple[type[Message], ...]] = {
    "hello": (Hello,),
    "measure": (Measured,),
    "cases": (SharedCases,),
    "install": (Installed,),
    "plan_alone": (Installed,),
    "agree": (Statement,),
    "join": (Joined,),
    "farewell": (Farewell,),
}


def _with_all_sites(federation: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    workspace = Workspace(tmp_path_factory.mktemp("observed"))
    for site in SITES:
        copy_site(federation, workspace, site)
    return workspace


def _check_properties(question: ServerMessage, answer: ClientMessage) -> str:
    """Assert that an answer is one of the documented messages for its question and nothing else; return the kind."""
    kind = question.get_properties_ins.config["ask"].string
    properties = dict(answer.get_properties_res.properties.items())
    if "pending" not in properties:
        assert re.fullmatch("[0-9]+:[0-9a-f]{64}", properties.pop("log").string)
    ((name, value),) = properties.items()
    body = value.string
    if name == "pending":
        assert WorkReport.from_json(body).to_json() == body
        return kind
    assert name == "body"
    if kind == "ping":
        assert body == "{}"
        return kind
    for expected in ANSWERS[kind]:
        if set(json.loads(body)) == set(expected.model_fields):
            assert expected.from_json(body).to_json() == body
            return kind
    raise AssertionError(f"{kind} is answered by {body}")


def _kinds_asked(exchange: Exchange) -> list[str]:
    """Check all answers that are no vectors, and return what they answer, but for whether the node is there."""
    answers = [pair for pair in exchange if pair[1].WhichOneof("msg") == "get_properties_res"]
    return [kind for kind in (_check_properties(*pair) for pair in answers) if kind != "ping"]


def _vector(answer: ClientMessage) -> np.ndarray:
    """Return the only vector of an answer, which has nothing else in it."""
    assert not answer.fit_res.parameters.tensors
    assert answer.fit_res.num_examples == CASES[1]
    metrics = answer.fit_res.metrics
    assert sorted(metrics) == ["data", "log"]
    vector = np.frombuffer(metrics["data"].bytes, COUNTS)
    return vector


def _questions_and_vectors(exchange: Exchange) -> Iterator[tuple[Query, np.ndarray]]:
    for question, answer in exchange:
        if answer.WhichOneof("msg") == "fit_res":
            if list(answer.fit_res.metrics) == ["pending"]:
                progress = answer.fit_res.metrics["pending"].string
                assert WorkReport.from_json(progress).to_json() == progress
                assert not answer.fit_res.parameters.tensors
                continue
            yield Query.from_json(question.fit_ins.config["body"].string), _vector(answer)


def _count(measurement: SiteMeasurement, follow: Follow, target: tuple[float, ...] | None) -> list[int]:
    """Count digits once more, in another way: over all numbers, by comparing the leading bits of their keys."""
    name, component = follow.quantity
    if name == "intensity":
        numbers = measurement.samples[component]
    else:
        resampled = np.rint(measurement.spacings / np.array(target or 1.0) * measurement.shapes).astype(np.uint32)
        numbers = Distribution.of(
            {
                "spacing": measurement.spacings[:, component],
                "shape": measurement.shapes[:, component],
                "resampled_shape": resampled[:, component],
                "relative_size": measurement.relative_sizes,
            }[name]
        )
    keys = [int(key) for key in numbers.keys]
    shift = numbers.keys.itemsize * 8 - follow.bits - 4
    return [
        sum(int(count) for key, count in zip(keys, numbers.counts, strict=True) if key >> shift == prefix * 16 + digit)
        for prefix in follow.prefixes
        for digit in range(16)
    ]


def _load(workspace: Workspace) -> SiteMeasurement:
    with np.load(workspace.preprocessed / OBSERVED / KEPT_MEASUREMENT) as kept:
        samples = Distribution(kept["keys_0"], kept["counts_0"].astype(np.int64), "float32")
        return SiteMeasurement(kept["spacings"], kept["shapes"], kept["relative_sizes"], (samples,))


def test_a_node_sends_its_hello_sums_and_counts_and_nothing_else(
    federation: Workspace, tmp_path_factory: pytest.TempPathFactory
) -> None:
    workspace = _with_all_sites(federation, tmp_path_factory)
    exchange, size = _observe(workspace)
    kinds = [answer.WhichOneof("msg") for _, answer in exchange]
    assert set(kinds) == {"get_properties_res", "fit_res"}
    asked = _kinds_asked(exchange)
    assert list(dict.fromkeys(asked)) == ["hello", "measure", "install", "farewell"]

    measurement = _load(workspace)
    assert len(measurement.spacings) == CASES[1]
    answers = list(_questions_and_vectors(exchange))
    for query, vector in answers:
        if isinstance(query.question, DigitsQuestion):
            target = query.question.target_spacing
            counts = [number for follow in query.question.follow for number in _count(measurement, follow, target)]
            assert vector.tolist() == counts
        else:
            assert vector.shape == (VECTOR_LENGTH,)
            assert Moments.from_vector(vector) == Moments.of(measurement.samples[0])
    assert len(answers) > 20
    assert size < 50_000


def test_a_site_that_plans_alone_tells_nothing_about_its_data(
    federation: Workspace, tmp_path_factory: pytest.TempPathFactory
) -> None:
    exchange, size = _observe(_with_all_sites(federation, tmp_path_factory), "--asym")
    kinds = [answer.WhichOneof("msg") for _, answer in exchange]
    assert set(kinds) == {"get_properties_res"}
    asked = _kinds_asked(exchange)
    assert list(dict.fromkeys(asked)) == ["hello", "plan_alone", "farewell"]
    assert size < 10_000


def test_an_audit_log_that_was_tampered_with_is_found_out(
    federation: Workspace, tmp_path_factory: pytest.TempPathFactory
) -> None:
    workspace = _with_all_sites(federation, tmp_path_factory)
    _observe(workspace, "--asym")
    log = workspace.preprocessed / OBSERVED / f"{AUDIT_LOG}.jsonl"
    receipts = str(workspace.results / "fednnunet_runs/plan_and_preprocess" / RECEIPTS)
    lines = log.read_text().splitlines(keepends=True)
    other_bytes = re.sub('"bytes":[0-9]+', '"bytes":0', lines[2])
    tampered = {
        "changed": [*lines[:2], other_bytes, *lines[3:]],
        "missing": [*lines[:2], *lines[3:]],
        "reordered": [*lines[:2], lines[3], lines[2], *lines[4:]],
        "repeated": [*lines[:3], *lines[2:]],
        "cut off at the end": lines[:-2],
        "cut off at the beginning": lines[1:],
    }
    for what, content in tampered.items():
        assert content != lines
        log.write_text("".join(content))
        status, output = workspace.fednnunet("audit", "verify", log, "--receipts", receipts)
        assert (status, output.count("Error")) == (1, 1), (what, output)
    log.write_text("".join(lines))
    status, output = workspace.fednnunet("audit", "verify", log, "--receipts", receipts)
    assert (status, "is intact" in output) == (0, True), output
