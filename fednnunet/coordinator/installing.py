"""Distributes a common fingerprint and plans to all sites."""

from fednnunet.channel.messages import CommonPlans, Installed
from fednnunet.coordinator.roster import Roster, ask_all
from fednnunet.errors import SiteFailure
from fednnunet.report.events import EventSink, PlansAgreed, StageStarted, tell_progress


def install(common: CommonPlans, roster: Roster, sink: EventSink) -> None:
    """Ask every site to install the common fingerprint and plans, and to preprocess.

    Raises
    ------
    SiteFailure
        If a site cannot, or has other plans afterwards.
    """
    sink.emit(PlansAgreed(fingerprint=common.fingerprint, plans=common.plans))
    sink.emit(StageStarted(title="installing" if common.plans is None else "preprocessing"))
    installed = ask_all(roster.sites, "install", common, Installed, tell_progress(sink))
    for site, report in installed.items():
        if report.plans_digest != (common.record.plans_digest if common.record else None):
            raise SiteFailure(site, "it has installed other plans than the common ones")
