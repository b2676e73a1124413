"""What the flags about trust come to."""

from pathlib import Path

import pytest

from fednnunet.cli.arguments import ServerCommand, parse_client, parse_run, parse_server
from fednnunet.cli.trust import authenticator_of, endpoint, tls_files
from fednnunet.errors import FednnUNetError
from fednnunet.node.dataset import SiteDataset
from fednnunet.node.gated import AUDIT_LOG, default_log
from fednnunet.security.authentication import Authenticator
from fednnunet.security.identity import create_key
from fednnunet.transport.address import is_loopback


def _authenticator(command: ServerCommand) -> Authenticator:
    return authenticator_of(command.listening, command.coordinator.num_clients)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.7", "::1", "[::1]", "localhost"])
def test_on_this_machine_nothing_has_to_be_encrypted(host: str) -> None:
    assert is_loopback(host)
    assert tls_files(parse_server(["train", "--num_clients", "1", "--host", host]).listening) is None
    assert endpoint(parse_client(["train", "1", "2d", "0", "--host", host]).connection).authority is None


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "2001:db8::1", "no.such.name.invalid"])
def test_with_other_machines_it_has_to_be_unless_the_user_insists(host: str) -> None:
    server = ["train", "--num_clients", "1", "--host", host]
    client = ["train", "1", "2d", "0", "--host", host]
    with pytest.raises(FednnUNetError, match="--insecure"):
        tls_files(parse_server(server).listening)
    with pytest.raises(FednnUNetError, match="--sites"):
        _authenticator(parse_server(server))
    with pytest.raises(FednnUNetError, match="all addresses" if host in {"0.0.0.0", "::"} else "--ca-cert"):
        endpoint(parse_client(client).connection)
    assert tls_files(parse_server([*server, "--insecure"]).listening) is None
    assert not _authenticator(parse_server([*server, "--insecure"])).requires_proof
    assert endpoint(parse_client([*client, "--insecure"]).connection).authority is None


@pytest.mark.parametrize("command", ["server", "client", "run"])
@pytest.mark.parametrize("host", ["http://127.0.0.1", "127.0.0.1:8080", ""])
def test_every_command_says_what_is_wrong_with_a_host(
    command: str, host: str, capsys: pytest.CaptureFixture[str]
) -> None:
    parse = {"server": parse_server, "client": parse_client, "run": parse_run}[command]
    words = ["--num_clients", "1"] if command == "server" else ["1", "2d", "0"]
    with pytest.raises(SystemExit):
        parse(["train", *words, "--host", host])
    assert "argument --host: " in capsys.readouterr().err


def test_certificate_and_key_go_together(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_server(["train", "--num_clients", "1", "--tls-cert", "server.pem"])
    assert "--tls-cert and --tls-key go together" in capsys.readouterr().err


def test_a_list_with_fewer_sites_than_shall_take_part_is_refused(tmp_path: Path) -> None:
    _, public, _ = create_key("Clinic A", tmp_path)
    with pytest.raises(FednnUNetError, match="fewer than --num_clients 2"):
        _authenticator(parse_server(["train", "--num_clients", "2", "--sites", str(public)]))
    assert _authenticator(parse_server(["train", "--num_clients", "1", "--sites", str(public)])).requires_proof


def test_a_site_is_called_as_its_key_unless_it_has_another_name(tmp_path: Path) -> None:
    private, _, _ = create_key("Clinic A", tmp_path)
    for words, name in (([], "Clinic A"), (["--site", "B"], "B")):
        command = parse_client(["train", "1", "2d", "0", "--key", str(private), *words])
        assert (command.node.site, command.key) == (name, private)


def test_folds_that_are_trained_at_the_same_time_have_logs_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("nnUNet_results", str(tmp_path))
    logs = {
        default_log(parse_client(["train", "1", configuration, fold]).node, SiteDataset("Dataset001_A"))
        for configuration in ("2d", "3d_fullres")
        for fold in ("0", "1", "all")
    }
    assert len(logs) == 6
    assert all(log.name.startswith(AUDIT_LOG) for log in logs)
