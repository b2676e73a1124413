"""Measures seconds and bytes of sites and coordinator over a whole training."""

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from fednnunet.protocol.conversation import Answer, Question


def now() -> float:
    """Return the seconds of a clock that never goes back."""
    return time.monotonic()


class Stopwatch:
    """Adds up the seconds of one kind of work in `seconds`."""

    def __init__(self) -> None:
        self.seconds = 0.0

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Count the time until the end of the block, unless it raises."""
        began = now()
        yield
        self.seconds += now() - began


@dataclass
class SiteMeter:
    """Seconds and bytes of one site so far.

    Bytes are those of bodies and data of questions and answers, each time that they travel. What the channel wraps
    around them, pings, and reports of how far a site is are not counted.
    """

    to_site: int = 0
    from_site: int = 0
    training: Stopwatch = field(default_factory=Stopwatch)
    validating: Stopwatch = field(default_factory=Stopwatch)

    def count_question(self, question: Question) -> None:
        """Count a question that is sent."""
        self.to_site += _size(question)

    def count_answer(self, answer: Answer) -> None:
        """Count an answer that has arrived."""
        self.from_site += _size(answer)


def _size(said: Question | Answer) -> int:
    return len((said.body or "").encode()) + len(said.data)
