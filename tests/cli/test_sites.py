"""The digest of a list of sites, as two hospitals read it to each other."""

import re
from pathlib import Path

import pytest

from fednnunet.cli.commands import main
from fednnunet.security.identity import create_key, entry


def _list(path: Path, *names: str) -> Path:
    listed = [create_key(name, path.parent)[2] for name in names]
    path.write_text("\n".join(map(entry, listed)))
    return path


def test_the_digest_names_sites_and_the_line_of_the_policy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = _list(tmp_path / "sites.toml", "B", "A")
    assert main(["sites", "digest", str(path)]) == 0
    digest, names, what_to_do = capsys.readouterr().out.splitlines()
    assert re.fullmatch("([0-9a-f]{4} ){7}[0-9a-f]{4}", digest)
    assert names == "2 sites: A, B"
    assert "telephone" in what_to_do
    assert what_to_do.endswith(f'list = "{digest}"')


def test_the_order_of_a_list_and_what_sites_are_called_do_not_change_the_digest_but_each_key_does(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = _list(tmp_path / "sites.toml", "A", "B")

    def digest() -> str:
        assert main(["sites", "digest", str(path)]) == 0
        return capsys.readouterr().out.splitlines()[0]

    before, (first, second) = digest(), path.read_text().split("\n\n")
    path.write_text(f'{second}\ndisplay_name = "Hospital"\n\n{first}\n')
    assert digest() == before
    _list(tmp_path / "again" / "sites.toml", "B")
    path.write_text(f"{first}\n\n{(tmp_path / 'again' / 'B.pub').read_text()}")
    assert digest() != before


def test_a_list_that_is_none_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sites", "digest", str(tmp_path / "missing.toml")]) == 1
    assert "Error:" in capsys.readouterr().err
