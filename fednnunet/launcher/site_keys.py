"""Throw-away keys of the sites of a federation on one machine, so that their sums are masked as in a consortium."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fednnunet.errors import FednnUNetError
from fednnunet.secure_aggregation.attempts import Rules
from fednnunet.security.identity import Identity, SiteList, create_key, entry, listed_site

_FOLDER, _LIST = "secure", "sites.toml"
_PRIVATE_MODE = 0o700


@dataclass(frozen=True)
class KeyFiles:
    """Files with a key for each site, and the list of all.

    Attributes
    ----------
    folder
        Their folder, which only its owner can read.
    """

    folder: Path

    @classmethod
    def make(cls, log_dir: Path, sites: Sequence[str]) -> "KeyFiles":
        """Make keys and list in a folder for logs, in place of those of an earlier run.

        Parameters
        ----------
        log_dir
            The folder.
        sites
            Names of the sites, as their nodes introduce themselves.

        Raises
        ------
        FednnUNetError
            If a file cannot be written.
        """
        files = cls(log_dir / _FOLDER)
        try:
            files.folder.mkdir(mode=_PRIVATE_MODE, parents=True, exist_ok=True)
            for site in sites:
                for ending in ("key", "pub"):
                    (files.folder / f"{site}.{ending}").unlink(missing_ok=True)
            listed = [create_key(site, files.folder)[2] for site in sites]
            files._list.write_text("\n".join(map(entry, listed)), encoding="utf-8")
        except OSError as error:
            raise FednnUNetError(
                f"{error.filename} cannot be written ({error.strerror}): choose another folder with --log_dir."
            ) from error
        return files

    def server_words(self) -> list[str]:
        """Return the words of the coordinator's command line."""
        return ["--sites", str(self._list)]

    def client_words(self, site: str) -> list[str]:
        """Return the words of the command line of a site's node."""
        return ["--site", site, "--key", str(self.folder / f"{site}.key"), *self.server_words()]

    @property
    def _list(self) -> Path:
        return self.folder / _LIST


class KeysInMemory:
    """A key for each site, and the list of all.

    Parameters
    ----------
    sites
        Names of the sites, as their nodes introduce themselves.

    Attributes
    ----------
    identities
        The keys, by name of the site.
    rules
        What all sites want of a masked sum.
    """

    def __init__(self, sites: Sequence[str]) -> None:
        self.identities = {site: Identity(Ed25519PrivateKey.generate()) for site in sites}
        self.rules = Rules(SiteList([listed_site(site, key) for site, key in self.identities.items()]))
