"""Keeps a copy of a user's own files in a dataset before new plans replace them."""

import logging
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from fednnunet.errors import FednnUNetError
from fednnunet.files import keep_copy, read_json, write_json
from fednnunet.fingerprint.plans import fingerprint_digest, plans_digest
from fednnunet.node.dataset import SiteDataset
from fednnunet.node.record import FINGERPRINT, read_record, recorded_fingerprints

logger = logging.getLogger(__name__)


def keep_own_plans(dataset: SiteDataset, name: str, new: Mapping[str, Any] | None = None) -> None:
    """Keep a copy of plans that were edited, or that no federation has made, if there are any of this name.

    Parameters
    ----------
    dataset, name
        The dataset, and what its plans are called.
    new
        The plans that will take their place, if they are known: of equal ones no copy is needed.
    """
    record = read_record(dataset, name)
    replaceable = [] if record is None else [record.plans_digest]
    replaceable += [] if new is None else [plans_digest(new)]
    _keep_unless(replaceable, dataset.preprocessed / f"{name}.json", plans_digest)


def keep_own_fingerprint(dataset: SiteDataset, new: Mapping[str, Any] | None = None) -> None:
    """Keep a copy of a fingerprint that no federation has brought, unless it equals the new one."""
    replaceable = [*recorded_fingerprints(dataset), *([] if new is None else [fingerprint_digest(new)])]
    _keep_unless(replaceable, dataset.preprocessed / FINGERPRINT, fingerprint_digest)


def write_fingerprint(fingerprint: dict[str, Any], dataset: SiteDataset) -> None:
    """Write a fingerprint where nnU-Net looks for it."""
    keep_own_fingerprint(dataset, fingerprint)
    write_json(fingerprint, dataset.preprocessed / FINGERPRINT)


def _keep_unless(replaceable: Collection[str], path: Path, digest: Callable[[Mapping[str, Any]], str]) -> None:
    if not path.is_file():
        return
    try:
        content = read_json(path, "move it away")
    except FednnUNetError:  # damaged, which is for the user to look at
        content = None
    if not isinstance(content, dict) or digest(content) not in replaceable:
        logger.warning("%s was not written by a federation: replacing it, and keeping it as %s.", path, keep_copy(path))
