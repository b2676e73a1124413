"""``federation.json``: how the plans beside it came about, by the name of the plans."""

import json

from pydantic import TypeAdapter, ValidationError

from fednnunet.channel.messages import FederationRecord
from fednnunet.errors import FednnUNetError
from fednnunet.files import write_json
from fednnunet.node.dataset import SiteDataset

RECORD = "federation.json"

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
    """Keep how plans came about, beside what is known of other plans of the dataset."""
    records = {**_read(dataset), plans_name: record}
    write_json({name: json.loads(kept.to_json()) for name, kept in records.items()}, dataset.preprocessed / RECORD)


def _read(dataset: SiteDataset) -> dict[str, FederationRecord]:
    path = dataset.preprocessed / RECORD
    if not path.is_file():
        return {}
    try:
        return _RECORDS.validate_json(path.read_bytes())
    except ValidationError as error:
        raise FednnUNetError(f"{path} is damaged: delete it and run plan_and_preprocess again.") from error
