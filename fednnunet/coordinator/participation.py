"""Tracks participation in a round: waits for a quorum of sites, and leaves out failing ones."""

import logging
import time
from collections.abc import Callable, Collection, Sequence
from functools import partial

from fednnunet.coordinator.asking import each
from fednnunet.coordinator.registry import ClientRegistry
from fednnunet.coordinator.site import Site, SiteLate, SiteLost, SiteOutlier
from fednnunet.errors import FednnUNetError, SiteFailure
from fednnunet.events.events import EventSink, SiteLeftOut, SitesAwaited, SiteTakenIn

logger = logging.getLogger(__name__)

_LOOK_EVERY_SECONDS = 1.0


class Participation:
    """Tracks which site holds which version of the global model.

    Parameters
    ----------
    registry
        The sites.
    needed
        Sites without which nothing goes on.
    give_up_after
        Seconds to wait for them; ``None`` for as long as it takes.
    sink
        Takes what happens.
    """

    def __init__(self, registry: ClientRegistry, needed: int, give_up_after: float | None, sink: EventSink) -> None:
        self._registry = registry
        self._needed = needed
        self._give_up_after = give_up_after
        self._sink = sink
        self._models: dict[str, tuple[str, int]] = {}
        """Node and round of the model that it has, by site."""
        self._has_taken_part: set[str] = set()
        self._dismissed: set[tuple[str, str]] = set()
        self._left_out: dict[str, str] = {}
        self._late_since: dict[str, float] = {}
        """When a site was late for the first time since the last round was complete."""

    def has_model(self, site: Site, round_number: int) -> None:
        """Take note that a site has the global model of a round."""
        self._models[site.name] = (site.hello.instance, round_number)

    def forget_models(self) -> None:
        """Take note that no site can go on with what it has."""
        self._models.clear()

    def leave_out(self, failures: Sequence[SiteFailure], round_number: int) -> None:
        """Take note of sites that could not do what a round asked of them, and let nodes that have failed go."""
        for failure in failures:
            self._models.pop(failure.site, None)
            self._left_out[failure.site] = failure.reason
            self._sink.emit(SiteLeftOut(site=failure.site, round=round_number, reason=failure.reason))
            if isinstance(failure, SiteLate):
                self._late_since.setdefault(failure.site, time.monotonic())
            site = self._registry.named(failure.site)
            if site is not None and not isinstance(failure, SiteLost | SiteLate | SiteOutlier):
                self._dismissed.add((site.name, site.hello.instance))
                self._registry.dismiss(site, f"This site has failed: {failure.reason.removesuffix('.')}.")

    def take_left_out(self) -> dict[str, str]:
        """Return who was left out since the last call, and why: a round is complete."""
        self._late_since.clear()
        left_out, self._left_out = self._left_out, {}
        return left_out

    def wait_for_all(self) -> None:
        """Wait until every site of the federation is connected."""
        self._wait(self._connected, self._registry.places)

    def wait_for_quorum(
        self, round_number: int, prepare: Callable[[Site], None], done: Collection[str] = ()
    ) -> list[Site]:
        """Return the sites that have the global model of a round, at least as many as are needed.

        Parameters
        ----------
        round_number
            The last complete round.
        prepare
            Brings a site there.
        done
            Sites that count without being there.
        """

        def ready() -> list[Site]:
            self._prepare_all(
                [site for site in self._connected() if not self._has(site, round_number)], round_number, prepare
            )
            return [site for site in self._connected() if self._has(site, round_number)]

        return self._wait(ready, self._needed, done)

    def _connected(self) -> list[Site]:
        """Return the sites whose nodes can be asked; those that have failed are about to leave."""
        return [
            site
            for site in self._registry.sites
            if site.is_connected and (site.name, site.hello.instance) not in self._dismissed
        ]

    def _has(self, site: Site, round_number: int) -> bool:
        return not site.is_restarted and self._models.get(site.name) == (site.hello.instance, round_number)

    def _prepare_all(self, sites: Sequence[Site], round_number: int, prepare: Callable[[Site], None]) -> None:
        for site in sites:
            site.renew()
        prepared, failures = each([(site, partial(prepare, site)) for site in sites])
        self.leave_out(failures, round_number)
        for site, _ in prepared:
            self.has_model(site, round_number)
            if site.name in self._has_taken_part:
                self._sink.emit(SiteTakenIn(site=site.name, round=round_number))
            self._has_taken_part.add(site.name)

    def _wait(self, present: Callable[[], list[Site]], needed: int, done: Collection[str] = ()) -> list[Site]:
        """Return what `present` returns, once that and `done` are as many as `needed`."""
        began, told = time.monotonic(), None
        while True:
            sites = [site for site in present() if not self._is_given_up(self._late_since.get(site.name))]
            if len({site.name for site in sites}.union(done)) >= needed:
                if told is not None:
                    self._sink.emit(SitesAwaited(sites=[], present=len(sites) + len(done), needed=needed))
                return sites
            missing = [site.name for site in self._registry.sites if site not in sites and site.name not in done] + [
                "others"
            ] * (len(self._registry.sites) < needed)
            if not self._registry.nodes_return:
                raise FednnUNetError(
                    f"Without {', '.join(missing)} there are fewer sites than --min_clients: fix the failures "
                    "there, and continue with --c."
                )
            if missing != told:
                told = missing
                self._sink.emit(SitesAwaited(sites=missing, present=len(sites) + len(done), needed=needed))
            if self._is_given_up(min([began, *map(self._late_since.__getitem__, self._late_since.keys() & missing)])):
                raise FednnUNetError(
                    f"{', '.join(missing)} did not come back within --give_up_after {self._give_up_after:g} s: "
                    "start the coordinator again with --c when they can."
                )
            self._registry.wait_for_change(_LOOK_EVERY_SECONDS)

    def _is_given_up(self, since: float | None) -> bool:
        """Return whether nobody waits any longer for a site that has been missing, or late, since then."""
        waited = 0.0 if since is None else time.monotonic() - since
        return self._give_up_after is not None and waited > self._give_up_after
