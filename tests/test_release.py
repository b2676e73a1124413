"""The wheel of a release works outside the clone."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from fednnunet import __version__
from tests.markdown import REPOSITORY

FILES = ("pyproject.toml", "README.md", "LICENSE", "MANIFEST.in", "CHANGELOG.md", "CITATION.cff")
"""Files that a release is built from, beside the package."""


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the archives, built from a copy of the sources: a build leaves files beside them."""
    source = tmp_path_factory.mktemp("source")
    shutil.copytree(REPOSITORY / "fednnunet", source / "fednnunet", ignore=shutil.ignore_patterns("__pycache__"))
    for name in FILES:
        shutil.copy(REPOSITORY / name, source)
    folder = tmp_path_factory.mktemp("dist")
    _run(source, sys.executable, str(REPOSITORY / "tools" / "release.py"), str(folder))
    return folder


@pytest.fixture(scope="module")
def installed(dist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder into which the wheel is installed."""
    target = tmp_path_factory.mktemp("installed")
    pip = ("-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index", "--no-deps")
    _run(target, sys.executable, *pip, "--target", str(target), str(_only(dist, "*.whl")))
    return target


def test_the_wheel_has_all_files_of_the_package_and_no_others(dist: Path) -> None:
    package = {
        str(path.relative_to(REPOSITORY))
        for path in (REPOSITORY / "fednnunet").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    with zipfile.ZipFile(_only(dist, "*.whl")) as wheel:
        names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert names == package
    assert "fednnunet/py.typed" in names


def test_the_source_distribution_can_be_built_again(dist: Path, tmp_path: Path) -> None:
    with tarfile.open(_only(dist, "*.tar.gz")) as archive:
        archive.extractall(tmp_path, filter="data")
    (source,) = tmp_path.iterdir()
    assert {name for name in FILES if not (source / name).is_file()} == set()
    _run(source, sys.executable, str(REPOSITORY / "tools" / "release.py"), str(tmp_path / "again"))
    with (
        zipfile.ZipFile(_only(dist, "*.whl")) as first,
        zipfile.ZipFile(_only(tmp_path / "again", "*.whl")) as second,
    ):
        assert sorted(first.namelist()) == sorted(second.namelist())


def test_the_installed_package_runs_outside_the_clone(installed: Path, tmp_path: Path) -> None:
    said = _run(tmp_path, sys.executable, "-m", "fednnunet", "--version", path=installed)
    assert said == f"fednnunet {__version__}\n"
    said = _run(tmp_path, sys.executable, str(installed / "bin" / "fednnunet"), "policy", "create", path=installed)
    assert "policy.toml" in said
    assert (tmp_path / "policy.toml").is_file()


def test_the_installed_package_imports_from_its_own_folder(installed: Path, tmp_path: Path) -> None:
    script = """
from importlib.metadata import version
from fednnunet.cli import commands
print(commands.__file__, version("fednnunet"))
"""
    said = _run(tmp_path, sys.executable, "-c", script, path=installed)
    assert said.split() == [str(installed / "fednnunet" / "cli" / "commands.py"), __version__]


def test_the_citation_and_the_changelog_know_the_version() -> None:
    citation = (REPOSITORY / "CITATION.cff").read_text("utf-8")
    assert re.findall(r"^version: (\S+)$", citation, re.MULTILINE) == [__version__]
    assert __version__ in (REPOSITORY / "CHANGELOG.md").read_text("utf-8")


def _only(folder: Path, pattern: str) -> Path:
    (path,) = folder.glob(pattern)
    return path


def _run(cwd: Path, *command: str, path: Path | None = None) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    if path is not None:
        environment["PYTHONPATH"] = str(path)
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
