"""AsymFedAvg: every site plans for itself (Skorupko et al. 2025)."""

from fednnunet.channel.messages import Installed, PlanAlone
from fednnunet.coordinator.roster import Roster, ask_all
from fednnunet.coordinator.stage import Stage
from fednnunet.events.events import EventSink, StageStarted
from fednnunet.events.sinks import tell_progress


class AsymmetricPlanningStage(Stage):
    """Lets every site extract, plan and preprocess alone; nothing of any fingerprint reaches the coordinator.

    Parameters
    ----------
    roster
        The sites.
    sink
        Takes what happens.
    """

    title = "planning at each site"

    def __init__(self, roster: Roster, sink: EventSink) -> None:
        self._roster = roster
        self._sink = sink

    def conclude(self) -> None:
        """Let every site do its work, side by side."""
        self._sink.emit(StageStarted(stage="planning_apart"))
        hellos = self._roster.hellos
        federation = PlanAlone(sites=[hello.site for hello in hellos], cases=sum(hello.cases for hello in hellos))
        ask_all(self._roster.sites, "plan_alone", federation, Installed, tell_progress(self._sink))
