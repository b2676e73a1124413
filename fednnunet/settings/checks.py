"""Settings that do not go together, and rules that are not there: told before anything starts."""

from pathlib import Path

from fednnunet.errors import FednnUNetError
from fednnunet.protocol.messages import FingerprintMode
from fednnunet.settings.coordinator import CoordinatorSettings, ListeningSettings
from fednnunet.settings.node import TrainingSettings
from fednnunet.weights.aggregation import AGGREGATIONS
from fednnunet.weights.server_optimizers import SERVER_OPTIMIZERS
from fednnunet.wording import counted

_FEWEST_SITES = 3
"""Of a masked sum: of two, each knows the other's term."""


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


def check_secure(
    settings: CoordinatorSettings,
    listening: ListeningSettings | None = None,
    fingerprint: FingerprintMode | None = None,
) -> None:
    """Refuse what masked sums cannot do.

    Parameters
    ----------
    settings
        The coordinator's.
    listening
        Where it listens; ``None`` for a federation on one machine, which makes its own list of sites.
    fingerprint
        What the nodes tell, where that is known.

    Raises
    ------
    FednnUNetError
        Names all settings that do not go together with ``secure``.
    """
    if not settings.secure:
        return
    reasons = {
        f"--aggregation {settings.aggregation}": settings.aggregation != "mean",
        "--fingerprint shared-cases": "shared-cases" in (settings.fingerprint, fingerprint),
        counted(settings.num_clients, "site"): settings.num_clients < _FEWEST_SITES,
        f"--min_clients {settings.min_clients}": (settings.min_clients or _FEWEST_SITES) < _FEWEST_SITES,
        "--insecure": listening is not None and listening.insecure,
        "a coordinator without --sites": listening is not None and listening.sites is None,
    }
    found = [reason for reason, applies in reasons.items() if applies]
    if found:
        *first, last = found
        listed = f"{', '.join(first)} and {last}" if first else last
        raise FednnUNetError(
            f"--secure sums answers of at least {_FEWEST_SITES} authenticated sites, and so does not work with "
            f"{listed}: change that, or leave out --secure."
        )


def check_rules(settings: CoordinatorSettings) -> None:
    """Import the rules that are chosen by name.

    Raises
    ------
    FednnUNetError
        If there is none of that name, or a package's cannot be used.
    """
    _ = AGGREGATIONS[settings.aggregation], SERVER_OPTIMIZERS[settings.server_optimizer]
