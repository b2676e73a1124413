"""Federations over TLS with named sites, through the real commands; strangers do not disturb them."""

import datetime
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from fednnunet.channel.address import find_free_port
from fednnunet.channel.certificates import create_certificates
from fednnunet.channel.identity import Challenge, create_key, entry, read_key
from fednnunet.channel.tls import Certificate, Endpoint, authority, look_at
from tests.system.conftest import SITES
from tests.system.strangers import FalseCoordinator, Stranger
from tests.system.test_planning import copy_site
from tests.system.workspace import Workspace, finish

pytestmark = pytest.mark.system

CLINICS = ("Clinic A", "Clinic B", "Clinic C")
TASK = ("plan_and_preprocess", "--no_pp", "-npfp", 1)


class Consortium:
    """A coordinator with a certificate and a list of sites, and what each site needs.

    Attributes
    ----------
    server
        The coordinator's process, once it is started.
    """

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self.trust = workspace.folder / "trust"
        create_certificates(["localhost"], self.trust)
        entries = [entry(create_key(clinic, self.trust)[2]) for clinic in CLINICS]
        (self.trust / "sites.toml").write_text("\n".join(entries))
        self.port = find_free_port("127.0.0.1")
        self.server: subprocess.Popen[str]

    def start_server(self, *flags: object) -> None:
        tls = ("--tls-cert", self.trust / "server.pem", "--tls-key", self.trust / "server.key")
        words = (TASK[0], "--num_clients", 3, "--port", self.port, *tls, "--sites", self.trust / "sites.toml", *flags)
        self.server = self.workspace.start("server", *words)
        assert self.server.stdout is not None
        assert "Waiting" in self.server.stdout.readline()

    def words(self, number: int, **changes: object) -> list[object]:
        """Return the words of a site's node; ``None`` leaves a flag out."""
        flags = {
            "--host": "localhost",
            "--port": self.port,
            "--ca-cert": self.trust / "ca.pem",
            "--key": self.trust / f"{CLINICS[number]}.key",
            "--audit_log": self.workspace.folder / f"{CLINICS[number]}.jsonl",
            "--retry_for": 30,
        }
        flags |= {f"--{name.replace('ca_cert', 'ca-cert')}": value for name, value in changes.items()}
        given = [word for name, value in flags.items() if value is not None for word in (name, value)]
        return ["client", TASK[0], SITES[number], "2d", *TASK[1:], *given]

    def start(self, number: int, **changes: object) -> "subprocess.Popen[str]":
        return self.workspace.start(*map(str, self.words(number, **changes)))

    def refusal(self, number: int, **changes: object) -> str:
        """Return the only sentence that a node ends with."""
        status, output = finish(self.start(number, **{"audit_log": self.trust / "other.jsonl", **changes}))
        (sentence,) = [line for line in output.splitlines() if line.startswith("Error: ")]
        assert status == 1, output
        assert "Traceback" not in output
        return sentence

    def proof(self, number: int, challenge: Challenge, introduction: str) -> bytes:
        """Return a site's proof for a challenge."""
        key = read_key(self.trust / f"{CLINICS[number]}.key")
        return key.prove(challenge, self.certificate().digest, introduction)

    def certificate(self) -> Certificate:
        return look_at(Endpoint("localhost", self.port, authority(str(self.trust / "ca.pem"))))

    def stranger(self) -> Stranger:
        return Stranger(f"localhost:{self.port}", self.trust / "ca.pem")


@pytest.fixture
def consortium(federation: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Consortium]:
    """Three sites whose coordinator is not started yet."""
    workspace = Workspace(tmp_path_factory.mktemp("with trust"))
    for site in SITES:
        copy_site(federation, workspace, site)
    yield (made := Consortium(workspace))
    if hasattr(made, "server"):
        made.server.kill()


def _introduction(number: int) -> str:
    return (
        f'{{"site":"{CLINICS[number]}","instance":"other","task":"plan_and_preprocess","method":"FFE","cases":8,'
        '"versions":{},"labels":{"background":0},"channels":{"0":"CT"}}'
    )


def _is_turned_away(consortium: Consortium, introduction: str, proof: bytes | None) -> str:
    """Introduce oneself, and return what the coordinator says before it hangs up."""
    with consortium.stranger() as stranger:
        asked = stranger.hear_question()
        assert asked is not None
        kind, body = asked
        assert kind == "hello"
        assert set(Challenge.from_json(body).model_dump()) == {"run", "nonce"}  # nothing else is told
        stranger.answer(body=introduction, **({} if proof is None else {"data": proof}))
        said = stranger.hear_question()
        assert said is not None
        assert said[0] == "farewell"
        stranger.answer(body="{}")
        while stranger.hear() is not None:
            stranger.answer(body="{}")
        return said[1]


def _garbage(number: int) -> bytes:
    random_ = random.Random(number)
    size = random_.choice([0, 1, 10, 1000, 1_000_000])
    return random_.randbytes(size)


def test_strangers_are_refused_with_one_sentence_while_the_sites_plan_undisturbed(
    consortium: Consortium, tmp_path: Path
) -> None:
    consortium.start_server()
    first = consortium.start(0)
    assert first.stdout is not None
    _follow(consortium.server, "has proven who it is")

    others = tmp_path / "others"
    create_certificates(["localhost"], others)
    impostor, _, _ = create_key("Clinic B", tmp_path)
    unlisted, _, _ = create_key("Clinic X", tmp_path)
    assert "does not come from the authority in --ca-cert" in consortium.refusal(1, ca_cert=others / "ca.pem")
    assert "is for another host" in consortium.refusal(1, host="127.0.0.1")
    assert "encrypts: give its authority's certificate" in consortium.refusal(1, ca_cert=None)
    assert "does not prove who it is: start its node with --key" in consortium.refusal(1, key=None, site=CLINICS[1])
    assert "its key is not the one on the coordinator's list" in consortium.refusal(1, key=impostor)
    assert "Clinic X is not on the coordinator's list" in consortium.refusal(1, key=unlisted)
    assert "Clinic A takes part already" in consortium.refusal(0)

    # a proof that was made for another connection, by the very key
    recorded = consortium.proof(1, Challenge.draw("ab" * 16), _introduction(1))
    assert "does not hold" in _is_turned_away(consortium, _introduction(1), recorded)
    assert "start its node with --key" in _is_turned_away(consortium, _introduction(1), None)

    for number in range(200):
        with consortium.stranger() as stranger:
            if number % 2:
                assert stranger.hear() is not None
            stranger.say(_garbage(number))
            if number % 20 == 1:
                while stranger.hear() is not None:
                    stranger.say(_garbage(number))

    rest = [consortium.start(number) for number in (1, 2)]
    for process in (*rest, first, consortium.server):
        status, output = finish(process)
        assert status == 0, output
    digests = {(consortium.workspace.preprocessed / site / "nnUNetPlans.json").stat().st_size for site in SITES}
    assert len(digests) == 1
    for clinic in CLINICS:
        log = consortium.workspace.folder / f"{clinic}.jsonl"
        receipts = consortium.workspace.results / "fednnunet_runs" / TASK[0] / "receipts.jsonl"
        status, output = consortium.workspace.fednnunet("audit", "verify", log, "--receipts", receipts)
        assert status == 0, output


def test_a_node_does_not_trust_a_coordinator_without_a_good_certificate(consortium: Consortium, tmp_path: Path) -> None:
    long_ago = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=100)
    create_certificates(["localhost"], tmp_path, days=30, now=long_ago)
    with FalseCoordinator(tmp_path / "server.pem", tmp_path / "server.key") as expired:
        refusal = consortium.refusal(0, port=expired.port, ca_cert=tmp_path / "ca.pem")
        assert "has expired" in refusal
    plain = consortium.workspace.start("server", TASK[0], "--num_clients", 3, "--port", consortium.port)
    try:
        assert plain.stdout is not None
        assert "Waiting" in plain.stdout.readline()
        assert "does not encrypt" in consortium.refusal(0)
    finally:
        plain.kill()
        plain.communicate()


def test_a_coordinator_is_not_reachable_from_elsewhere_without_certificate_and_list(consortium: Consortium) -> None:
    call, trust = consortium.workspace.call, consortium.trust
    everywhere = ("train", "--num_clients", 3, "--host", "0.0.0.0", "--port", consortium.port)
    status, output = call("server", *everywhere)
    assert (status, "nothing would be encrypted" in output) == (1, True), output
    tls = ("--tls-cert", trust / "server.pem", "--tls-key", trust / "server.key")
    status, output = call("server", *everywhere, *tls)
    assert (status, "any of them could take part" in output) == (1, True), output
    status, output = call("client", TASK[0], SITES[0], "--host", "192.0.2.1", "--port", consortium.port)
    assert (status, "is another machine" in output) == (1, True), output


def test_what_a_policy_forbids_is_not_sent_and_the_coordinator_says_which_rule(consortium: Consortium) -> None:
    policy = consortium.trust / "policy.toml"
    policy.write_text("[fingerprint]\nmin_cases = 9\n")
    consortium.start_server()
    nodes = [consortium.start(0), consortium.start(1, policy=policy), consortium.start(2)]
    status, output = finish(consortium.server)
    assert status == 1
    assert "Clinic B failed: the site's policy does not let this out (rule fingerprint.min_cases)" in output
    for node in nodes:
        assert finish(node)[0] == 1
    log = (consortium.workspace.folder / "Clinic B.jsonl").read_text()
    assert "withheld: fingerprint.min_cases" in log
    sent = [line for line in log.splitlines() if '"direction":"out","kind":"fingerprint"' in line]
    assert sent
    assert all('"decision":"withheld' in line for line in sent)


def _follow(process: "subprocess.Popen[str]", text: str) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if text in line:
            return
    raise AssertionError(f"the process ended without saying '{text}'")
