"""Checks one site's description of the common network against the introductions of all sites.

Names in the description become names of folders, and its plans go to machines outside the federation. It is therefore
accepted only if nnU-Net could have written it, and if it matches what all sites agreed on.
"""

import logging
import math
import re
from collections.abc import Sequence
from typing import Any

from pydantic import Field

from fednnunet.coordinator.site import Site
from fednnunet.errors import FednnUNetError
from fednnunet.fingerprint.plans import NotOfAPlannerError, check_fingerprint, check_plans, plans_digest
from fednnunet.nnunet_defaults import model_folder_name
from fednnunet.protocol.messages import Hello, ModelDescription
from fednnunet.schema import JsonObject, Message
from fednnunet.weights.layout import Layout, Listing, TensorSpec
from fednnunet.weights.sharing import NORM

logger = logging.getLogger(__name__)

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}")
"""A part of the name of a folder, whatever the file system."""

_FILE_ENDING = re.compile(r"\.[A-Za-z0-9][A-Za-z0-9_.-]{0,38}")
_READER = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,79}")
_DTYPES = frozenset({"float16", "bfloat16", "float32", "float64"})
_COUNTER = "num_batches_tracked"
"""Batch normalization's counter of batches, on which no prediction depends."""
_COUNTER_DTYPE = "int64"


class CommonModel(Message):
    """All that nnU-Net writes beside the weights of a model; kept as ``model.json`` in the folder of the fold."""

    trainer: str
    configuration: str
    plans: JsonObject = Field(description="the name of the dataset in them stands for none")
    fingerprint: JsonObject | None
    dataset: JsonObject = Field(description="dataset.json, but for the number of cases")
    cases: int = Field(description="in the federation")
    mirroring_axes: list[int] | None
    entries: list[Listing | TensorSpec] = Field(description="of the state dict, in order")

    @property
    def folder(self) -> str:
        """nnU-Net's name of the model's folder."""
        return model_folder_name(self.trainer, self.plans["plans_name"], self.configuration)

    def is_of(self, other: "CommonModel") -> bool:
        """Return whether both are folds of one model."""
        apart = {"cases", "fingerprint"}
        return self.model_dump(exclude=apart) == other.model_dump(exclude=apart)


def why_there_is_none(hellos: Sequence[Hello], groups: int, keep_local: str | None) -> str | None:
    """Return why sites have no model in common, ``None`` if they have.

    Parameters
    ----------
    hellos
        How the sites have introduced themselves.
    groups
        Number of groups of sites that share something.
    keep_local
        The coordinator's flag.
    """
    if hellos[0].method != "FFE" or groups > 1:
        return "each site planned for itself"
    if keep_local not in (None, NORM):
        return f"--keep_local '{keep_local}' leaves a part of it at each site"
    return None


def ask_for_model(sites: Sequence[Site], hellos: Sequence[Hello], layout: Layout) -> CommonModel | None:
    """Ask one site after the other for a description of the network; warn once if none provides it.

    Parameters
    ----------
    sites
        Those that can be asked.
    hellos
        How all sites have introduced themselves, those that are missing now, too.
    layout
        The distinct tensors of the global model.
    """
    reasons = []
    for site in sites:
        try:
            return common_model(site.ask("describe", None, ModelDescription), hellos, layout)
        except FednnUNetError as error:
            reasons.append(f"site {site.name}: {getattr(error, 'reason', error)}")
    logger.warning(
        "The coordinator cannot export the model in nnU-Net's format, without a description of the network (%s).",
        "; ".join(reasons[:3]),
    )
    return None


def common_model(described: ModelDescription, hellos: Sequence[Hello], layout: Layout) -> CommonModel:
    """Return the model that a site describes, if it can be that of the federation.

    Parameters
    ----------
    described
        What the site says.
    hellos
        How all sites have introduced themselves, which agrees but for the number of cases.
    layout
        The distinct tensors of the global model.

    Raises
    ------
    FednnUNetError
        If it cannot be that of the federation, or has a name that cannot be that of a folder.
    """
    facts = hellos[0]
    if facts.training is None:
        raise FednnUNetError("it has not said what it trains")
    trainer, configuration = facts.training.trainer, facts.training.configuration
    _check_plans(described, facts)
    names = {"trainer": trainer, "configuration": configuration, "plans": described.plans["plans_name"]}
    for what, name in names.items():
        _check(what, name, _NAME)
    _check("file ending", described.file_ending, _FILE_ENDING)
    if described.image_reader is not None:
        _check("image reader", described.image_reader, _READER)
    if configuration not in described.plans["configurations"]:
        raise FednnUNetError(f"its plans have no configuration {configuration}")
    _check_entries(described.entries, layout)
    optional = {
        "regions_class_order": facts.regions_class_order,
        "overwrite_image_reader_writer": described.image_reader,
    }
    dataset: dict[str, Any] = {
        "channel_names": facts.channels,
        "labels": facts.labels,
        "file_ending": described.file_ending,
        **{name: value for name, value in optional.items() if value is not None},
    }
    return CommonModel(
        trainer=trainer,
        configuration=configuration,
        plans=described.plans,
        fingerprint=described.fingerprint,
        dataset=dataset,
        cases=sum(hello.cases for hello in hellos),
        mirroring_axes=described.mirroring_axes,
        entries=described.entries,
    )


def _check_plans(described: ModelDescription, facts: Hello) -> None:
    if plans_digest(described.plans) != facts.plans_digest:
        raise FednnUNetError("its plans are not those on which the sites have agreed")
    try:
        check_plans(described.plans)
        if described.fingerprint is not None:
            check_fingerprint(described.fingerprint)
    except NotOfAPlannerError as error:
        raise FednnUNetError(f"it sends {error.finding}") from error


def _check(what: str, name: object, pattern: re.Pattern[str]) -> None:
    if not isinstance(name, str) or not pattern.fullmatch(name):
        raise FednnUNetError(f"its {what} has the invalid name {name!r}")


def _check_entries(entries: Sequence[Listing | TensorSpec], layout: Layout) -> None:
    """Refuse a state dict that is not one of these tensors."""
    if len({entry.name for entry in entries}) < len(entries):
        raise FednnUNetError("it lists a tensor twice under one name")
    listed = {entry.name: entry.tensor for entry in entries if isinstance(entry, Listing)}
    names = {tensor.name for tensor in layout.tensors}
    if not set(listed.values()) <= names or any(listed.get(name) != name for name in names):
        raise FednnUNetError("it lists other tensors than those that are averaged")
    odd = sorted({tensor.dtype for tensor in layout.tensors} - _DTYPES)
    if odd:
        raise FednnUNetError(f"its network has tensors of type {odd[0]}")
    for entry in entries:
        if isinstance(entry, TensorSpec) and not _is_counter(entry):
            raise FednnUNetError(f"its network has a buffer {entry.name} of type {entry.dtype}, which is not averaged")


def _is_counter(buffer: TensorSpec) -> bool:
    is_one = math.prod(buffer.shape) == 1
    return buffer.name.rpartition(".")[2] == _COUNTER and buffer.dtype == _COUNTER_DTYPE and is_one
