"""The registry of connected nodes and admitted sites."""

import concurrent.futures
import queue
import threading
import time
from collections.abc import Callable

from flwr.server.client_manager import SimpleClientManager
from flwr.server.client_proxy import ClientProxy

from fednnunet.coordinator.site import Site
from fednnunet.protocol.messages import Hello
from fednnunet.transport.connection import FAREWELL_SECONDS, hang_up

_PING_SECONDS = 5.0
_MOST_PENDING = 32
"""Connections, beside those of the sites, that there may be at a time; each one takes threads and some memory."""


class ClientRegistry(SimpleClientManager):
    """The connected nodes and, among them, the admitted sites, always in the order of their names.

    The order does not depend on who connected first, so neither does any floating-point sum over sites. A site stays on
    the registry when its connection breaks, once the registry is settled.

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
        self._pending: list[ClientProxy] = []
        self._sites: dict[str, Site] = {}
        self._is_settled = False
        self._is_closed = False
        self._cancelled: queue.SimpleQueue[None] = queue.SimpleQueue()

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
            self._pending.append(client)
            self._changed.notify_all()
            return registered

    def _make_room(self) -> None:
        """Hang up on who has waited longest without being admitted, if there are many of those."""
        own = {site.connection.cid for site in self._sites.values() if site.connection is not None}
        pending = [client for cid, client in self.clients.items() if cid not in own]
        if len(pending) >= _MOST_PENDING:  # a node proves who it is within a second, if it can
            self.unregister(pending[0])
            hang_up(pending[0])

    def unregister(self, client: ClientProxy) -> None:
        """Forget a node whose connection has ended (called by the channel); its place is free until `settle`."""
        with self._changed:
            super().unregister(client)
            self._pending = [other for other in self._pending if other.cid != client.cid]
            for name, site in list(self._sites.items()):
                if site.lose_connection(client.cid) and not self._is_settled:
                    del self._sites[name]
            self._changed.notify_all()

    def next_pending(self, seconds: float | None = None) -> ClientProxy | None:
        """Wait for a node that has not been authenticated yet, but not longer than this, nor after `close`."""
        with self._changed:
            self._changed.wait_for(lambda: self._pending or self._is_closed, seconds)
            return self._pending.pop(0) if self._pending and not self._is_closed else None

    def admit(self, connection: ClientProxy, hello: Hello) -> bool:
        """Make a node one of the federation's sites, or a site's new connection; return whether it is still there."""
        with self._changed:
            if connection.cid not in self.clients:
                return False  # it has left while it was being authenticated
            if hello.site in self._sites:
                self._sites[hello.site].connect(connection, hello)
            else:
                self._sites[hello.site] = Site(hello, connection, self._contact_timeout)
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
        threading.Thread(target=site.disconnect, args=(reason,), name="fednnunet-farewell", daemon=True).start()

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
        threading.Thread(target=self._close_when_cancelled, name="fednnunet-cancel", daemon=True).start()

    def cancel(self) -> None:
        """Have the registry closed; takes no lock, so a signal handler may call it."""
        self._cancelled.put(None)

    def _close_when_cancelled(self) -> None:
        """Let questions fail whose threads Flower waits for, also those to sites that do not answer."""
        self._cancelled.get()
        self.close()
        deadline = time.monotonic() + FAREWELL_SECONDS
        for site in self.sites:
            site.hang_up_unless_idle(deadline - time.monotonic())

    def close(self) -> None:
        """Admit nobody any more, and let all questions that wait for an answer fail."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        for site in self.sites:
            site.close()
