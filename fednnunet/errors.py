"""The errors that a user can cause or mend; the commands print them as one sentence, without a traceback."""


class FednnUNetError(Exception):
    """Something a user can mend: the message names the site, the thing and the remedy."""


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
