"""Thins out the rounds to draw where the page would get too large."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from fednnunet.events.events import RoundCompleted
from fednnunet.events.run_state import FoldRounds, RunState


@dataclass(frozen=True)
class Drawn:
    """A fold and those of its rounds that are drawn.

    Parameters
    ----------
    fold
        The fold.
    rounds
        Numbers of the rounds, ascending.
    step
        One of how many rounds is drawn.
    several
        Whether the run has other folds too.
    """

    fold: FoldRounds
    rounds: Sequence[int]
    step: int
    several: bool

    @property
    def events(self) -> list[RoundCompleted]:
        """The rounds."""
        return [self.fold.completed[number] for number in self.rounds]

    @property
    def slug(self) -> str:
        """The fold's title as a word."""
        return slug(self.fold.title)

    def told(self, caption: str) -> str:
        """Return `caption` with the fold, if there are several, and with what is left away."""
        where = f" · {self.fold.title}" if self.several else ""
        return f"{caption}{where}" + (f" (one in {self.step} rounds drawn)" if self.step > 1 else "")


def drawn_folds(run: RunState, numbers: int, most: int) -> list[Drawn]:
    """Return the folds of which a round is complete, with the rounds to draw; the last one is among them.

    Parameters
    ----------
    run
        The run.
    numbers
        How many numbers are drawn of a round.
    most
        How many numbers may be drawn in all.
    """
    folds = [fold for fold in run.folds.values() if fold.completed]
    of_all = sum(len(fold.completed) for fold in folds)
    step = max(1, -(-of_all * max(1, numbers) // most))
    return [Drawn(fold, sorted(fold.completed)[::-1][::step][::-1], step, len(folds) > 1) for fold in folds]


def slug(text: str) -> str:
    """Return a text as a word of lower-case letters, digits and hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
