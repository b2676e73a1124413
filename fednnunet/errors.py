"""Errors that a user can cause or fix; the commands print them as one sentence, without a traceback."""

import errno
import os

_DISK = (errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EFBIG)
_TORCH_CANNOT_WRITE = ("PytorchStreamWriter", "iostream error", "inline_container.cc")
"""Message of a RuntimeError of torch, without a reason, when a checkpoint cannot be written."""


class FednnUNetError(Exception):
    """An error that a user can fix: the message names the site, the problem and the remedy."""

    @property
    def shareable(self) -> str:
        """The message as it may leave a site."""
        return str(self)


class CaseError(FednnUNetError):
    """An error of one case of a site. Only the site's own output names the case.

    Parameters
    ----------
    case
        Identifier of the case.
    problem
        What it does, as in "has NaN voxels".
    remedy
        What to do about it.
    file
        The file at fault, if it is known; told where the case is told.
    """

    def __init__(self, case: str, problem: str, remedy: str, file: str | None = None) -> None:
        super().__init__(case, problem, remedy, file)  # as given, so that a worker process can send it
        self._case = case
        self._problem = problem
        self._remedy = remedy
        self._file = file

    def __str__(self) -> str:
        where = "" if self._file is None else f" ({self._file})"
        return f"case {self._case} {self._problem}: {self._remedy}{where}"

    @property
    def shareable(self) -> str:
        """The message without the case."""
        return f"one of its cases {self._problem}: {self._remedy} (the node's own output names the case)"


class SiteFailure(FednnUNetError):  # noqa: N818, named for what it is
    """A site failed to do what the coordinator asked.

    Parameters
    ----------
    site
        Name of the site.
    reason
        What the site said, or what happened to the connection.
    """

    def __init__(self, site: str, reason: str) -> None:
        super().__init__(f"Site {site} failed: {reason}")
        self.site = site
        self.reason = reason


def disk_problem(error: BaseException) -> str | None:
    """Return a few words about a full or read-only disk, if that is the cause of a library's error."""
    if isinstance(error, OSError) and error.errno in _DISK:
        return os.strerror(error.errno)
    if isinstance(error, RuntimeError) and any(words in str(error) for words in _TORCH_CANNOT_WRITE):
        return "torch could not write it, is the disk full?"
    return None if error.__cause__ is None else disk_problem(error.__cause__)
