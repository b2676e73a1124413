"""Admission of nodes: each that connects is authenticated, checked, and becomes a site or is refused."""

import logging
import threading
from typing import Any

from flwr.server.client_proxy import ClientProxy

from fednnunet.coordinator.given_plans import check_fits
from fednnunet.coordinator.preflight import check_agreement, check_masking, check_task
from fednnunet.coordinator.refusals import Refusals
from fednnunet.coordinator.registry import ClientRegistry
from fednnunet.errors import FednnUNetError
from fednnunet.events.events import ApprovalAwaited, EventSink, SiteJoined
from fednnunet.protocol.messages import Hello
from fednnunet.schema import cleaned
from fednnunet.security.authentication import Authenticator
from fednnunet.settings.coordinator import CoordinatorSettings
from fednnunet.transport.connection import disconnect, hang_up

logger = logging.getLogger(__name__)

_AUTHENTICATION_SECONDS = 20.0
_IN_ORDER_SECONDS = 0.05


class Admission:
    """Admits nodes.

    Parameters
    ----------
    arguments
        Command line of the coordinator.
    run_id
        Name of this run of the coordinator.
    registry
        Takes the sites.
    authenticator
        Asks nodes who they are.
    sink
        Takes what happens.
    given_plans
        Plans that a site has to fit, if there are any.
    """

    def __init__(
        self,
        arguments: CoordinatorSettings,
        run_id: str,
        registry: ClientRegistry,
        authenticator: Authenticator,
        sink: EventSink,
        given_plans: dict[str, Any] | None,
    ) -> None:
        self._arguments = arguments
        self._run_id = run_id
        self._registry = registry
        self._authenticator = authenticator
        self._sink = sink
        self._given_plans = given_plans
        self._refusals = Refusals()
        self._refused: FednnUNetError | None = None
        self._admitting = threading.Lock()

    def start(self) -> None:
        """Admit nodes, in a thread of its own, until the registry is closed."""
        threading.Thread(target=self.admit_all, name="fednnunet-admission", daemon=True).start()

    def wait_for_sites(self, needed: int) -> None:
        """Wait for this many sites; after that, each keeps its place.

        Raises
        ------
        FednnUNetError
            If a node was refused that cannot be started again.
        """
        self._registry.wait_for(lambda: len(self._registry.sites) >= needed or self._refused is not None)
        if self._refused is not None:
            raise self._refused
        self._registry.settle()

    def goodbye_to_pending(self, reason: str | None) -> str:
        """Return what nodes are told at the end that are no site, which is nothing about the sites."""
        if self._authenticator.requires_proof:
            return "The federation has ended."
        return self._all_taken if reason is None else reason

    def admit_all(self) -> None:
        """Authenticate every node that connects, in order, but let none that is slow hold up the others."""
        while (connection := self._registry.next_pending()) is not None:
            admitting = threading.Thread(target=self._admit, args=(connection,), daemon=True)
            admitting.start()
            admitting.join(_IN_ORDER_SECONDS)

    @property
    def _all_taken(self) -> str:
        return f"All {self._registry.places} expected sites have joined: raise --num_clients to admit more."

    def _admit(self, connection: ClientProxy) -> None:
        try:
            seconds = min(_AUTHENTICATION_SECONDS, self._arguments.contact_timeout)
            hello, display_name = self._authenticator.authenticate(connection, self._run_id, seconds)
            known = self._registry.named(hello.site)
            seen = self._check_not_here(hello)  # which may take long, and others shall not wait for it
            with self._admitting:
                if self._node_of(hello.site) != seen:
                    self._check_not_here(hello)
                self._check(hello)
                is_new = self._registry.named(hello.site) is None
                is_there = self._registry.admit(connection, hello)
                joined = len(self._registry.sites)
        except FednnUNetError as error:
            self._refusals.warn(cleaned(str(error)))
            if not self._registry.nodes_return:
                self._refused = error
            disconnect(connection, str(error))
            hang_up(connection)
            return
        except Exception as error:  # whatever is not our own error comes out of the channel
            self._refusals.warn(f"it left, or did not answer, during authentication ({type(error).__name__})")
            hang_up(connection)
            return
        site = self._registry.named(hello.site)
        if site is not None:
            site.on_approval = lambda waits: self._sink.emit(ApprovalAwaited(site=hello.site, waits=waits))
        if is_there and is_new:
            expected = self._registry.places
            self._sink.emit(SiteJoined(site=hello.site, cases=hello.cases, joined=joined, expected=expected))
            if self._authenticator.requires_proof:
                called = "" if display_name == hello.site else f" ({display_name})"
                logger.info("Site %s%s authenticated.", hello.site, called)
        elif is_there and known is not None and not known.is_restarted:
            logger.info("Site %s has reconnected.", hello.site)

    def _check(self, hello: Hello) -> None:
        check_task(hello, self._arguments)
        check_masking(hello, self._arguments, self._authenticator.sites if self._arguments.secure else None)
        if self._given_plans is not None:
            check_fits(self._given_plans, hello)
        if self._registry.named(hello.site) is None and self._registry.is_complete:
            raise FednnUNetError(self._all_taken)
        others = [other for other in self._registry.hellos if other.site != hello.site]
        if others:
            check_agreement(others[0], hello)

    def _node_of(self, site: str) -> str | None:
        """Return which node a site has, if it takes part."""
        known = self._registry.named(site)
        return None if known is None else known.hello.instance

    def _check_not_here(self, hello: Hello) -> str | None:
        """Refuse a second node of a site, of which the first one answers; return which one that is."""
        seen, known = self._node_of(hello.site), self._registry.named(hello.site)
        if known is not None and known.hello.instance != hello.instance and known.ping():
            raise FednnUNetError(
                f"Site {hello.site} is already connected: start one node per site, with its own dataset or --site."
            )
        return seen
