"""Asking several sites at the same time."""

import concurrent.futures
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TypeVar

from fednnunet.coordinator.site import Site, as_failure
from fednnunet.errors import SiteFailure
from fednnunet.protocol.messages import WorkReport
from fednnunet.schema import Message

Reply = TypeVar("Reply")
AnyMessage = TypeVar("AnyMessage", bound=Message)
OnProgress = Callable[[Mapping[str, WorkReport]], None]


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


def each(
    actions: Sequence[tuple[Site, Callable[[], Reply]]],
) -> tuple[list[tuple[Site, Reply]], list[SiteFailure]]:
    """Run an action for each site at the same time; results by site, in order, and what went wrong."""
    results, failures = [], []
    executor = concurrent.futures.ThreadPoolExecutor(max(1, len(actions)))
    pending = [(site, executor.submit(action)) for site, action in actions]
    executor.shutdown(wait=False)  # a signal that ends the wait below shall not wait for the sites
    for site, future in pending:
        try:
            results.append((site, future.result()))
        except Exception as error:
            failures.append(as_failure(site, error))
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
            raise as_failure(pending[future], error) from error
    return [future.result() for future in pending]
