"""The sites of a federation, and asking all of them at once."""

import concurrent.futures
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from flwr.common import (
    EvaluateIns,
    EvaluateRes,
    FitIns,
    FitRes,
    GetPropertiesIns,
    Scalar,
)
from flwr.server.client_manager import SimpleClientManager
from flwr.server.client_proxy import ClientProxy

from fednnunet.channel.messages import Hello, WorkReport
from fednnunet.errors import FednnUNetError, SiteFailure
from fednnunet.message import Message

Reply = TypeVar("Reply")
AnyMessage = TypeVar("AnyMessage", bound=Message)
AnyReport = TypeVar("AnyReport", bound=WorkReport)
OnProgress = Callable[[Mapping[str, WorkReport]], None]


def site_name(proxy: ClientProxy) -> str:
    """Return the name of the admitted site behind a Flower client."""
    return str(proxy.properties["site"])


class Roster(SimpleClientManager):
    """The connected nodes and, among them, the admitted sites, always in the order of their names.

    The order does not depend on who connected first, so neither does any floating-point sum over sites.
    """

    def __init__(self, places: int) -> None:
        super().__init__()
        self.places = places
        self._changed = threading.Condition()
        self._newcomers: list[ClientProxy] = []
        self._hellos: dict[str, Hello] = {}
        self._proxies: dict[str, ClientProxy] = {}

    @property
    def sites(self) -> list[ClientProxy]:
        """The admitted sites, by name."""
        with self._changed:
            return [self._proxies[name] for name in sorted(self._proxies)]

    @property
    def hellos(self) -> list[Hello]:
        """How the admitted sites introduced themselves, by name."""
        with self._changed:
            return [self._hellos[name] for name in sorted(self._proxies)]

    @property
    def is_complete(self) -> bool:
        """Whether all places are taken."""
        with self._changed:
            return len(self._proxies) >= self.places

    def register(self, client: ClientProxy) -> bool:
        """Take a node that has just connected (called by the channel); without a free place it is turned away."""
        with self._changed:
            if self.is_complete:
                return False
            registered = super().register(client)
            self._newcomers.append(client)
            self._changed.notify_all()
            return registered

    def unregister(self, client: ClientProxy) -> None:
        """Forget a node whose connection has ended (called by the channel); its place is free until all are taken."""
        with self._changed:
            super().unregister(client)
            self._newcomers = [other for other in self._newcomers if other.cid != client.cid]
            if not self.is_complete:
                self._proxies = {name: proxy for name, proxy in self._proxies.items() if proxy.cid != client.cid}

    def next_newcomer(self) -> ClientProxy:
        """Wait for a node that has not been greeted yet."""
        with self._changed:
            self._changed.wait_for(lambda: self._newcomers)
            return self._newcomers.pop(0)

    def remaining_newcomers(self) -> list[ClientProxy]:
        """Return the nodes that have not been greeted yet, and forget that they are new."""
        with self._changed:
            remaining, self._newcomers = self._newcomers, []
            return remaining

    def admit(self, proxy: ClientProxy, hello: Hello) -> None:
        """Make a node one of the federation's sites."""
        with self._changed:
            if proxy.cid not in self.clients:
                return  # it has left while it was being greeted
            proxy.properties["site"] = hello.site
            self._proxies[hello.site] = proxy
            self._hellos[hello.site] = hello


def ask(
    proxy: ClientProxy, kind: str, body: Message | None, answer: type[AnyMessage], timeout: float | None = None
) -> AnyMessage:
    """Ask one node a question and return its answer.

    Raises
    ------
    FednnUNetError
        If the node reports a failure or answers something else.
    """
    message, _ = ask_with_data(proxy, kind, body, answer, timeout=timeout)
    return message


def ask_with_data(
    proxy: ClientProxy,
    kind: str,
    body: Message | None,
    answer: type[AnyMessage],
    data: bytes = b"",
    timeout: float | None = None,
) -> tuple[AnyMessage, bytes]:
    """Do what `ask` does with bytes beside the question, and return those beside the answer too."""
    config: dict[str, Scalar] = {"ask": kind, "body": body.to_json() if body is not None else "{}"}
    if data:
        config["data"] = data
    reply = proxy.get_properties(GetPropertiesIns(config), timeout=timeout, group_id=None)
    raise_reported_failure(reply.properties)
    replied = reply.properties.get("data", b"")
    message = answer.from_json(str(reply.properties.get("body", "")))
    return message, replied if isinstance(replied, bytes) else b""


def ask_all(
    sites: Sequence[ClientProxy], kind: str, body: Message | None, answer: type[AnyMessage]
) -> dict[str, AnyMessage]:
    """Ask all sites the same question at the same time; answers by site, in the order of `sites`."""
    answers = for_all(sites, lambda proxy: ask(proxy, kind, body, answer))
    return {site_name(proxy): answer for proxy, answer in zip(sites, answers, strict=True)}


def work_all(
    sites: Sequence[ClientProxy], kind: str, body: Message, report: type[AnyReport], progress: OnProgress
) -> dict[str, AnyReport]:
    """Let all sites do work that takes long, at the same time; what came of it by site, in the order of `sites`.

    A node answers soon with how far it is, and is asked again until it has finished.

    Parameters
    ----------
    progress
        Called, by one thread at a time, with the last report of each site, once all have made one.
    """
    reports: dict[str, WorkReport] = {}
    reporting = threading.Lock()

    def work(proxy: ClientProxy) -> AnyReport:
        while True:
            answer = ask(proxy, kind, body, report)
            with reporting:
                reports[site_name(proxy)] = answer
                if len(reports) == len(sites):
                    progress({site_name(site): reports[site_name(site)] for site in sites})
            if answer.finished:
                return answer

    return {site_name(proxy): answer for proxy, answer in zip(sites, for_all(sites, work), strict=True)}


def fit_all(instructions: Sequence[tuple[ClientProxy, FitIns]]) -> list[tuple[ClientProxy, FitRes]]:
    """Let sites do a round's work at the same time; results in the order of `instructions`."""
    work = {proxy.cid: ins for proxy, ins in instructions}

    def fit(proxy: ClientProxy) -> tuple[ClientProxy, FitRes]:
        result = proxy.fit(work[proxy.cid], timeout=None, group_id=None)
        raise_reported_failure(result.metrics)
        return proxy, result

    return for_all([proxy for proxy, _ in instructions], fit)


def evaluate_all(instructions: Sequence[tuple[ClientProxy, EvaluateIns]]) -> list[tuple[ClientProxy, EvaluateRes]]:
    """Hand a round's result to sites at the same time; what they say of it in the order of `instructions`."""
    work = {proxy.cid: ins for proxy, ins in instructions}

    def evaluate(proxy: ClientProxy) -> tuple[ClientProxy, EvaluateRes]:
        result = proxy.evaluate(work[proxy.cid], timeout=None, group_id=None)
        raise_reported_failure(result.metrics)
        return proxy, result

    return for_all([proxy for proxy, _ in instructions], evaluate)


def for_all(sites: Sequence[ClientProxy], action: Callable[[ClientProxy], Reply]) -> list[Reply]:
    """Run `action` for all sites at the same time; results in the order of `sites`.

    Raises
    ------
    SiteFailure
        As soon as one site fails, without waiting for the others.
    """
    # not a context manager: its exit would wait for the sites that are still at work
    executor = concurrent.futures.ThreadPoolExecutor(max_workers=max(1, len(sites)))
    pending = {executor.submit(action, proxy): proxy for proxy in sites}
    executor.shutdown(wait=False)
    for future in concurrent.futures.as_completed(pending):
        error = future.exception()
        if error is not None:
            # whatever is not our own error comes out of the channel
            broken = f"its connection broke ({type(error).__name__}), see what the node says"
            reason = str(error) if isinstance(error, FednnUNetError) else broken
            raise SiteFailure(site_name(pending[future]), reason) from error
    return [future.result() for future in pending]


def raise_reported_failure(reply: dict[str, Scalar]) -> None:
    """Raise the failure that a node reports instead of an answer, if it reports one."""
    if "failure" in reply:
        raise FednnUNetError(str(reply["failure"]))
