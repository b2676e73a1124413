"""The sites of a federation, and asking all of them at once."""

import concurrent.futures
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TypeVar

from flwr.common import EvaluateIns, EvaluateRes, FitIns, FitRes
from flwr.server.client_manager import SimpleClientManager
from flwr.server.client_proxy import ClientProxy

from fednnunet.channel.long_lived.serving import hang_up
from fednnunet.channel.messages import Hello, WorkReport
from fednnunet.coordinator.site import Site
from fednnunet.errors import FednnUNetError, SiteFailure
from fednnunet.message import Message

logger = logging.getLogger(__name__)

Reply = TypeVar("Reply")
AnyProxy = TypeVar("AnyProxy", bound=ClientProxy)
AnyMessage = TypeVar("AnyMessage", bound=Message)
OnProgress = Callable[[Mapping[str, WorkReport]], None]

_PING_SECONDS = 5.0
_MOST_STRANGERS = 32
"""Connections, beside those of the sites, that there may be at a time; each one takes threads and some memory."""


class Roster(SimpleClientManager):
    """The connected nodes and, among them, the admitted sites, always in the order of their names.

    The order does not depend on who connected first, so neither does any floating-point sum over sites. A site stays on
    the roster when its connection breaks, once the roster is settled.

    Parameters
    ----------
    places
        Sites of the federation.
    contact_timeout
        Seconds without an answer, after which a connection counts as broken.
    nodes_return
        Whether a node that has failed can be started again.
    """

    def __init__(self, places: int, contact_timeout: float = 120.0, nodes_return: bool = True) -> None:
        super().__init__()
        self.places = places
        self.nodes_return = nodes_return
        self._contact_timeout = contact_timeout
        self._changed = threading.Condition()  # a lock that a thread can take twice
        self._newcomers: list[ClientProxy] = []
        self._sites: dict[str, Site] = {}
        self._is_settled = False
        self._is_closed = False

    @property
    def sites(self) -> list[Site]:
        """The admitted sites, by name."""
        with self._changed:
            return [self._sites[name] for name in sorted(self._sites)]

    @property
    def hellos(self) -> list[Hello]:
        """How the admitted sites introduced themselves, by name."""
        return [site.hello for site in self.sites]

    @property
    def is_complete(self) -> bool:
        """Whether all places are taken."""
        with self._changed:
            return len(self._sites) >= self.places

    def named(self, name: str) -> Site | None:
        """Return the site of that name, if it takes part."""
        with self._changed:
            return self._sites.get(name)

    def register(self, client: ClientProxy) -> bool:
        """Take a node that has just connected (called by the channel)."""
        with self._changed:
            if self._is_closed:
                return False
            self._make_room()
            registered = super().register(client)
            self._newcomers.append(client)
            self._changed.notify_all()
            return registered

    def _make_room(self) -> None:
        """Hang up on who has waited longest without being admitted, if there are many of those."""
        own = {site.proxy.cid for site in self._sites.values() if site.proxy is not None}
        strangers = [client for cid, client in self.clients.items() if cid not in own]
        if len(strangers) >= _MOST_STRANGERS:  # a node proves who it is within a second, if it can
            self.unregister(strangers[0])
            hang_up(strangers[0])

    def unregister(self, client: ClientProxy) -> None:
        """Forget a node whose connection has ended (called by the channel); its place is free until `settle`."""
        with self._changed:
            super().unregister(client)
            self._newcomers = [other for other in self._newcomers if other.cid != client.cid]
            for name, site in list(self._sites.items()):
                if site.disconnect(client.cid) and not self._is_settled:
                    del self._sites[name]
            self._changed.notify_all()

    def next_newcomer(self, seconds: float | None = None) -> ClientProxy | None:
        """Wait for a node that has not been greeted yet, but not longer than this, nor after `close`."""
        with self._changed:
            self._changed.wait_for(lambda: self._newcomers or self._is_closed, seconds)
            return self._newcomers.pop(0) if self._newcomers and not self._is_closed else None

    def admit(self, proxy: ClientProxy, hello: Hello) -> bool:
        """Make a node one of the federation's sites, or a site's new connection; return whether it is still there."""
        with self._changed:
            if proxy.cid not in self.clients:
                return False  # it has left while it was being greeted
            if hello.site in self._sites:
                self._sites[hello.site].connect(proxy, hello)
            else:
                self._sites[hello.site] = Site(hello, proxy, self._contact_timeout)
            self._changed.notify_all()
            return True

    def wait_for(self, condition: Callable[[], bool], timeout: float | None = None) -> bool:  # type: ignore[override]
        """Wait until `condition` holds, which is looked at when a site comes or goes; return whether it does."""
        with self._changed:
            return self._changed.wait_for(condition, timeout)

    def wait_for_change(self, seconds: float) -> None:
        """Wait until a site comes or goes, but not longer than this."""
        with self._changed:
            self._changed.wait(seconds)

    def settle(self) -> None:
        """From now on, keep the place of a site whose connection has ended."""
        with self._changed:
            self._is_settled = True

    def allow(self, seconds: float | None) -> None:
        """Give every site this long for its answers to all that it is asked from now on; ``None`` for no limit."""
        for site in self.sites:
            site.allow(seconds)

    def dismiss(self, site: Site, reason: str) -> None:
        """Let a site's node go, which can be started again; its place stays its own."""
        threading.Thread(target=site.take_leave, args=(reason,), name="fednnunet-farewell", daemon=True).start()

    def keep_in_touch(self) -> None:
        """Let all sites hear of the coordinator every few seconds, in a thread of its own, until `close`.

        A site whose connection takes what is said, and gives nothing, does not keep the others from hearing anything.
        """

        def ping() -> None:
            going_on: dict[str, concurrent.futures.Future[bool]] = {}
            with concurrent.futures.ThreadPoolExecutor(max(1, self.places)) as pool:
                while not self.wait_for(lambda: self._is_closed, _PING_SECONDS):
                    for site in self.sites:
                        if site.name not in going_on or going_on[site.name].done():
                            going_on[site.name] = pool.submit(site.ping, older_than=_PING_SECONDS)

        threading.Thread(target=ping, name="fednnunet-ping", daemon=True).start()

    def close(self) -> None:
        """Admit nobody any more, and let all questions that wait for an answer fail."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        for site in self.sites:
            site.close()


def ask_all(
    sites: Sequence[Site],
    kind: str,
    body: Message | None,
    answer: type[AnyMessage],
    progress: OnProgress | None = None,
) -> dict[str, AnyMessage]:
    """Ask all sites the same question at the same time; answers by site, in the order of `sites`.

    Parameters
    ----------
    progress
        Called, by one thread at a time, with the last report of each site that has made one, while answers take long.
    """
    ask = _asking(sites, kind, body, answer, progress)
    return {site.name: reply for site, reply in zip(sites, for_all(sites, ask), strict=True)}


def ask_each(
    sites: Sequence[Site],
    kind: str,
    body: Message | None,
    answer: type[AnyMessage],
    progress: OnProgress | None = None,
) -> tuple[dict[str, AnyMessage], list[SiteFailure]]:
    """Do what `ask_all` does, but wait for all sites, and return beside the answers what went wrong at the others."""
    ask = _asking(sites, kind, body, answer, progress)
    replies, failures = each([(site, partial(ask, site)) for site in sites])
    return {site.name: reply for site, reply in replies}, failures


def _asking(
    sites: Sequence[Site],
    kind: str,
    body: Message | None,
    answer: type[AnyMessage],
    progress: OnProgress | None,
) -> Callable[[Site], AnyMessage]:
    """Return what asks one of the sites, and tells `progress` of all of them."""
    reports: dict[str, WorkReport] = {}
    reporting = threading.Lock()

    def ask(site: Site) -> AnyMessage:
        def report(last: WorkReport) -> None:
            with reporting:
                reports[site.name] = last
                if progress is not None:
                    progress({other.name: reports[other.name] for other in sites if other.name in reports})

        reply = site.ask(kind, body, answer, progress=report)
        if site.name in reports:
            report(WorkReport(done=reports[site.name].total, total=reports[site.name].total))
        return reply

    return ask


def fit_all(
    instructions: Sequence[tuple[ClientProxy, FitIns]], timeout: float | None
) -> tuple[list[tuple[ClientProxy, FitRes]], list[SiteFailure]]:
    """Let sites do a round's work at the same time; results in the order of `instructions`, and what went wrong."""
    return each([(proxy, partial(proxy.fit, ins, timeout, None)) for proxy, ins in instructions])


def evaluate_all(
    instructions: Sequence[tuple[ClientProxy, EvaluateIns]], timeout: float | None
) -> tuple[list[tuple[ClientProxy, EvaluateRes]], list[SiteFailure]]:
    """Hand a round's result to sites at the same time; what they say of it, and what went wrong."""
    return each([(proxy, partial(proxy.evaluate, ins, timeout, None)) for proxy, ins in instructions])


def each(
    actions: Sequence[tuple[AnyProxy, Callable[[], Reply]]],
) -> tuple[list[tuple[AnyProxy, Reply]], list[SiteFailure]]:
    """Run an action for each site at the same time; results by site, in order, and what went wrong."""
    results, failures = [], []
    executor = concurrent.futures.ThreadPoolExecutor(max(1, len(actions)))
    pending = [(proxy, executor.submit(action)) for proxy, action in actions]
    executor.shutdown(wait=False)  # a signal that ends the wait below shall not wait for the sites
    for proxy, future in pending:
        try:
            results.append((proxy, future.result()))
        except Exception as error:
            failures.append(_as_failure(proxy, error))
    return results, failures


def for_all(sites: Sequence[Site], action: Callable[[Site], Reply]) -> list[Reply]:
    """Run `action` for all sites at the same time; results in the order of `sites`.

    Raises
    ------
    SiteFailure
        As soon as one site fails, without waiting for the others.
    """
    # not a context manager: its exit would wait for the sites that are still at work
    executor = concurrent.futures.ThreadPoolExecutor(max_workers=max(1, len(sites)))
    pending = {executor.submit(action, site): site for site in sites}
    executor.shutdown(wait=False)
    for future in concurrent.futures.as_completed(pending):
        error = future.exception()
        if error is not None:
            raise _as_failure(pending[future], error) from error
    return [future.result() for future in pending]


def _as_failure(proxy: ClientProxy, error: BaseException) -> SiteFailure:
    if isinstance(error, SiteFailure):
        return error
    site = str(proxy.properties.get("site", proxy.cid))
    if isinstance(error, FednnUNetError):
        return SiteFailure(site, str(error))
    # what it says may hold anything, and all sites are told
    logger.warning("A question to site %s, or its answer, failed: %s: %s", site, type(error).__name__, error)
    return SiteFailure(site, f"its answer could not be handled ({type(error).__name__}, see the coordinator's output)")
