"""Records the cases of each answered fingerprint: two answers that differ by a few patients reveal these few."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

from fednnunet.errors import FednnUNetError
from fednnunet.files import read_json_object, write_json
from fednnunet.node.dataset import CaseFiles

ANSWERED_CASES = "federated_answered.json"
"""File beside the stored measurement; it is never sent."""

_KEPT = 50
_REMEDY = "restore it; only if it is lost, move it away, which disables the comparison of new cases with old ones"


class AnsweredCases:
    """The sets of cases of earlier answers.

    Parameters
    ----------
    path
        The file that remembers them.
    cases
        The cases of now. One whose files have changed in size counts as another one.
    """

    def __init__(self, path: Path, cases: Iterable[CaseFiles]) -> None:
        self._path = path
        self._cases = {_digest(case) for case in cases}

    def changed(self) -> int | None:
        """Return how many cases were added or removed since the most similar set; ``None`` if there was none before.

        Raises
        ------
        FednnUNetError
            If the file is damaged.
        """
        return min((len(self._cases ^ set(before)) for before in self._before()), default=None)

    def remember(self) -> None:
        """Record that the current cases are part of an answer."""
        before = self._before()
        if not any(self._cases == set(cases) for cases in before):
            write_json({"answered": [*before, sorted(self._cases)][-_KEPT:]}, self._path)

    def _before(self) -> list[list[str]]:
        if not self._path.is_file():
            return []
        content = read_json_object(self._path, _REMEDY).get("answered")
        if not isinstance(content, list) or not all(isinstance(cases, list) for cases in content):
            raise FednnUNetError(f"{self._path} does not contain the cases of earlier answers: {_REMEDY}.")
        return content


def _digest(case: CaseFiles) -> str:
    files = [Path(path) for path in (*case.images, case.segmentation)]
    sizes = [path.stat().st_size if path.is_file() else 0 for path in files]
    return hashlib.sha256(repr((case.case, sizes)).encode()).hexdigest()
