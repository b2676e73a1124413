"""Asks a person to approve an outgoing message: at the node's terminal, or by files that wait for an answer."""

import logging
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fednnunet.background import Stopped, Tracker
from fednnunet.errors import FednnUNetError
from fednnunet.files import replacing

logger = logging.getLogger(__name__)

_LOOK_EVERY_SECONDS = 0.5


@dataclass(frozen=True)
class Request:
    """Something that waits for a person.

    Attributes
    ----------
    summary
        File with a text to read; what would be sent stands beside it.
    """

    summary: Path

    @property
    def payload(self) -> Path:
        """File with the very bytes that would be sent."""
        return self.summary.with_suffix(".payload")

    @property
    def decision(self) -> bool | None:
        """The person's decision, if any."""
        answer = self.summary.with_suffix(".answer")
        return answer.read_text(encoding="utf-8").strip() == "yes" if answer.is_file() else None

    def decide(self, agreed: bool) -> bool:
        """Store the person's decision; return whether the node was still waiting for it."""
        return self._answer("yes" if agreed else "no")

    def withdraw(self) -> None:
        """Record that the node no longer waits for an answer."""
        self._answer("withdrawn")

    def _answer(self, answer: str) -> bool:
        if self.decision is not None:
            return False
        with replacing(self.summary.with_suffix(".answer")) as temporary:
            temporary.write_text(answer, encoding="utf-8")
        return True


class Approver:
    """Puts each request into a folder, where a person finds it, and waits for the answer.

    What a node has left there that was killed is withdrawn: an answer to that would do nothing.

    Parameters
    ----------
    folder
        The folder, of one node; made when it is needed.
    terminal
        Whether somebody sits before the node, who can be asked at once.
    """

    def __init__(self, folder: Path, terminal: bool | None = None) -> None:
        self._folder = folder
        self._terminal = sys.stdin.isatty() if terminal is None else terminal
        for left in waiting(folder) if folder.is_dir() else []:
            left.withdraw()

    def ask(self, kind: str, summary: str, payload: Sequence[bytes], tracker: Tracker | None = None) -> bool:
        """Return whether a person agrees, once one has said so.

        Parameters
        ----------
        kind
            What it is about; a part of the files' names.
        summary
            Text for the person.
        payload
            What would be sent, one part after the other.
        tracker
            Tells when nobody waits for the answer any more.

        Raises
        ------
        FednnUNetError
            If the request cannot be written.
        Stopped
            If `tracker` tells so.
        """
        tracker = tracker or Tracker()
        request = self._put(kind, summary, payload)
        logger.warning(
            "%s\nSaved as %s. Answer here, or with: fednnunet policy approve '%s'",
            summary,
            request.payload,
            self._folder,
        )
        if self._terminal:
            threading.Thread(target=_ask_here, args=(request,), name="fednnunet-approval", daemon=True).start()
        while (decision := request.decision) is None:
            try:
                tracker.check()
            except Stopped:
                request.withdraw()
                raise
            tracker.pause(_LOOK_EVERY_SECONDS)
        logger.info("%s: %s.", kind, "approved" if decision else "not approved")
        return decision

    def _put(self, kind: str, summary: str, payload: Sequence[bytes]) -> Request:
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            # a number that no file has: an answer that was left of an earlier request is none to this one
            used = (path.name.partition("-")[0] for path in self._folder.iterdir())
            number = 1 + max((int(prefix) for prefix in used if prefix.isdecimal()), default=0)
            request = Request(self._folder / f"{number:04d}-{kind}.txt")
            with replacing(request.payload) as temporary:
                temporary.write_bytes(b"".join(payload))
            with replacing(request.summary) as temporary:
                temporary.write_text(summary + "\n", encoding="utf-8")
        except OSError as error:
            raise FednnUNetError(
                f"A message that needs approval cannot be saved in {self._folder} ({error.strerror}): free space there."
            ) from error
        return request


def as_decision(answer: str) -> bool | None:
    """Return the decision in an answer; ``None`` if it is ambiguous."""
    return {"yes": True, "y": True, "no": False, "n": False}.get(answer.strip().lower())


def waiting(folder: Path) -> list[Request]:
    """Return the waiting requests of a folder, oldest first.

    Raises
    ------
    FednnUNetError
        If there is no such folder.
    """
    if not folder.is_dir():
        raise FednnUNetError(f"Folder {folder} does not exist: give the one that the node printed.")
    requests = [Request(path) for path in sorted(folder.glob("*.txt"))]
    return [request for request in requests if request.decision is None]


def _ask_here(request: Request) -> None:
    try:
        answer = None
        while answer is None and request.decision is None:
            sys.stderr.write("Send it? Type yes or no: ")
            sys.stderr.flush()
            line = sys.stdin.readline()
            if not line:
                return
            answer = as_decision(line)
    except (OSError, ValueError):
        return  # the terminal has gone; the files are left
    if answer is not None and request.decision is None:
        request.decide(answer)
