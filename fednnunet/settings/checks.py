"""Settings that do not go together, and rules that are not there: told before anything starts."""

from pathlib import Path

from fednnunet.errors import FednnUNetError
from fednnunet.settings.coordinator import CoordinatorSettings
from fednnunet.settings.node import TrainingSettings
from fednnunet.weights.aggregation import AGGREGATIONS
from fednnunet.weights.server_optimizers import SERVER_OPTIMIZERS


def check_training(settings: CoordinatorSettings | TrainingSettings) -> None:
    """Refuse what cannot be wanted of a training.

    Raises
    ------
    FednnUNetError
        Names both settings.
    """
    if settings.resume and settings.overwrite:
        raise FednnUNetError("--c continues what --overwrite would remove: leave one of them out")
    if isinstance(settings, CoordinatorSettings) and (settings.min_clients or 1) > settings.num_clients:
        raise FednnUNetError(
            f"--min_clients {settings.min_clients} exceeds the number of sites, {settings.num_clients}"
        )


def check_given_plans(given: Path | None, asym: bool, fingerprint: str | None, default: str | None) -> None:
    """Refuse to plan where plans are given.

    Raises
    ------
    FednnUNetError
        Names what says how to plan.
    """
    flag = "--asym" if asym else "--fingerprint" if fingerprint != default else None
    if given is not None and flag is not None:
        raise FednnUNetError(f"{flag} controls planning, but --plans replaces it: leave one of them out")


def check_rules(settings: CoordinatorSettings) -> None:
    """Import the rules that are chosen by name.

    Raises
    ------
    FednnUNetError
        If there is none of that name, or a package's cannot be used.
    """
    _ = AGGREGATIONS[settings.aggregation], SERVER_OPTIMIZERS[settings.server_optimizer]
