"""The interface of all trackers."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


class Tracker(Protocol):
    """Takes the numbers of one fold's training."""

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Take numbers, by name; `step` is the round to which they belong."""

    def close(self) -> None:
        """Send what has not been sent yet, and let go."""


@dataclass(frozen=True)
class Opening:
    """The training for which a tracker is opened.

    Attributes
    ----------
    folder
        The run folder.
    fold
        Whose training.
    first_round
        The round that comes first: what was tracked of it, or of later ones, is replaced. ``None`` leaves all as it is.
    """

    folder: Path
    fold: str
    first_round: int | None

    @property
    def fold_folder(self) -> Path:
        """The coordinator's folder of this fold; empty when a training starts from scratch."""
        return self.folder / f"fold_{self.fold}"

    def kept(self, name: str) -> str | None:
        """Return the id under which the tracker of this name knows the fold's training, if it does."""
        path = self.fold_folder / name
        return path.read_text(encoding="utf-8").strip() or None if path.is_file() else None

    def keep(self, name: str, identifier: str) -> None:
        """Keep the id under which the tracker of this name knows the fold's training."""
        self.fold_folder.mkdir(parents=True, exist_ok=True)
        (self.fold_folder / name).write_text(identifier + "\n", encoding="utf-8")


OpenTracker = Callable[[Opening], Tracker]
