"""Measures seconds and bytes of a round, including its repetitions."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from fednnunet.coordinator import meters
from fednnunet.coordinator.exchange import Exchange
from fednnunet.coordinator.meters import SiteMeter, Stopwatch
from fednnunet.coordinator.registry import ClientRegistry
from fednnunet.events.events import RoundTiming, Traffic


@dataclass(frozen=True)
class _Reading:
    """Readings of a site's meter."""

    to_site: int = 0
    from_site: int = 0
    training: float = 0.0
    validating: float = 0.0

    @classmethod
    def of(cls, meter: SiteMeter) -> "_Reading":
        return cls(meter.to_site, meter.from_site, meter.training.seconds, meter.validating.seconds)


class RoundCosts:
    """The costs of the current round, from its first attempt until `finish`.

    Parameters
    ----------
    registry
        The sites, whose meters are read.

    Attributes
    ----------
    attempts
        How often the round was begun.
    """

    def __init__(self, registry: ClientRegistry) -> None:
        self.attempts = 0
        self._registry = registry
        self._began = 0.0
        self._before: dict[str, _Reading] = {}
        self._exchanging = Stopwatch()
        self._aggregating = 0.0

    def attempt(self) -> None:
        """Start the round, or another attempt; the costs of failed attempts count, too."""
        if self.attempts == 0:
            self._began = meters.now()
            self._before = {site.name: _Reading.of(site.meter) for site in self._registry.sites}
            self._exchanging, self._aggregating = Stopwatch(), 0.0
        self.attempts += 1

    @contextlib.contextmanager
    def exchanging(self, exchange: Exchange) -> Iterator[None]:
        """Count the time until the end of the block as averaging, where `exchange` averages, or else as moving."""
        began, averaged = meters.now(), exchange.aggregating.seconds
        try:
            yield
        finally:
            self._exchanging.seconds += meters.now() - began
            self._aggregating += exchange.aggregating.seconds - averaged

    def finish(self) -> None:
        """End the round; the next attempt is one at another round."""
        self.attempts = 0

    @property
    def seconds(self) -> float:
        """Seconds since the round began."""
        return meters.now() - self._began

    @property
    def timing(self) -> RoundTiming:
        """Where the seconds of the round have gone so far."""
        training = {name: now.training - before.training for name, before, now in self._readings()}
        validating = {name: now.validating - before.validating for name, before, now in self._readings()}
        return RoundTiming(
            training={name: seconds for name, seconds in training.items() if seconds > 0},
            # the next part of the model may be made while this one travels
            moving=max(0.0, self._exchanging.seconds - self._aggregating),
            averaging=self._aggregating,
            validating={name: seconds for name, seconds in validating.items() if seconds > 0},
        )

    @property
    def traffic(self) -> dict[str, Traffic]:
        """The bytes of the round so far, of all sites that were spoken to."""
        traffic = {
            name: Traffic(to_site=now.to_site - before.to_site, from_site=now.from_site - before.from_site)
            for name, before, now in self._readings()
        }
        return {name: of_site for name, of_site in traffic.items() if of_site.to_site or of_site.from_site}

    def _readings(self) -> Iterator[tuple[str, _Reading, _Reading]]:
        """Yield each site's readings at the start of the round, and now."""
        for site in self._registry.sites:
            yield site.name, self._before.get(site.name, _Reading()), _Reading.of(site.meter)
