"""Stores receipts for the sites' messages, which reveal an audit log with a missing end."""

import logging
import time
from collections.abc import Sequence
from pathlib import Path

from fednnunet.coordinator.site import Site
from fednnunet.files import ends_within_line
from fednnunet.privacy.audit import Receipt

logger = logging.getLogger(__name__)

RECEIPTS = "receipts.jsonl"


class Receipts:
    """Keeps the last entry of each site's audit log that the coordinator has heard of: one JSON line for each.

    Parameters
    ----------
    folder
        Where to keep them; ``None`` for nowhere.
    """

    def __init__(self, folder: Path | None) -> None:
        self._path = None if folder is None else folder / RECEIPTS
        self._kept: dict[str, tuple[int, str]] = {}

    def keep(self, sites: Sequence[Site]) -> None:
        """Store new receipts; a full disk does not end the training."""
        news = {site.name: site.last_entry for site in sites if site.last_entry is not None}
        news = {name: entry for name, entry in news.items() if self._kept.get(name) != entry}
        if self._path is None or not news:
            return
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        lines = [
            Receipt(site=name, entries=entries, sha256=digest, time=now).to_json() + "\n"
            for name, (entries, digest) in news.items()
        ]
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a+", encoding="utf-8") as file:
                file.writelines(["\n", *lines] if ends_within_line(file.fileno()) else lines)
            self._kept.update(news)
        except OSError as error:
            logger.warning("Receipts cannot be saved in %s (%s).", self._path, error.strerror)
