"""Checks that sites can use the plans given with ``--plans``."""

from typing import Any

from fednnunet.channel.messages import CommonPlans, FederationRecord, Hello, PlannerOptions
from fednnunet.coordinator.installing import install
from fednnunet.coordinator.roster import Roster
from fednnunet.coordinator.stage import Stage
from fednnunet.errors import FednnUNetError
from fednnunet.fingerprint.given_plans import moved, preprocessors
from fednnunet.fingerprint.plans import plans_digest, resolved
from fednnunet.report.events import EventSink


def check_fits(plans: dict[str, Any], hello: Hello) -> None:
    """Refuse a site for which the plans are not made, or whose own flags for planning would have no effect.

    Raises
    ------
    FednnUNetError
        Names what does not fit.
    """
    if hello.method != "FFE":
        _refuse_flag(hello, "--asym")
    own, default = hello.planner, PlannerOptions(planner="ExperimentPlanner")
    if own is not None:
        free = {"plans_name": own.plans_name, "preprocessor": own.preprocessor}
        for name, info in PlannerOptions.model_fields.items():
            if name not in free and getattr(own, name) != getattr(default, name):
                _refuse_flag(hello, f"{info.title} {getattr(own, name)}")
        if own.preprocessor != default.preprocessor and own.preprocessor not in preprocessors(plans):
            _refuse_flag(hello, f"-preprocessor_name {own.preprocessor}")
    if hello.fingerprint not in (None, "exact"):
        _refuse_flag(hello, f"--fingerprint {hello.fingerprint}")
    wanted = {len(resolved(plans, name)["normalization_schemes"]) for name in plans["configurations"]}
    if wanted != {len(hello.channels)}:
        raise FednnUNetError(
            f"Site {hello.site} has channels {', '.join(hello.channels.values())} ({len(hello.channels)} in all), the "
            f"given plans are for {' or '.join(map(str, sorted(wanted)))}: give the plans of a network for the same "
            "channels with --plans."
        )


class GivenPlansStage(Stage):
    """Distributes the plans to all sites, which preprocess and only report their installed plans.

    Parameters
    ----------
    plans
        The plans that were given.
    roster
        The sites.
    sink
        Takes what happens.
    """

    title = "given plans"

    def __init__(self, plans: dict[str, Any], roster: Roster, sink: EventSink) -> None:
        self._given_for = str(plans["dataset_name"])
        facts = roster.hellos[0]  # sites agree in what their files are read with, and in the name of the plans
        self._plans = moved(plans, None if facts.planner is None else facts.planner.plans_name, facts.image_reader)
        self._roster = roster
        self._sink = sink

    def conclude(self) -> None:
        """Send the plans to every site, which then preprocesses."""
        hellos = self._roster.hellos
        record = FederationRecord(
            method="FFE",
            sites=[hello.site for hello in hellos],
            cases=sum(hello.cases for hello in hellos),
            plans_digest=plans_digest(self._plans),
            given_for=self._given_for,
            versions=hellos[0].versions,
        )
        install(CommonPlans(fingerprint=None, plans=self._plans, record=record), self._roster, self._sink)


def _refuse_flag(hello: Hello, flag: str) -> None:
    raise FednnUNetError(
        f"Site {hello.site} was started with {flag}, which has no effect on plans that are given with --plans: "
        "leave it out there."
    )
