"""The numbers of a training that hold for every node."""

import math
from collections.abc import Mapping

from fednnunet.errors import FednnUNetError
from fednnunet.protocol.messages import Schedule, TrainingOffer
from fednnunet.settings.coordinator import CoordinatorSettings

_SETTLED = (
    *("rounds", "local_epochs", "iterations_per_epoch", "val_iterations_per_epoch"),
    *("proximal_mu", "optimizer_state"),
)


def agreed_schedule(settings: CoordinatorSettings, offers: Mapping[str, TrainingOffer]) -> Schedule:
    """Return the numbers that hold for every node: the coordinator's, or those on which all trainers agree.

    Parameters
    ----------
    settings
        The coordinator's settings; ``None`` leaves a number to the trainers.
    offers
        What each site's trainer would do.

    Raises
    ------
    FednnUNetError
        If a number is left to the trainers and they do not agree.
    """
    epochs = _agreed("num_epochs", {site: offer.epochs for site, offer in offers.items()}, "--rounds", settings.rounds)
    return Schedule.of(
        rounds=settings.rounds or math.ceil(epochs / settings.local_epochs),
        local_epochs=settings.local_epochs,
        iterations_per_epoch=_agreed(
            "num_iterations_per_epoch",
            {site: offer.iterations_per_epoch for site, offer in offers.items()},
            "--iterations_per_epoch",
            settings.iterations_per_epoch,
        ),
        val_iterations_per_epoch=_agreed(
            "num_val_iterations_per_epoch",
            {site: offer.val_iterations_per_epoch for site, offer in offers.items()},
            "--val_iterations_per_epoch",
            settings.val_iterations_per_epoch,
        ),
        proximal_mu=settings.proximal_mu,
        save_every=settings.save_every,
        optimizer_state=settings.optimizer_state,
    )


def check_unchanged(settings: CoordinatorSettings, schedule: Schedule) -> None:
    """Refuse to continue a training with other numbers than it began with.

    Raises
    ------
    FednnUNetError
        Names the flag.
    """
    for name in _SETTLED:
        given, begun = getattr(settings, name), getattr(schedule, name)
        if given is not None and given != begun:
            raise FednnUNetError(
                f"The training was started with --{name} {begun}, not {given}: continue it with the same value."
            )


def _agreed(name: str, by_site: dict[str, int], flag: str, chosen: int | None) -> int:
    if chosen is not None:
        return chosen
    if len(set(by_site.values())) > 1:
        raise FednnUNetError(
            f"The sites' trainers differ in {name} ({by_site}): choose with {flag} at the coordinator."
        )
    return next(iter(by_site.values()))
