"""Logs rejected nodes, at a limited rate."""

import logging
import time
from collections.abc import Callable

logger = logging.getLogger(__name__)

_QUIET_SECONDS = 60.0
_REMEMBERED = 100


class Refusals:
    """Logs each reason once a minute at most, and how often it has come up since.

    Parameters
    ----------
    clock
        Seconds, that only grow.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._since: dict[str, tuple[float, int]] = {}

    def warn(self, reason: str) -> None:
        """Log a rejected node, at a limited rate."""
        now = self._clock()
        at, silent = self._since.get(reason, (None, 0))
        if at is not None and now - at < _QUIET_SECONDS:
            self._since[reason] = at, silent + 1
            return
        if len(self._since) >= _REMEMBERED:
            self._since = {other: known for other, known in self._since.items() if now - known[0] < _QUIET_SECONDS}
        if len(self._since) >= _REMEMBERED:  # reasons that differ each time come from somebody who wants that
            reason = "many nodes, for many reasons"
            if reason in self._since and now - self._since[reason][0] < _QUIET_SECONDS:
                return
        self._since[reason] = now, 0
        logger.warning("Rejected a node: %s%s", reason, f" (and {silent} times before)" if silent else "")
