"""``make audit`` says that all is well only where everything was looked up."""

import json
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.markdown import REPOSITORY

SCRIPT = REPOSITORY / "tools" / "audit.py"
audit = runpy.run_path(str(SCRIPT))

WANTED = ["numpy==2.4.6", "torch==2.13.0"]
CLEAN: list[dict[str, Any]] = [
    {"name": "numpy", "version": "2.4.6", "vulns": []},
    {"name": "Torch", "version": "2.13.0", "vulns": []},
]
SKIPPED = {"name": "torch", "skip_reason": "Dependency not found on PyPI and could not be audited"}
FOUND = {"name": "numpy", "version": "2.4.6", "vulns": [{"id": "CVE-1", "fix_versions": ["2.4.7"]}]}


def test_packages_are_looked_up_under_the_versions_that_pypi_knows() -> None:
    assert audit["installed"]([("Torch", "2.13.0+cpu"), ("fednnunet", "0.1"), ("ruamel_yaml", "1.0")]) == [
        "ruamel-yaml==1.0",
        "torch==2.13.0",
    ]


@pytest.mark.parametrize(
    ("dependencies", "line"),
    [
        ([CLEAN[0], SKIPPED], "torch could not be looked up: Dependency not found on PyPI"),
        (CLEAN[:1], "torch was not looked up"),
        ([], "numpy was not looked up"),
        ([FOUND, CLEAN[1]], "numpy 2.4.6: CVE-1 (fixed in: 2.4.7)"),
    ],
)
def test_what_was_found_and_what_was_not_looked_up_fails(
    dependencies: list[dict[str, Any]], line: str, tmp_path: Path
) -> None:
    status, said = _check(json.dumps({"dependencies": dependencies}), tmp_path)
    assert status == 1
    assert line in said


@pytest.mark.parametrize("report", [None, "", "no JSON"])
def test_an_audit_without_a_report_fails(report: str | None, tmp_path: Path) -> None:
    assert _check(report, tmp_path)[0] == 1


def test_an_audit_in_which_everything_was_looked_up_and_nothing_found_passes(tmp_path: Path) -> None:
    assert _check(json.dumps({"dependencies": CLEAN}), tmp_path) == (
        0,
        "All 2 packages were looked up; no vulnerability is known.\n",
    )


def _check(report: str | None, folder: Path) -> tuple[int, str]:
    path = folder / "found.json"
    if report is not None:
        path.write_text(report)
    ended = subprocess.run(
        [sys.executable, SCRIPT, "check", path], input="\n".join(WANTED), capture_output=True, text=True, check=False
    )
    return ended.returncode, ended.stdout


def test_the_lock_has_hashes_of_the_versions_of_the_constraints() -> None:
    pins = dict(
        line.lower().split("==") for line in (REPOSITORY / "constraints.txt").read_text().split() if "==" in line
    )
    pins = {name.replace("_", "-").replace(".", "-"): version for name, version in pins.items()}
    entries = (REPOSITORY / "requirements.lock").read_text().replace("\\\n", " ").splitlines()
    locked = {}
    for entry in entries:
        if "==" in entry and not entry.lstrip().startswith("#"):
            name, version = entry.split()[0].split("==")
            locked[name.replace(".", "-")] = version
            assert entry.count("--hash=sha256:") >= 1, name
    assert {"torch", "nnunetv2", "flwr", "setuptools", "cryptography"} <= set(locked)
    assert {name: version for name, version in locked.items() if pins.get(name, version) != version} == {}
