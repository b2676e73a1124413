"""A federation over TLS with named sites, for tests of who gets in, and strangers who try."""

import subprocess

from fednnunet.security.certificates import create_certificates
from fednnunet.security.identity import Challenge, create_key, entry, read_key, read_sites
from fednnunet.transport.address import find_free_port
from fednnunet.transport.tls import Certificate, Endpoint, authority, look_at
from tests.system.conftest import SITES
from tests.system.strangers import Stranger
from tests.system.workspace import Workspace, finish

_COMES_AGAIN = 50
"""Tries of who finds no room, as a node would."""

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
        self._masked: dict[str, object] = {}

    def server_flags(self) -> tuple[object, ...]:
        """Return the coordinator's flags about trust."""
        tls = ("--tls-cert", self.trust / "server.pem", "--tls-key", self.trust / "server.key")
        return (*tls, "--sites", self.trust / "sites.toml")

    def start_server(self, *flags: object) -> None:
        words = (TASK[0], "--num_clients", 3, "--port", self.port, *self.server_flags(), *flags)
        self.server = self.workspace.start("server", *words)
        assert self.server.stdout is not None
        assert "Waiting" in self.server.stdout.readline()
        with self.stranger() as stranger:  # who waits until somebody listens
            assert stranger.hear() is not None

    def words(self, number: int, **changes: object) -> list[object]:
        """Return the words of a site's node; ``None`` leaves a flag out."""
        flags = self.node_flags(number, **{"port": self.port, "retry_for": 30, **changes})
        return ["client", TASK[0], SITES[number], "2d", *TASK[1:], *flags]

    def node_flags(self, number: int, **changes: object) -> list[object]:
        """Return the flags of a site's node about trust, and further ones; ``None`` leaves a flag out."""
        flags = {
            "--host": "localhost",
            "--ca-cert": self.trust / "ca.pem",
            "--key": self.trust / f"{CLINICS[number]}.key",
            "--audit_log": self.workspace.folder / f"{CLINICS[number]}.jsonl",
            **self._masked,
        }
        flags |= {f"--{name.replace('ca_cert', 'ca-cert')}": value for name, value in changes.items()}
        return [word for name, value in flags.items() if value is not None for word in (name, value)]

    def demand_masks(self) -> None:
        """Let all sites accept masked sums only, over the sites of this list."""
        sites, policy = self.trust / "sites.toml", self.trust / "masked.toml"
        policy.write_text(f'[masked]\nrequire = true\nlist = "{read_sites(sites).digest}"\n')
        self._masked = {"--sites": sites, "--policy": policy}

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


def introduction_of(number: int) -> str:
    return (
        f'{{"site":"{CLINICS[number]}","instance":"other","task":"plan_and_preprocess","method":"FFE","cases":8,'
        '"versions":{},"labels":{"background":0},"channels":{"0":"CT"}}'
    )


def turn_away(consortium: Consortium, introduction: str, proof: bytes | None) -> str:
    """Introduce oneself, and return what the coordinator says before it hangs up."""
    for _ in range(_COMES_AGAIN):
        with consortium.stranger() as stranger:
            asked = stranger.hear_question()
            said = None if asked is None else _be_turned_away(stranger, asked, introduction, proof)
            if said is not None:
                return said
    raise AssertionError("there was no room, however often it was tried")


def _be_turned_away(stranger: Stranger, asked: tuple[str, str], introduction: str, proof: bytes | None) -> str | None:
    kind, body = asked
    assert kind == "hello"
    assert set(Challenge.from_json(body).model_dump()) == {"run", "nonce"}  # nothing else is told
    stranger.answer(body=introduction, **({} if proof is None else {"data": proof}))
    said = stranger.hear_question()
    if said is None:
        return None
    assert said[0] == "farewell"
    stranger.answer(body="{}")
    while stranger.hear() is not None:
        stranger.answer(body="{}")
    return said[1]
