"""AsymFedAvg: every site plans for itself (Skorupko et al. 2025)."""

from fednnunet.coordinator.asking import ask_all
from fednnunet.coordinator.registry import ClientRegistry
from fednnunet.events.events import EventSink, StageStarted
from fednnunet.events.sinks import tell_progress
from fednnunet.protocol.messages import Installed, PlanAlone


def plan_at_each_site(registry: ClientRegistry, sink: EventSink) -> None:
    """Let every site extract, plan and preprocess alone; nothing of any fingerprint reaches the coordinator.

    Parameters
    ----------
    registry
        The sites.
    sink
        Takes what happens.

    Raises
    ------
    SiteFailure
        If a site cannot.
    """
    sink.emit(StageStarted(stage="planning_apart"))
    hellos = registry.hellos
    federation = PlanAlone(sites=[hello.site for hello in hellos], cases=sum(hello.cases for hello in hellos))
    ask_all(registry.sites, "plan_alone", federation, Installed, tell_progress(sink))
