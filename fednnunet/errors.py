"""The errors that a user can cause or mend; the commands print them as one sentence, without a traceback."""


class FednnUNetError(Exception):
    """Something a user can mend: the message names the site, the thing and the remedy."""

    @property
    def shareable(self) -> str:
        """The message as it may leave a site."""
        return str(self)


class CaseError(FednnUNetError):
    """Something is wrong with one case of a site. Which one, only the site's own output tells.

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
    """A site could not do what the coordinator asked of it.

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
