"""Federations over TLS with named sites, through the real commands; strangers do not disturb them."""

import datetime
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from fednnunet.security.certificates import create_certificates
from fednnunet.security.identity import Challenge, create_key
from tests.system.conftest import SITES
from tests.system.consortium import CLINICS, TASK, Consortium, introduction_of, turn_away
from tests.system.strangers import FalseCoordinator, garbage
from tests.system.test_planning import copy_site
from tests.system.workspace import Workspace, finish

pytestmark = pytest.mark.system


@pytest.fixture
def consortium(federation: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Consortium]:
    """Three sites whose coordinator is not started yet."""
    workspace = Workspace(tmp_path_factory.mktemp("with trust"))
    for site in SITES:
        copy_site(federation, workspace, site)
    yield (made := Consortium(workspace))
    if hasattr(made, "server"):
        made.server.kill()


def test_strangers_are_refused_with_one_sentence_while_the_sites_plan_undisturbed(
    consortium: Consortium, tmp_path: Path
) -> None:
    consortium.start_server()
    first = consortium.start(0)
    assert first.stdout is not None
    _follow(consortium.server, "authenticated")

    others = tmp_path / "others"
    create_certificates(["localhost"], others)
    impostor, _, _ = create_key("Clinic B", tmp_path)
    unlisted, _, _ = create_key("Clinic X", tmp_path)
    assert "was not issued by the authority in --ca-cert" in consortium.refusal(1, ca_cert=others / "ca.pem")
    assert "is for another host" in consortium.refusal(1, host="127.0.0.1")
    assert "uses TLS: give its CA certificate" in consortium.refusal(1, ca_cert=None)
    assert "did not authenticate: start its node with --key" in consortium.refusal(1, key=None, site=CLINICS[1])
    assert "its key is not the one on the coordinator's list" in consortium.refusal(1, key=impostor)
    assert "Clinic X is not on the coordinator's list" in consortium.refusal(1, key=unlisted)
    assert "Clinic A is already connected" in consortium.refusal(0)

    # a proof that was made for another connection, by the very key
    recorded = consortium.proof(1, Challenge.draw("ab" * 16), introduction_of(1))
    assert "Authentication of site" in turn_away(consortium, introduction_of(1), recorded)
    assert "start its node with --key" in turn_away(consortium, introduction_of(1), None)

    for number in range(200):
        with consortium.stranger() as stranger:
            if number % 2:
                assert stranger.hear() is not None
            stranger.say(garbage(number))
            if number % 20 == 1:
                while stranger.hear() is not None:
                    stranger.say(garbage(number))

    rest = [consortium.start(number) for number in (1, 2)]
    for process in (*rest, first, consortium.server):
        status, output = finish(process)
        assert status == 0, output
    first_plans, *other_plans = [consortium.workspace.json(site, "nnUNetPlans.json") for site in SITES]
    for plans in other_plans:
        assert {**plans, "dataset_name": ""} == {**first_plans, "dataset_name": ""}
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
        assert "does not use TLS" in consortium.refusal(0)
    finally:
        plain.kill()
        plain.communicate()


def test_a_coordinator_is_not_reachable_from_elsewhere_without_certificate_and_list(consortium: Consortium) -> None:
    call, trust = consortium.workspace.call, consortium.trust
    everywhere = ("train", "--num_clients", 3, "--host", "0.0.0.0", "--port", consortium.port)
    status, output = call("server", *everywhere)
    assert (status, "the connection would not be encrypted" in output) == (1, True), output
    tls = ("--tls-cert", trust / "server.pem", "--tls-key", trust / "server.key")
    status, output = call("server", *everywhere, *tls)
    assert (status, "any of them could join" in output) == (1, True), output
    status, output = call("client", TASK[0], SITES[0], "--host", "192.0.2.1", "--port", consortium.port)
    assert (status, "is another machine" in output) == (1, True), output


def test_what_a_policy_forbids_is_not_sent_and_the_coordinator_says_which_rule(consortium: Consortium) -> None:
    policy = consortium.trust / "policy.toml"
    policy.write_text("[fingerprint]\nmin_cases = 9\n")
    consortium.start_server()
    nodes = [consortium.start(0), consortium.start(1, policy=policy), consortium.start(2)]
    status, output = finish(consortium.server)
    assert status == 1
    assert "Clinic B failed: the site's policy does not allow this message (rule fingerprint.min_cases)" in output
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
