"""A site's record of the sums of updates that it has opened, which a new process of its node has to know."""

import os
from collections.abc import Sequence
from pathlib import Path

from fednnunet.errors import FednnUNetError
from fednnunet.schema import Message

OPENINGS = "federated_openings.jsonl"
"""Beside the checkpoints of the fold."""


class _Opened(Message):
    run: str
    round: int
    group: str
    sites: list[str]


class Openings:
    """What was opened in the trainings of a fold: another training of the same round is another sum like any other.

    A round may have to be trained again although sites have told their opening keys, because another one has not. Its
    new updates may be summed over the same sites as often as it takes: that tells no more than the first sum would
    have. Without one of them, the difference to the first sum, if that was opened in secret, is about that site.

    Parameters
    ----------
    folder
        nnU-Net's folder of the fold.
    run
        Name of the training.
    begins_anew
        Whether the site wants other trainings of the fold to be replaced, and so what they have opened forgotten.

    Raises
    ------
    FednnUNetError
        If the record cannot be read.
    """

    def __init__(self, folder: Path, run: str, *, begins_anew: bool = False) -> None:
        self._path = folder / OPENINGS
        self._run = run
        self._opened = [opened for opened in self._read() if opened.run == run or not begins_anew]

    def check(self, round_number: int, group: str, sites: Sequence[str], max_repeats: int) -> None:
        """Refuse one sum too many.

        Raises
        ------
        FednnUNetError
            If updates of this round were opened among other sites, and that has happened too often.
        """
        if self.is_other(round_number, group, sites) and self._repeats >= max_repeats:
            raise FednnUNetError(
                f"the coordinator wants another sum of round {round_number}, over other sites, but this site has told "
                f"the key of the first: its policy allows {max_repeats} of these (masked.max_repeats)"
            )

    def add(self, round_number: int, group: str, sites: Sequence[str]) -> None:
        """Write down, before the key leaves, that a sum is opened."""
        opened = _Opened(run=self._run, round=round_number, group=group, sites=list(sites))
        if opened in self._opened:
            return  # once is enough
        with self._path.open("a", encoding="utf-8") as file:
            file.write(opened.to_json() + "\n")
            file.flush()
            os.fsync(file.fileno())
        self._opened.append(opened)

    @property
    def _repeats(self) -> int:
        """How often updates of a round were opened among other sites than before."""
        of_rounds: dict[tuple[int, str], set[tuple[str, ...]]] = {}
        for opened in self._opened:
            of_rounds.setdefault((opened.round, opened.group), set()).add(tuple(opened.sites))
        repeats: dict[str, int] = {}
        for (_, group), sets in of_rounds.items():
            repeats[group] = repeats.get(group, 0) + len(sets) - 1
        return max(repeats.values(), default=0)

    def is_other(self, round_number: int, group: str, sites: Sequence[str]) -> bool:
        """Return whether this was opened before, but for other sites."""
        before = [opened.sites for opened in self._opened if (opened.round, opened.group) == (round_number, group)]
        return bool(before) and list(sites) not in before

    def _read(self) -> list[_Opened]:
        try:
            lines = self._path.read_text(encoding="utf-8").split("\n")
            whole, rest = lines[:-1], lines[-1]
            if rest:  # was being written when the node was killed: the key has not left
                self._path.write_text("".join(f"{line}\n" for line in whole), encoding="utf-8")
            return [_Opened.from_json(line) for line in whole]
        except FileNotFoundError:
            return []
        except (FednnUNetError, OSError, UnicodeDecodeError) as error:
            raise FednnUNetError(
                f"{self._path} cannot be read ({error}), so it is not known which sums were opened: restore it, or "
                "start a new training"
            ) from error
