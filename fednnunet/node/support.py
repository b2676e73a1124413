"""Counts the cases of a site behind a figure."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from batchgenerators.utilities.file_and_folder_operations import load_pickle

from fednnunet.labels import Labels, members
from fednnunet.protocol.messages import Support


def support_of(folder: Path, validation: Sequence[str], labels: Labels) -> Support:
    """Return how many validation cases have each label or region, as nnU-Net's preprocessing has found.

    Parameters
    ----------
    folder
        With the preprocessed cases of the configuration.
    validation
        Identifiers of the validation cases.
    labels
        The labels of the dataset.
    """
    has = [_labels_in(load_pickle(str(folder / f"{case}.pkl"))) for case in validation]
    return Support(
        validation=len(validation),
        labels={name: sum(members(key) in each for each in has) for name, key in labels.foreground.items()},
    )


def support_in_summary(summary: Mapping[str, Any], labels: Labels) -> Support:
    """Return how many cases have a Dice of each label or region in a ``summary.json`` of nnU-Net."""
    cases = [each["metrics"] for each in summary["metric_per_case"]]
    keys = {key for case in cases for key in case}
    counts = {key: sum(key in case and math.isfinite(case[key]["Dice"]) for case in cases) for key in keys}
    return Support(validation=len(cases), labels=labels.by_name(counts))


def _labels_in(properties: Mapping[str, Any]) -> set[tuple[int, ...]]:
    """Return of which labels and regions nnU-Net's preprocessor has found voxels in a case."""
    found = properties.get("class_locations") or {}
    return {
        tuple(int(number) for number in (key if isinstance(key, list | tuple) else (key,)))
        for key, where in found.items()
        if len(where) > 0
    }
