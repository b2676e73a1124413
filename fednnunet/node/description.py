"""Describes a site's network, so that the coordinator can export the global model in nnU-Net's format."""

from typing import Any

from batchgenerators.utilities.file_and_folder_operations import load_json

from fednnunet.fingerprint.plans import fingerprint_digest
from fednnunet.node.dataset import SiteDataset
from fednnunet.node.record import read_record
from fednnunet.protocol.messages import ModelDescription
from fednnunet.weights.packing import listing_of

_FINGERPRINT = "dataset_fingerprint.json"
_NO_DATASET = "Federation"
"""Placeholder in plans for the name of the site's dataset."""


def describe(trainer: Any, dataset: SiteDataset, plans_name: str) -> ModelDescription:
    """Return how the network of a trainer, an ``nnUNetTrainer`` that is initialized, is built."""
    axes = trainer.inference_allowed_mirroring_axes
    return ModelDescription(
        plans={**trainer.plans_manager.plans, "dataset_name": _NO_DATASET},
        fingerprint=common_fingerprint(dataset, plans_name),
        file_ending=trainer.dataset_json["file_ending"],
        image_reader=trainer.dataset_json.get("overwrite_image_reader_writer"),
        mirroring_axes=None if axes is None else [int(axis) for axis in axes],
        entries=listing_of(trainer.network.state_dict()),
    )


def common_fingerprint(dataset: SiteDataset, plans_name: str) -> dict[str, Any] | None:
    """Return the fingerprint of a dataset if it is the one that came with the plans from the coordinator.

    One that nnU-Net has extracted here since then lists the site's cases, which are nobody else's business.
    """
    path, record = dataset.preprocessed / _FINGERPRINT, read_record(dataset, plans_name)
    if record is None or record.fingerprint_digest is None or not path.is_file():
        return None
    try:
        fingerprint: dict[str, Any] = load_json(str(path))
    except ValueError:  # nothing depends on it
        return None
    return fingerprint if fingerprint_digest(fingerprint) == record.fingerprint_digest else None
