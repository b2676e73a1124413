"""Throw-away keys of a federation on one machine."""

import stat
import sys
from pathlib import Path
from typing import Any

import pytest

from fednnunet.cli.arguments import parse_client, parse_run, parse_server
from fednnunet.errors import FednnUNetError
from fednnunet.launcher import simulation
from fednnunet.launcher.site_keys import KeyFiles, KeysInMemory
from fednnunet.security.identity import read_key, read_sites

NAMES = ("Dataset001_A", "Dataset002_B", "Dataset003 C.D")


def test_each_site_gets_a_key_that_nobody_else_can_read_and_that_is_on_the_list(tmp_path: Path) -> None:
    keys = KeyFiles.make(tmp_path, NAMES)
    assert stat.S_IMODE(keys.folder.stat().st_mode) == 0o700
    server = parse_server(["train", "--num_clients", "3", *keys.server_words()])
    assert server.listening.sites is not None
    listed = read_sites(server.listening.sites)
    assert listed.names == sorted(NAMES)
    for name in NAMES:
        client = parse_client(["train", "1", "2d", "0", *keys.client_words(name)])
        assert (client.node.site, client.gate.sites) == (name, server.listening.sites)
        assert client.key is not None
        assert stat.S_IMODE(client.key.stat().st_mode) == 0o600
        assert listed.lists(name, read_key(client.key))


def test_a_run_that_continues_gets_new_keys(tmp_path: Path) -> None:
    first = KeyFiles.make(tmp_path, NAMES)
    before = read_sites(tmp_path / "secure" / "sites.toml").digest
    assert KeyFiles.make(tmp_path, NAMES) == first
    assert read_sites(tmp_path / "secure" / "sites.toml").digest != before


def test_a_folder_that_cannot_be_written_is_told_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "secure").write_text("")
    with pytest.raises(FednnUNetError, match="--log_dir"):
        KeyFiles.make(tmp_path, NAMES)


def test_in_one_process_keys_and_list_stay_in_memory() -> None:
    keys = KeysInMemory(NAMES)
    assert (keys.rules.sites.names, keys.rules.min_sites) == (sorted(NAMES), 3)
    assert all(keys.rules.sites.lists(name, keys.identities[name]) for name in NAMES)


@pytest.mark.parametrize("flags", [(), ("--secure",)])
def test_a_simulation_gives_keys_to_all_processes_if_sums_are_masked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: tuple[str, ...]
) -> None:
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.setenv(variable, str(tmp_path / "raw"))
    names = ("Dataset001_A", "Dataset002_B", "Dataset003_C")
    for name in names:
        (tmp_path / "raw" / name).mkdir(parents=True)
    started: list[list[str]] = []

    def run_together(coordinator: Any, nodes: Any, *_: object, **__: object) -> int:
        started.extend(list(process.command) for process in (coordinator, *nodes))
        return 0

    monkeypatch.setattr(simulation, "check_sites", lambda *_: None)
    monkeypatch.setattr(simulation, "run_together", run_together)
    words = ["train", "1 2 3", "2d", "0", "-device", "cpu", "--log_dir", str(tmp_path / "logs"), *flags]
    assert simulation.run_simulation(parse_run(words)) == 0
    assert all(words[:3] == [sys.executable, "-m", "fednnunet"] for words in started)
    server, clients = parse_server(started[0][4:]), [parse_client(words[4:]) for words in started[1:]]
    assert server.coordinator.secure == bool(flags)
    folder = tmp_path / "logs" / "secure"
    if not flags:
        assert server.listening.sites is None
        assert [(client.key, client.gate.sites) for client in clients] == [(None, None)] * 3
        assert not folder.exists()
        return
    assert server.listening.sites == folder / "sites.toml"
    assert [client.key for client in clients] == [folder / f"{name}.key" for name in names]
    assert {client.gate.sites for client in clients} == {folder / "sites.toml"}
