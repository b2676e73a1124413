"""Build the wheel and the source distribution: ``python tools/release.py FOLDER``.

Calls the build backend of ``pyproject.toml`` directly, without a network.
"""

import sys
from pathlib import Path

from setuptools import build_meta


def main() -> None:
    """Build both archives of the project in the current folder, and print their paths."""
    folder = Path(sys.argv[1]).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    for build in (build_meta.build_sdist, build_meta.build_wheel):
        print(folder / build(str(folder)))


if __name__ == "__main__":
    main()
