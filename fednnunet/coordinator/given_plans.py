"""Checks that sites can use the plans given with ``--plans``."""

from typing import Any

from fednnunet.coordinator.installing import install
from fednnunet.coordinator.registry import ClientRegistry
from fednnunet.errors import FednnUNetError
from fednnunet.events.events import EventSink
from fednnunet.fingerprint.given_plans import moved, preprocessors
from fednnunet.fingerprint.plans import plans_digest, resolved
from fednnunet.protocol.messages import CommonPlans, FederationRecord, Hello, PlannerOptions


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


def install_given_plans(given: dict[str, Any], registry: ClientRegistry, sink: EventSink) -> None:
    """Distribute the plans to all sites, which preprocess and only report their installed plans.

    Parameters
    ----------
    given
        The plans.
    registry
        The sites.
    sink
        Takes what happens.

    Raises
    ------
    SiteFailure
        If a site cannot install them.
    """
    hellos = registry.hellos
    facts = hellos[0]  # sites agree in what their files are read with, and in the name of the plans
    plans = moved(given, None if facts.planner is None else facts.planner.plans_name, facts.image_reader)
    record = FederationRecord(
        method="FFE",
        sites=[hello.site for hello in hellos],
        cases=sum(hello.cases for hello in hellos),
        plans_digest=plans_digest(plans),
        given_for=str(given["dataset_name"]),
        versions=facts.versions,
    )
    install(CommonPlans(fingerprint=None, plans=plans, record=record), registry, sink)


def _refuse_flag(hello: Hello, flag: str) -> None:
    raise FednnUNetError(
        f"Site {hello.site} was started with {flag}, which has no effect on plans that are given with --plans: "
        "leave it out there."
    )
