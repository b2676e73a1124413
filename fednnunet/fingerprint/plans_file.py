"""Reads a plans file of nnU-Net, and checks the keys that every use needs."""

from pathlib import Path
from typing import Any

from fednnunet.errors import FednnUNetError
from fednnunet.files import read_json_object


def read_plans_file(path: Path, remedy: str) -> dict[str, Any]:
    """Return the plans that a file holds.

    Parameters
    ----------
    path
        The file.
    remedy
        What to do if it is not there or damaged.

    Raises
    ------
    FednnUNetError
        If it cannot be read, or lacks what all plans of nnU-Net have.
    """
    plans = read_json_object(path, remedy)
    configurations = plans.get("configurations")
    if not isinstance(configurations, dict) or not configurations:
        raise FednnUNetError(f'{path} has no "configurations", as plans of nnU-Net have: {remedy}.')
    for name, configuration in configurations.items():
        if not isinstance(configuration, dict):
            raise FednnUNetError(f'{path} has {configuration!r:.40} as configuration "{name}": {remedy}.')
        if not isinstance(configuration.get("inherits_from") or "", str):
            raise FednnUNetError(f'{path}: "inherits_from" of "{name}" is not the name of a configuration: correct it.')
    for key in ("plans_name", "dataset_name"):
        if not isinstance(plans.get(key), str) or not plans[key]:
            raise FednnUNetError(f'{path} has no "{key}", as plans of nnU-Net have: {remedy}.')
    return plans
