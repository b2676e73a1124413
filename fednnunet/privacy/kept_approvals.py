"""Stores approvals, so that a restarted node does not ask for the same one again."""

import logging
from pathlib import Path

from fednnunet.errors import FednnUNetError
from fednnunet.files import read_json_object, write_json

logger = logging.getLogger(__name__)

_KEPT_RUNS = 20


class KeptApprovals:
    """Approved matters, by run of a coordinator; an approval is not valid in another run.

    Parameters
    ----------
    path
        The file.
    task
        The task of the node.
    """

    def __init__(self, path: Path, task: str) -> None:
        self._path = path
        self._task = task

    def has(self, run: str, matter: str) -> bool:
        """Return whether a person has agreed."""
        return bool(run) and f"{self._task}: {matter}" in self._read().get(run, [])

    def add(self, run: str, matter: str) -> None:
        """Keep that a person has agreed; without that the next start of the node asks again."""
        runs = self._read()
        matters = [*runs.pop(run, []), f"{self._task}: {matter}"]
        kept = dict([*runs.items(), (run, matters)][-_KEPT_RUNS:])
        try:
            write_json({"approved": kept}, self._path)
        except OSError as error:
            logger.warning("%s cannot be written (%s): the node will ask again.", self._path, error.strerror)

    def _read(self) -> dict[str, list[str]]:
        if not self._path.is_file():
            return {}
        try:
            runs = read_json_object(self._path, "remove it").get("approved")
        except FednnUNetError as error:
            logger.warning("%s A person is asked again.", error)
            return {}
        content = runs if isinstance(runs, dict) else {}
        return {run: matters for run, matters in content.items() if isinstance(matters, list)}
