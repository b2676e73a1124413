"""Distributes a common fingerprint and plans to all sites."""

from fednnunet.coordinator.asking import ask_all
from fednnunet.coordinator.registry import ClientRegistry
from fednnunet.errors import SiteFailure
from fednnunet.events.events import EventSink, PlansAgreed, StageStarted
from fednnunet.events.sinks import tell_progress
from fednnunet.protocol.messages import CommonPlans, Installed


def install(common: CommonPlans, registry: ClientRegistry, sink: EventSink) -> None:
    """Ask every site to install the common fingerprint and plans, and to preprocess.

    Raises
    ------
    SiteFailure
        If a site cannot, or has other plans afterwards.
    """
    sink.emit(PlansAgreed(fingerprint=common.fingerprint, plans=common.plans))
    sink.emit(StageStarted(stage="installing" if common.plans is None else "preprocessing"))
    installed = ask_all(registry.sites, "install", common, Installed, tell_progress(sink))
    for site, report in installed.items():
        if report.plans_digest != (common.record.plans_digest if common.record else None):
            raise SiteFailure(site, "it has installed other plans than the common ones")
