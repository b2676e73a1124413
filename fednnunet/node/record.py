"""``federation.json``: records the origin of plans, by name of the plans."""

import json
from collections.abc import Mapping

from pydantic import TypeAdapter, ValidationError

from fednnunet.errors import FednnUNetError
from fednnunet.files import write_json
from fednnunet.node.dataset import SiteDataset
from fednnunet.protocol.messages import FederationRecord

RECORD = "federation.json"
FINGERPRINT = "dataset_fingerprint.json"

_RECORDS = TypeAdapter(dict[str, FederationRecord])


def read_record(dataset: SiteDataset, plans_name: str) -> FederationRecord | None:
    """Return how the plans of this name came about, ``None`` if no federation made them.

    Raises
    ------
    FednnUNetError
        If the file is damaged.
    """
    return _read(dataset).get(plans_name)


def write_record(dataset: SiteDataset, plans_name: str, record: FederationRecord) -> None:
    """Record the origin of plans, beside that of other plans of the dataset.

    Plans may share preprocessed data: what others have known of data that are now those of this record is over.
    """
    records = {name: _without(kept, record.data) for name, kept in _read(dataset).items()} | {plans_name: record}
    write_json({name: json.loads(kept.to_json()) for name, kept in records.items()}, dataset.preprocessed / RECORD)


def preprocessed_with(dataset: SiteDataset, data_identifier: str) -> str | None:
    """Return the digest of the settings of preprocessed data in a folder, ``None`` if no federation made them."""
    return next((record.data[data_identifier] for record in _read(dataset).values() if data_identifier in record.data),
                None)  # fmt: skip


def recorded_fingerprints(dataset: SiteDataset) -> list[str]:
    """Return the digests of the fingerprints that federations have brought."""
    return [record.fingerprint_digest for record in _read(dataset).values() if record.fingerprint_digest is not None]


def _without(record: FederationRecord, data: Mapping[str, str]) -> FederationRecord:
    return record.model_copy(update={"data": {name: made for name, made in record.data.items() if name not in data}})


def _read(dataset: SiteDataset) -> dict[str, FederationRecord]:
    path = dataset.preprocessed / RECORD
    if not path.is_file():
        return {}
    try:
        return _RECORDS.validate_json(path.read_bytes())
    except ValidationError as error:
        raise FednnUNetError(
            f"{path} is damaged: restore it, or move it away; its plans then count as custom plans, which train "
            "if all sites have the same."
        ) from error
