"""Reads and checks the plans given with ``--plans``."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

from fednnunet.errors import FednnUNetError
from fednnunet.fingerprint.plans import NotOfAPlannerError, check_plans
from fednnunet.fingerprint.plans_file import read_plans_file

_REMEDY = "give a plans.json of nnU-Net's results, or a plans file of its preprocessed data"


def read_plans(path: Path) -> dict[str, Any]:
    """Return the plans that a file holds, if they may be installed anywhere.

    Raises
    ------
    FednnUNetError
        If there is no such file, or it does not hold plans of nnU-Net.
    """
    plans = read_plans_file(path, f"correct --plans: {_REMEDY}")
    try:
        check_plans(plans, trusted=preprocessors(plans))  # which a site trusts, its own flag says
    except NotOfAPlannerError as error:
        raise FednnUNetError(f"{path} contains {error.finding}; {_REMEDY}.") from error
    return plans


def moved(plans: dict[str, Any], name: str | None, image_reader: str | None) -> dict[str, Any]:
    """Return plans for other datasets (``nnUNetv2_move_plans_between_datasets``), but for the dataset's name.

    Parameters
    ----------
    plans
        The plans that were given.
    name
        What they shall be called, ``None`` for what they are called.
    image_reader
        nnU-Net's class for the files of these datasets, ``None`` for that of the plans.
    """
    before = str(plans["plans_name"])
    name = name or before
    configurations = {}
    for key, configuration in plans["configurations"].items():
        identifier = configuration.get("data_identifier")
        if identifier is not None and name != before:
            rest = identifier[len(before) :] if identifier.startswith(before) else f"_{identifier}"
            configuration = {**configuration, "data_identifier": name + rest}
        configurations[key] = configuration
    reader = image_reader or plans["image_reader_writer"]
    return {**plans, "plans_name": name, "image_reader_writer": reader, "configurations": configurations}


def preprocessors(plans: dict[str, Any]) -> Collection[str]:
    """Return the names of the preprocessors that plans name."""
    configurations = plans.get("configurations")
    found = configurations.values() if isinstance(configurations, dict) else ()
    return {str(content.get("preprocessor_name")) for content in found if isinstance(content, dict)}
