"""The rows of the table in SECURITY.md, one test for each, named after it.

What these tests show in one place is tested in depth where each mechanism has its own tests.
"""

import contextlib
import io
import json
import random
import socket
import threading
import tracemalloc
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.client import NumPyClient
from flwr.common import EvaluateIns, FitIns, GetPropertiesIns, Scalar
from flwr.server.client_proxy import ClientProxy

from fednnunet.background import Tracker
from fednnunet.cli.arguments import parse_server
from fednnunet.cli.trust import authenticator_of, tls_files
from fednnunet.coordinator.common_model import common_model
from fednnunet.coordinator.exchange import Averaging
from fednnunet.coordinator.own_labels import of_own_labels
from fednnunet.coordinator.registry import ClientRegistry
from fednnunet.coordinator.site import Site, SiteLate
from fednnunet.errors import CaseError, FednnUNetError, SiteFailure
from fednnunet.evaluation.metrics import Scores
from fednnunet.evaluation.summaries import Summary, summarize_cases, summarize_overall
from fednnunet.fingerprint.moments import VECTOR_LENGTH
from fednnunet.fingerprint.plans import plans_digest
from fednnunet.fingerprint.plausibility import AnswersOfSite
from fednnunet.fingerprint.questions import DigitsQuestion, Follow, MomentsQuestion, Quantity
from fednnunet.node.dataset import SiteDataset
from fednnunet.node.dataset_json import read_raw_dataset_json
from fednnunet.node.planning import PlanningClient
from fednnunet.node.site_client import SiteClient
from fednnunet.node.training import TrainingClient
from fednnunet.privacy.approval import Approver
from fednnunet.privacy.approval import waiting as requests_in
from fednnunet.privacy.audit import AuditLog, verify
from fednnunet.privacy.gate import Gate
from fednnunet.privacy.policy import Policy, Rule
from fednnunet.protocol.conversation import NO_CERTIFICATE, Config, Question
from fednnunet.protocol.messages import (
    CommonPlans,
    Hello,
    Installed,
    Measure,
    ModelPart,
    Query,
    RoundReport,
    SharedCases,
    Start,
    TrainingOptions,
)
from fednnunet.protocol.secure_aggregation import SignedKey, SignedKeys
from fednnunet.report.formats import printable
from fednnunet.security.certificates import create_certificates
from fednnunet.security.identity import Challenge, read_key
from fednnunet.settings.node import PlanningSettings, TrainingSettings
from fednnunet.table_cells import markdown_cell, write_csv
from fednnunet.transport.address import find_free_port, join_address
from fednnunet.transport.connection import NO_PARAMETERS
from fednnunet.transport.long_lived.descriptors import RESERVE, most_connections
from fednnunet.transport.long_lived.joining import join
from fednnunet.transport.long_lived.serving import serve
from fednnunet.transport.tls import Endpoint, UntrustedError, authority, look_at
from fednnunet.weights.norms import outliers
from tests.coordinator.example_model import LAYOUT, description, hello
from tests.coordinator.test_exchange import Holder, _begin, _layout, _sites
from tests.coordinator.training_federation import Trainer, pending, run_training
from tests.fingerprint.example_plans import FINGERPRINT, PLANS
from tests.node.training_node import SIZE, TrainingNode
from tests.pooled import generate_federation, measure
from tests.secure_aggregation.masked_federation import CASES as CASES_OF_SITES
from tests.secure_aggregation.masked_federation import Sites
from tests.secure_aggregation.masked_federation import model as _model
from tests.secure_aggregation.masked_federation import run as run_masked
from tests.system.consortium import CLINICS, Consortium, introduction_of, turn_away
from tests.system.strangers import garbage
from tests.system.wire import RecordingProxy
from tests.system.workspace import Workspace

pytestmark = pytest.mark.system

CASES = generate_federation(6)[1]
HELLO = Hello(
    site="Clinic A",
    task="extract_fingerprint",
    method="FFE",
    cases=len(CASES),
    versions={},
    labels={"background": 0, "lesion": 1},
    channels={str(channel): "CT" for channel in range(len(CASES[0].images))},
    fingerprint="exact",
)


@pytest.fixture(scope="module")
def waiting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Consortium]:
    """A coordinator over TLS that waits for three listed sites."""
    consortium = Consortium(Workspace(tmp_path_factory.mktemp("threats")))
    consortium.start_server()
    yield consortium
    consortium.server.kill()
    consortium.server.communicate()


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[PlanningClient]:
    """A node of a site whose cases are in memory."""
    for variable in ("nnUNet_raw", "nnUNet_preprocessed"):
        monkeypatch.setenv(variable, str(tmp_path / variable))
    monkeypatch.setattr("fednnunet.node.planning.measure", lambda *words: measure(CASES, words[3] // 1_000_000))
    settings = PlanningSettings(task="plan_and_preprocess", dataset="1", no_pp=True)
    client = PlanningClient(settings, SiteDataset("Dataset001_A"), HELLO)
    client.dataset.raw.mkdir(parents=True)
    (client.dataset.raw / "dataset.json").write_text("{}")
    yield client
    client.close()


def _ask(node: SiteClient | Gate, kind: str, body: str, number: int = 0) -> Config:
    """Ask a question until the answer is there."""
    question = Question(kind, body, id=f"{kind} {number}")
    while (answer := node.answer(question)).pending is not None:
        pass
    return answer.to_config()


def _query(node: PlanningClient, question: MomentsQuestion | DigitsQuestion, number: int) -> Config:
    return _ask(node, "fit", Query(question=question).to_json(), number)


def _install(node: PlanningClient, **changes: Any) -> Config:
    plans = {**PLANS, **changes}
    return _ask(node, "install", json.dumps({"fingerprint": FINGERPRINT, "plans": plans, "record": _record()}))


def _record() -> dict[str, Any]:
    return {"method": "FFE", "sites": list(CLINICS), "cases": 25, "plans_digest": "0" * 64, "versions": {}}


def _files(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()}


def _gate(node: PlanningClient, folder: Path, policy: Policy | None = None) -> tuple[Gate, AuditLog]:
    log = AuditLog(folder / "audit.jsonl", "Clinic A", "extract_fingerprint")
    return Gate(node, policy or Policy(), log, Approver(folder / "waits", terminal=False)), log


def test_outsider_without_a_key_gets_a_challenge_and_nothing_else(waiting: Consortium) -> None:
    with waiting.stranger() as stranger:
        asked = stranger.hear_question()
    assert asked is not None
    assert set(json.loads(asked[1])) == {"run", "nonce"}
    assert "start its node with --key" in turn_away(waiting, introduction_of(0), None)


def test_outsider_with_a_recorded_proof_is_turned_away(waiting: Consortium) -> None:
    recorded = waiting.proof(0, Challenge.draw("ab" * 16), introduction_of(0))
    assert "Authentication of site" in turn_away(waiting, introduction_of(0), recorded)


def test_outsider_on_the_wire_reads_nothing(waiting: Consortium) -> None:
    with RecordingProxy(waiting.port) as proxy:
        look_at(Endpoint("localhost", proxy.port, authority(str(waiting.trust / "ca.pem"))))
        through = type(waiting).__new__(Consortium)
        through.trust, through.port = waiting.trust, proxy.port
        turn_away(through, introduction_of(0), b"")
    said = b"".join(bytes(part) for part in (*proxy.sent, *proxy.received))
    assert len(said) > 2000
    for word in ("Clinic", "hello", "nonce", "background", "farewell", "plan_and_preprocess"):
        assert word.encode() not in said


def test_outsider_with_a_certificate_of_their_own_is_not_trusted(waiting: Consortium, tmp_path: Path) -> None:
    create_certificates(["localhost"], tmp_path)
    with pytest.raises(UntrustedError, match="was not issued by the authority"):
        look_at(Endpoint("localhost", waiting.port, authority(str(tmp_path / "ca.pem"))))


def test_outsider_with_many_connections_keeps_nobody_out(waiting: Consortium) -> None:
    strangers = [waiting.stranger() for _ in range(100)]
    try:
        said = turn_away(waiting, introduction_of(0), None)  # is heard, though they say nothing
        assert "start its node with --key" in said
    finally:
        for stranger in strangers:
            stranger.__exit__()


def test_outsider_with_idle_connections_does_not_use_up_descriptors(waiting: Consortium) -> None:
    most_connections()  # this process opens as many itself
    with contextlib.ExitStack() as idle:
        for _ in range(1100):
            idle.enter_context(socket.create_connection(("localhost", waiting.port)))
        assert "start its node with --key" in turn_away(waiting, introduction_of(0), None)
        process = Path(f"/proc/{waiting.server.pid}")
        if process.is_dir():
            (line,) = [line for line in (process / "limits").read_text().splitlines() if "open files" in line]
            assert len(list((process / "fd").iterdir())) + RESERVE // 2 <= int(line.split()[3])
    assert waiting.server.poll() is None


def test_outsider_with_garbage_does_not_stop_the_coordinator(waiting: Consortium) -> None:
    for number in range(200):
        with waiting.stranger() as stranger:
            if number % 2:
                stranger.hear()
            stranger.say(garbage(number))
    assert "start its node with --key" in turn_away(waiting, introduction_of(0), None)
    assert waiting.server.poll() is None


def test_outsider_cannot_reach_a_coordinator_without_certificate_and_list(waiting: Consortium) -> None:
    trust = waiting.trust
    for flags in ((), ("--tls-cert", str(trust / "server.pem"), "--tls-key", str(trust / "server.key"))):
        listening = parse_server(["train", "--num_clients", "3", "--host", "0.0.0.0", *flags]).listening
        with pytest.raises(FednnUNetError, match=r"Other machines can reach 0\.0\.0\.0"):
            authenticator_of(listening, 3) if flags else tls_files(listening)


def test_curious_coordinator_sees_the_update_of_each_site() -> None:
    """Without masks this is not prevented: whoever runs the coordinator can look."""
    nodes = [Holder(site, _layout(a=10), value) for site, value in (("A", 1), ("B", 3))]
    exchange, _ = _begin(nodes, averaging=Averaging("float32", "mean", "none", None))
    seen: dict[str, np.ndarray] = {}
    for node in nodes:
        node.damage = lambda data, name=node.cid: seen.setdefault(name, np.frombuffer(data, np.float32)).tobytes()
    exchange.aggregate(_sites(nodes), 1, {"A": 1, "B": 1})
    assert {name: float(update[0]) for name, update in seen.items()} == {"A": 1.0, "B": 3.0}


def test_curious_coordinator_with_masks_sees_no_update_of_a_site(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that two trainings send is recorded, a plain and a masked one, which are equal but for that."""
    plain, masked = (_sent_weights(tmp_path, monkeypatch, secure=secure) for secure in (False, True))
    (initial,) = [np.frombuffer(data, np.float32) for (_, number, group), data in plain.items() if number == group == 0]
    updates = {site: np.frombuffer(plain[site, 1, 0], np.float32) - initial for site in "ABC"}
    terms = {site: np.frombuffer(masked[site, 1, 0], np.int32, len(initial)) for site in "ABC"}
    limit = 5 / np.sqrt(len(initial))
    for update in updates.values():
        correlations = [np.corrcoef(update, term)[0, 1] for term in terms.values()]
        assert np.abs(correlations).max() < limit
    # what the masks hide is there: the same sum is in both
    weights = np.array([CASES_OF_SITES[site] for site in "ABC"]) / sum(CASES_OF_SITES.values())
    mean = weights @ np.array(list(updates.values()))
    np.testing.assert_allclose(_model(tmp_path / "True" / "run", 1)["0.weights"], initial + mean, atol=1e-5)


def _sent_weights(folder: Path, monkeypatch: pytest.MonkeyPatch, *, secure: bool) -> dict[tuple[str, int, int], bytes]:
    """Return what the sites of a training send: by site, round and group."""
    sites = Sites(folder / str(secure) / "sites", monkeypatch)
    nodes = [sites.node(site, secure=secure) for site in CASES_OF_SITES]
    federation, _ = run_masked(
        folder / str(secure) / "run", nodes, sites.list if secure else None, "--encoding", "float32"
    )
    assert federation.error is None
    sent = {}
    for site, node in zip(CASES_OF_SITES, nodes, strict=True):
        for question, answer in node.seen:
            if question.kind == "fetch":
                part = question.read(ModelPart)
                sent[site, part.round, part.group] = answer.data
    return sent


def test_curious_coordinator_gets_sums_and_counts_but_no_case(node: PlanningClient) -> None:
    assert set(json.loads(str(_ask(node, "measure", Measure(cases=100).to_json())["body"]))) == {"is_two_dimensional"}
    assert "not shared here" in str(_ask(node, "cases", "{}")["failure"])


def test_curious_coordinator_sees_no_image_no_label_and_no_name_of_a_case(
    node: PlanningClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not in what goes wrong either; all that is sent while planning is read in ``test_what_leaves_a_site.py``."""

    def stumble(*_: object) -> None:
        raise CaseError("Mr_X_1953", "has NaN voxels", "replace them")

    def break_down(*_: object) -> None:
        raise RuntimeError("Mr_X_1953 is not what it should be")

    for what in (stumble, break_down):
        monkeypatch.setattr("fednnunet.node.planning.measure", what)
        told = str(_ask(node, "measure", Measure(cases=100).to_json(), number=id(what)))
        assert "failure" in told
        assert "Mr_X" not in told
    # and where an error names one by mistake: of a file, of a list that was changed meanwhile, of the split
    raw, preprocessed = node.dataset.raw, node.dataset.preprocessed
    (raw / "imagesTr").mkdir()
    (raw / "imagesTr" / "Mr_X_1953_0000.png").touch()
    listed = {"labels": HELLO.labels, "dataset": {"Mrs_Y": {"images": [], "label": ""}}}
    (raw / "dataset.json").write_text(json.dumps(listed))
    preprocessed.mkdir(parents=True, exist_ok=True)
    (preprocessed / "splits_final.json").write_text(json.dumps([{"train": ["Mr Z"], "val": []}]))

    def tell(*_: object) -> None:
        raise FednnUNetError("Mr_X_1953_0000.png and the case Mr_X_1953, Mrs_Y or Mr Z; Mr_X_19530 is no case")

    monkeypatch.setattr("fednnunet.node.planning.measure", tell)
    told = str(_ask(node, "measure", Measure(cases=100).to_json(), number=3)["failure"])
    a_case = "a case of this site"
    assert told == f"{a_case}.png and the case {a_case}, {a_case} or {a_case}; Mr_X_19530 is no case"
    monkeypatch.setattr("fednnunet.node.planning.measure", lambda *words: read_raw_dataset_json(words[1]))
    told = str(_ask(node, "measure", Measure(cases=100).to_json(), number=4)["failure"])
    assert told.startswith('dataset.json has no images for the case "a case of this site" in "dataset"')


def test_curious_coordinator_sees_no_path_of_a_site(node: PlanningClient, tmp_path: Path) -> None:
    gate, log = _gate(node, tmp_path)
    broken = node.dataset.raw / "dataset.json"
    broken.write_text("{")
    node.dataset = SiteDataset(node.dataset.name)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("fednnunet.node.planning.measure", lambda *words: read_raw_dataset_json(words[1]))
        told = str(_ask(gate, "measure", Measure(cases=100).to_json())["failure"])
    assert str(broken) in str(node.failure)  # who runs the node reads it
    assert "dataset.json" in told
    assert "/" not in told
    log.close()


def test_curious_coordinator_cannot_subtract_figures_to_a_patient() -> None:
    """Of twelve cases one lacks a label: with it, the sums over labels and over all would give that one's Dice."""
    cases = {
        str(case): {"organ": Scores(dice=0.5 + case / 100), "cyst": Scores(dice=0.2 + case / 50) if case else Scores()}
        for case in range(12)
    }
    labels = ("organ", "cyst")
    of_labels, overall = summarize_cases(cases, labels, 5), summarize_overall(cases, labels, 5)
    assert of_labels["cyst"]["dice"] == Summary()
    assert overall["dice"] == of_labels["organ"]["dice"]  # nothing of the other label is in it


def test_curious_coordinator_cannot_subtract_two_fingerprints_to_a_patient(
    node: PlanningClient, tmp_path: Path
) -> None:
    (node.dataset.raw / "dataset.json").write_text(
        json.dumps({"labels": {"background": 0, "x": 1}, "channel_names": {"0": "CT"}, "file_ending": ".png"})
    )
    images, labels = node.dataset.raw / "imagesTr", node.dataset.raw / "labelsTr"
    policy = Policy.model_validate({"fingerprint": {"min_cases": 3}})
    told = []
    for number, cases in enumerate((6, 6, 7, 9)):  # of the last two, one would be one patient more than before
        for case in range(cases):
            for path in (images / f"c{case}_0000.png", labels / f"c{case}.png"):
                path.parent.mkdir(exist_ok=True)
                path.touch()
        client = PlanningClient(node.arguments, SiteDataset(node.dataset.name), HELLO)
        gate, log = _gate(client, tmp_path / str(number), policy)
        reply = _ask(gate, "measure", Measure(cases=100).to_json())
        if "failure" not in reply:
            reply = _ask(gate, "fit", Query(question=MomentsQuestion()).to_json())
        told.append(reply.get("failure"))
        gate.close()
        log.close()
        client.close()
    assert "fingerprint.min_cases" in str(told.pop(2))
    assert told == [None] * 3


def test_malicious_coordinator_cannot_ask_what_the_protocol_does_not_ask(node: PlanningClient) -> None:
    _ask(node, "measure", Measure(cases=100).to_json())
    follow = [Follow(quantity=Quantity("spacing", 0), bits=60, prefixes=[5])]
    refused = str(_query(node, DigitsQuestion(follow=follow), 1)["failure"])
    assert "the protocol does not allow" in refused
    assert "failure" in _query(node, DigitsQuestion(follow=follow), 2)


@pytest.mark.parametrize(
    "changes",
    [
        {"plans_name": "../../evil"},
        {"plans_name": "/tmp/evil"},
        {"configurations": {"2d": {**PLANS["configurations"]["2d"], "data_identifier": "../../evil"}}},
    ],
)
def test_malicious_coordinator_cannot_write_elsewhere(
    node: PlanningClient, tmp_path: Path, changes: dict[str, Any]
) -> None:
    client = PlanningClient(node.arguments, node.dataset, HELLO.model_copy(update=_PLANS_TOO))
    before = _files(tmp_path)
    assert "failure" in _install(client, **changes)
    assert _files(tmp_path) == before
    client.close()


_PLANS_TOO: dict[str, Any] = {
    "task": "plan_and_preprocess",
    "planner": {"planner": "ExperimentPlanner"},
}


@pytest.mark.parametrize("called", ["os.system", "subprocess.Popen", "torch.load", "builtins.eval"])
def test_malicious_coordinator_cannot_run_code(node: PlanningClient, tmp_path: Path, called: str) -> None:
    planner = Hello.model_validate({**HELLO.model_dump(), **_PLANS_TOO})
    client = PlanningClient(node.arguments, node.dataset, planner)
    before = _files(tmp_path)
    architecture = {**PLANS["configurations"]["2d"]["architecture"], "network_class_name": called}
    refused = _install(client, configurations={"2d": {**PLANS["configurations"]["2d"], "architecture": architecture}})
    assert "network_class_name" in str(refused["failure"])
    assert _files(tmp_path) == before
    client.close()


def test_malicious_coordinator_cannot_make_a_node_allocate_what_no_machine_has(
    node: PlanningClient, tmp_path: Path
) -> None:
    arguments = PlanningSettings(task="plan_and_preprocess", dataset="1", configurations=("3d_fullres",))
    client = PlanningClient(arguments, node.dataset, Hello.model_validate({**HELLO.model_dump(), **_PLANS_TOO}))
    before = _files(tmp_path)
    for number, (changes, key) in enumerate([
        ({"spacing": [1e-9] * 3}, "spacing"),
        ({"patch_size": [100_000] * 3}, "patch_size"),
        ({"resampling_fn_data_kwargs": {"num_threads": 100_000}}, "num_threads"),
    ]):  # fmt: skip
        fullres = {**PLANS["configurations"]["3d_fullres"], **changes}
        plans = {**PLANS, "configurations": {**PLANS["configurations"], "3d_fullres": fullres}}
        common = {
            "fingerprint": FINGERPRINT,
            "plans": plans,
            "record": _record() | {"plans_digest": plans_digest(plans)},
        }
        assert f"{key} " in str(_ask(client, "install", json.dumps(common), number)["failure"])
        assert _files(tmp_path) == before
    client.close()
    schedule = '{"rounds": 10, "local_epochs": 1, "iterations_per_epoch": 1, "val_iterations_per_epoch": 1}'
    with pytest.raises(FednnUNetError, match="completed 1000000"):
        Start.from_json(f'{{"fold": 0, "schedule": {schedule}, "run": "a", "completed": 1000000}}')


def test_malicious_coordinator_cannot_train_another_fold(tmp_path: Path) -> None:
    training = Hello.model_validate({**HELLO.model_dump(), "task": "train", "fingerprint": None, "fold": "1"})
    settings = TrainingSettings(task="train", dataset="1", configuration="2d", fold="1")
    client = TrainingClient(settings, SiteDataset("Dataset001_A"), training)
    for number, fold in enumerate((0, "all", 7)):
        refused = _ask(client, "offer", json.dumps({"fold": fold}), number)
        assert f"for fold {fold}, for which this node was not started" in str(refused["failure"])
    client.close()


class _NobodyIsAsked(Approver):
    """A person who must not be asked for anything."""

    def ask(self, kind: str, summary: str, payload: Sequence[bytes], tracker: Tracker | None = None) -> bool:
        raise AssertionError(summary)


def test_malicious_coordinator_gets_no_trained_weights_as_untrained_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = TrainingNode(tmp_path, monkeypatch, {"case_1": {"organ"}})
    log = AuditLog(tmp_path / "audit.jsonl", "Clinic A", "train")
    policy = Policy.model_validate({"update": {"confirm": True}})
    gate = training.client.gate = Gate(training.client, policy, log, _NobodyIsAsked(tmp_path / "waits"))
    training.begin()
    training.fit(1)
    for again in (lambda: None, training.share, lambda: training.start() and training.share()):
        again()
        assert "asks for an untrained model" in str(training.fetch(0)["failure"])
    gate.close()
    log.close()
    training.client.close()


def test_malicious_coordinator_cannot_ask_for_figures_as_often_as_it_likes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = TrainingNode(tmp_path, monkeypatch, {f"case_{n}": {"organ"} if n else {"lesion"} for n in range(6)})
    log = AuditLog(tmp_path / "audit.jsonl", "Clinic A", "train")
    policy = Policy.model_validate({"metrics": {"min_cases": 5, "min_val_iterations": 10}})
    gate = training.client.gate = Gate(training.client, policy, log, Approver(tmp_path / "waits", terminal=False))
    training.begin()
    assert "has not trained" in str(training.evaluate(1)["failure"])
    training.fit(1)
    told = set()
    for model in range(3):
        training.hand(1, np.full(SIZE, model, np.float32).tobytes())
        told.add(str(training.evaluate(1)["body"]))
        told.add(str(training.ask("finish")["body"]))
    assert len(told) == 2
    assert (training.trainers[0].validations, training.trainers[0].full_validations) == (50, 1)
    # one iteration of training is the loss of one batch
    assert RoundReport(train_loss=None, val_loss=None, mean_dice=None, dice={}).to_json() in told
    (full,) = (json.loads(text) for text in told if "train_loss" not in text)
    assert full["dice"] == {"organ": 0.875, "lesion": None}  # which one patient has
    assert full["mean_dice"] is None
    gate.close()
    log.close()
    training.client.close()


def test_malicious_coordinator_gets_nothing_that_the_policy_forbids(node: PlanningClient, tmp_path: Path) -> None:
    policy = Policy.model_validate({"fingerprint": {"allow": False}, "plans": Rule(allow=False)})
    gate, log = _gate(node, tmp_path, policy)
    assert "rule fingerprint.allow" in str(_ask(gate, "measure", Measure(cases=100).to_json())["failure"])
    # nor under another name, for which the answer is there already
    for kind in ("accept", "evaluate", "fit"):
        answer = gate.answer(Question(kind, Measure(cases=100).to_json(), id="measure 0"))
        assert "two_dimensional" not in str(answer)
    log.close()


def test_malicious_coordinator_gets_nothing_before_a_person_agrees(node: PlanningClient, tmp_path: Path) -> None:
    gate, log = _gate(node, tmp_path, Policy.model_validate({"fingerprint": {"confirm": True}}))
    _ask(gate, "measure", Measure(cases=100).to_json())
    question = Question.of("fit", Query(question=MomentsQuestion()), id="moments")
    for _ in range(3):
        assert set(gate.answer(question).to_config()) == {"pending"}
    while not (requests := requests_in(tmp_path / "waits")):
        pass
    (request,) = requests  # one, however often the question is asked, under whatever name
    gate.answer(replace(question, id="moments, asked in another way"))
    assert requests_in(tmp_path / "waits") == [request]
    request.decide(False)
    while (answer := gate.answer(question)).pending is not None:
        pass
    assert "fingerprint.confirm" in str(answer.failure)
    log.close()


def test_malicious_coordinator_cannot_use_a_proof_at_another_one(waiting: Consortium) -> None:
    key = read_key(waiting.trust / "Clinic A.key")
    with waiting.stranger() as stranger:
        asked = stranger.hear_question()
        assert asked is not None
        # a site that was lured to another coordinator signs that one's certificate, and this one's challenge
        proof = key.prove(Challenge.from_json(asked[1]), b"\1" * 32, introduction_of(0))
        stranger.answer(body=introduction_of(0), data=proof)
        said = stranger.hear_question()
        assert said is not None
        assert "Authentication of site" in said[1]


class _Garbler:
    """A coordinator that asks a node 200 things that are none."""

    def __init__(self) -> None:
        self.registry = ClientRegistry(1)
        self.answers: list[dict[str, Scalar]] = []

    def run(self) -> None:
        proxy = self.registry.next_pending()
        assert proxy is not None
        for number in range(200):
            self.answers.append(self._ask(proxy, number))

    def _ask(self, proxy: ClientProxy, number: int) -> dict[str, Scalar]:
        random_ = random.Random(number)
        bodies: list[Scalar] = ["", "[" * 5000, garbage(number), 3, -1.5, True, '{"cases":1e400}', '{"question":{}}']
        config: dict[str, Scalar] = {"body": random_.choice(bodies), "id": str(number)}
        if number % 3 == 0:
            kinds = ["measure", "install", "cases", "fetch", "hello", "", "__class__", "farewell "]
            config["ask"] = random_.choice(kinds)
            return proxy.get_properties(GetPropertiesIns(config), 60, None).properties
        parameters = NO_PARAMETERS
        if number % 3 == 1:
            return proxy.fit(FitIns(parameters, config), 60, None).metrics
        return proxy.evaluate(EvaluateIns(parameters, config), 60, None).metrics


class _Patient:
    """A node that does not leave because an answer has failed."""

    certificate = NO_CERTIFICATE
    has_left = False

    def __init__(self, client: SiteClient) -> None:
        self.to_client = client.to_client


def test_malicious_coordinator_with_garbage_does_not_stop_a_node(node: PlanningClient, tmp_path: Path) -> None:
    port = find_free_port("127.0.0.1")
    node.gate, log = _gate(node, tmp_path)
    patient, garbler = _Patient(node), _Garbler()
    thread = threading.Thread(target=join, args=(Endpoint("127.0.0.1", port), patient), daemon=True)
    thread.start()
    serve(join_address("127.0.0.1", port), garbler.registry, garbler.run)
    patient.has_left = True
    assert len(garbler.answers) == 200
    assert all({"failure", "pending"} & set(answer) for answer in garbler.answers)
    assert "Traceback" not in str(garbler.answers)
    thread.join(60)
    log.close()
    verify(tmp_path / "audit.jsonl")


def test_malicious_coordinator_cannot_deny_what_it_was_sent(node: PlanningClient, tmp_path: Path) -> None:
    gate, log = _gate(node, tmp_path)
    gate.answer(Question.of("hello", Challenge.draw("ab" * 16)))
    receipt = str(_ask(gate, "measure", Measure(cases=100).to_json())["log"])
    log.close()
    number, digest = receipt.split(":")
    verified = verify(tmp_path / "audit.jsonl", (int(number), digest))
    assert verified.out["fingerprint"] > 0


def test_curious_site_learns_common_results_only() -> None:
    """What a node is sent besides weights: names of the sites, the number of all cases, fingerprint, and plans."""
    assert set(CommonPlans.model_fields) == {"fingerprint", "plans", "record"}
    record = CommonPlans.from_json(json.dumps({"fingerprint": FINGERPRINT, "record": _record()})).record
    assert record is not None
    of_common_results = {"plans_digest", "fingerprint_digest", "given_for"}
    of_the_site_itself = {"made", "preprocessed", "data"}  # written by each for itself
    assert set(record.model_dump()) == {"method", "sites", "cases", "versions"} | of_common_results | of_the_site_itself
    assert set(Installed.model_fields) == {"plans_digest"}
    assert set(SignedKeys.model_fields) == {"round", "group", "keys"}
    assert set(SignedKey.model_fields) == {"site", "key", "context", "signature"}


def test_malicious_site_cannot_take_another_sites_place(waiting: Consortium) -> None:
    key = read_key(waiting.trust / "Clinic C.key")
    with waiting.stranger() as stranger:
        asked = stranger.hear_question()
        assert asked is not None
        proof = key.prove(Challenge.from_json(asked[1]), waiting.certificate().digest, introduction_of(0))
        stranger.answer(body=introduction_of(0), data=proof)
        said = stranger.hear_question()
        assert said is not None
        assert "its key is not the one on the coordinator's list" in said[1]


@pytest.mark.parametrize("damage", ["nan", "length", "empty"])
def test_malicious_site_cannot_crash_the_coordinator_with_an_update(damage: str) -> None:
    nodes = [Holder(site, _layout(a=1000), 1) for site in "AB"]
    exchange, _ = _begin(nodes, averaging=Averaging("float32", "mean", "none", None))
    ways = {
        "nan": lambda data: np.full(len(data) // 4, np.nan, np.float32).tobytes(),
        "length": lambda data: data + b"\0",
        "empty": lambda data: b"",
    }
    nodes[1].damage = ways[damage]
    with pytest.raises(SiteFailure) as failure:
        exchange.aggregate(_sites(nodes), 1, {"A": 1, "B": 1})
    assert failure.value.site == "B"


def test_malicious_site_with_numbers_that_cannot_be_is_named(tmp_path: Path) -> None:
    report = '{"train_loss": 1e308, "val_loss": 1e308, "mean_dice": 1e200, "dice": {}}'
    nodes = [Trainer("A"), Trainer("B"), Trainer("C", evaluate=lambda _: {"body": report})]
    federation, events = run_training(tmp_path, nodes, "--rounds", "1", "--min_clients", "2")
    assert federation.error is None
    assert [event.site for event in events.left_out] == ["C"]
    honest = np.zeros(VECTOR_LENGTH, np.int64)
    AnswersOfSite(5, 1, 100).check(MomentsQuestion(), honest)
    with pytest.raises(FednnUNetError, match="voxels"):
        AnswersOfSite(5, 1, 100).check(MomentsQuestion(), honest + (1 << 40))


@pytest.mark.parametrize(("step", "flags"), [(1e30, ()), (50.0, ("--max_update_norm", "10"))])
def test_malicious_site_cannot_make_the_model_overflow(step: float, flags: tuple[str, ...], tmp_path: Path) -> None:
    nodes = [Trainer(site, step=step if site == "D" else 1.0) for site in "ABCD"]
    federation, events = run_training(tmp_path, nodes, "--rounds", "2", "--min_clients", "3", *flags)
    assert federation.error is None
    assert {event.site for event in events.left_out} == {"D"}
    assert [sorted(event.sites) for event in events.rounds] == [["A", "B", "C"]] * 2
    assert (nodes[0].model.weights == 2).all()


@pytest.mark.parametrize("kind", ["fit", "hand", "evaluate", "finish"])
def test_malicious_site_that_never_answers_does_not_hold_up_the_others(kind: str, tmp_path: Path) -> None:
    nodes = [Trainer("A"), Trainer("B"), Trainer("C", **{kind: pending})]
    federation, events = run_training(tmp_path, nodes, "--rounds", "1", "--min_clients", "2", "--round_timeout", "1")
    assert federation.error is None
    assert {"A", "B"} <= set(events.rounds[0].sites)
    assert {event.site for event in events.left_out} == {"C"}


def test_malicious_site_whose_answer_trickles_does_not_hold_up_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fednnunet.coordinator.site.ANSWER_WITHIN_SECONDS", 0.5)
    port, registry, is_over, said = find_free_port("127.0.0.1"), ClientRegistry(places=1), threading.Event(), []

    def ask() -> None:
        connection = registry.next_pending(60)
        assert connection is not None
        site = Site(HELLO, connection, contact_timeout=3600)
        site.allow(0.0)
        with pytest.raises(SiteLate) as late:  # long before the connection counts as broken
            site.ask("install", None, Installed)
        said.append((str(late.value), site.is_connected))
        is_over.set()

    class Trickling(NumPyClient):
        has_left = False
        certificate = NO_CERTIFICATE

        def get_properties(self, config: dict[str, Scalar]) -> dict[str, Scalar]:
            assert is_over.wait(60)
            return {}

    words = (Endpoint("127.0.0.1", port), Trickling())
    threading.Thread(target=join, args=words, daemon=True).start()
    serve(join_address("127.0.0.1", port), registry, ask)
    assert said == [("Site Clinic A failed: it did not finish within 0 s", False)]


def test_malicious_site_cannot_fill_memory() -> None:
    spacings = "[1.0,1.0,1.0]," * 4_000_000
    text = '{"spacings":[' + spacings + "[1,1,1]]}"
    tracemalloc.start()
    try:
        with pytest.raises(FednnUNetError, match="malformed"):
            SharedCases.from_json(text)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_malicious_site_cannot_name_the_folder_or_choose_the_plans_of_the_exported_model() -> None:
    other = {**PLANS, "image_reader_writer": "NibabelIO"}
    with pytest.raises(FednnUNetError, match="not those on which the sites have agreed"):
        common_model(description(plans=other), [hello()], LAYOUT)
    elsewhere = hello(training=TrainingOptions(trainer="../../../etc", configuration="2d"))
    with pytest.raises(FednnUNetError, match="has the invalid name"):
        common_model(description(), [elsewhere], LAYOUT)


def test_malicious_site_with_an_update_far_out_of_line_is_reported() -> None:
    nodes = [Holder(site, _layout(a=1000), 1) for site in "ABC"]
    exchange, _ = _begin(nodes, averaging=Averaging("float16", "median", "none", None))
    for node, value in zip(nodes, (1.1, 1.2, 50), strict=True):
        node.hold(value)
    norms = exchange.aggregate(_sites(nodes), 1, dict.fromkeys("ABC", 1)).weights
    assert set(outliers(norms)) == {"C"}
    exchange.broadcast(_sites(nodes), 1)
    assert nodes[0].received[0] == pytest.approx(1.2, abs=0.01)  # and does not move a median


def test_malicious_site_cannot_put_formulas_or_markup_into_reports() -> None:
    report = RoundReport(train_loss=0.5, val_loss=0.5, mean_dice=0.5, dice={"x": 0.5, "=cmd|' /C calc'!A0": 0.5})
    assert set(of_own_labels(report, hello("A")).dice) <= set(hello("A").labels)
    file = io.StringIO()
    write_csv(file, [("=1+1", "-x", "ok", -1.0)])
    assert file.getvalue().strip() == "'=1+1,'-x,ok,-1.0"
    assert markdown_cell("a|[b](http://x)\n<script>") == r"a\|\[b\](http\://x) \<script\>"
    assert str(printable("a\x1b[2J[red]")) == "a?[2J[red]"  # text, which rich does not read as markup


def test_malicious_site_cannot_hide_the_end_of_its_log(node: PlanningClient, tmp_path: Path) -> None:
    gate, log = _gate(node, tmp_path)
    gate.answer(Question.of("hello", Challenge.draw("ab" * 16)))
    number, digest = str(_ask(gate, "measure", Measure(cases=100).to_json())["log"]).split(":")
    log.close()
    path = tmp_path / "audit.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    verify(path)  # the chain alone does not show it
    with pytest.raises(FednnUNetError, match="cut off"):
        verify(path, (int(number), digest))
