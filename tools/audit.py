"""Look up known vulnerabilities of all installed packages; a failed look-up counts as a vulnerability.

``python tools/audit.py list`` prints the installed packages; ``python tools/audit.py check REPORT < LIST`` reads the
report of ``pip-audit --format json``, and fails on any vulnerability, or if the report misses a package of the list.
"""

import json
import re
import sys
from collections.abc import Iterable
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

_OWN = "fednnunet"


def installed(found: Iterable[tuple[str, str]]) -> list[str]:
    """Return names and versions as requirements, without this program and without local version labels.

    PyPI does not know ``torch 2.13.0+cpu``; its vulnerabilities are those of ``2.13.0``.
    """
    versions = {_normal(name): version.partition("+")[0] for name, version in found}
    return [f"{name}=={version}" for name, version in sorted(versions.items()) if name != _OWN]


def problems(report: dict[str, Any], wanted: Iterable[str]) -> list[str]:
    """Return one line for each vulnerability, and for each package that was not looked up.

    Parameters
    ----------
    report
        Of pip-audit, as JSON.
    wanted
        The result of `installed`.
    """
    lines, looked_up = [], set()
    for package in report.get("dependencies", []):
        name = _normal(package["name"])
        if "skip_reason" in package:
            lines.append(f"{name} could not be looked up: {package['skip_reason']}")
        looked_up.add(name)
        for found in package.get("vulns", []):
            remedy = ", ".join(found.get("fix_versions", [])) or "none yet"
            lines.append(f"{name} {package.get('version')}: {found['id']} (fixed in: {remedy})")
    missing = [line.partition("==")[0] for line in wanted if line.partition("==")[0] not in looked_up]
    return [*lines, *(f"{name} was not looked up" for name in missing)]


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def main(words: list[str]) -> int:
    """Return 0 if everything was looked up and nothing was found."""
    if words == ["list"]:
        print("\n".join(installed((found.metadata["Name"], found.version) for found in distributions())))
        return 0
    _, path = words
    wanted = sys.stdin.read().split()
    try:
        report = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        report = {}
    lines = problems(report, wanted)
    print("\n".join(lines) or f"All {len(wanted)} packages were looked up; no vulnerability is known.")
    return 1 if lines or not wanted else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
