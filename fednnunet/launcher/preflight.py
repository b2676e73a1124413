"""Checks before any process starts: reports once whatever a node would refuse before it connects."""

import difflib
import logging
import os
from collections.abc import Iterable
from contextlib import redirect_stdout
from pathlib import Path

from fednnunet.errors import FednnUNetError
from fednnunet.fingerprint.coverage import PLANNERS
from fednnunet.garbage import importing
from fednnunet.node.dataset import find_dataset
from fednnunet.node.hello import hello_of
from fednnunet.settings.node import NodeSettings, PlanningSettings
from fednnunet.settings.simulation import SimulationSettings

_CONFIGURATIONS = ("2d", "3d_fullres", "3d_lowres", "3d_cascade_fullres")
"""What nnU-Net's own planners plan."""


def check_sites(settings: SimulationSettings) -> None:
    """Let each site introduce itself to nobody: what is wrong at one of them is told before anything begins.

    A training that shall go on without some sites (``--min_clients``) begins without them, too.

    Raises
    ------
    FednnUNetError
        What the first node that is not ready would say, and which others are not.
    """
    nodes, coordinator = settings.nodes, settings.coordinator
    for node in nodes if coordinator.given_plans is None else ():
        if isinstance(node, PlanningSettings) and node.task == "plan_and_preprocess":
            check_planned(node.planner, node.configurations)
    problems = {find_dataset(node.dataset).name: problem for node in nodes if (problem := _problem_of(node))}
    quorum = coordinator.min_clients if settings.task == "train" else None
    if len(nodes) - len(problems) >= (quorum or len(nodes)):
        return
    (_, first), *others = problems.items()
    also = f" Not ready either: {', '.join(name for name, problem in others if problem != first)}."
    raise FednnUNetError(first + (also if any(problem != first for _, problem in others) else ""))


def check_planned(planner: str, configurations: Iterable[str]) -> None:
    """Refuse configurations that nnU-Net's own planners do not plan; what others plan, nobody knows before.

    Raises
    ------
    FednnUNetError
        Names the configuration, and the one that may be meant.
    """
    for name in configurations if planner in PLANNERS else ():
        if name not in _CONFIGURATIONS:
            alike = difflib.get_close_matches(name, _CONFIGURATIONS, n=1)
            remedy = f"did you mean {alike[0]}?" if alike else f"choose from {', '.join(_CONFIGURATIONS)}."
            raise FednnUNetError(f"{planner} plans no configuration '{name}': {remedy}")


def _problem_of(node: NodeSettings) -> str | None:
    """Return what a node refuses to begin with; what it only remarks, it will say itself."""
    logger = logging.getLogger("fednnunet.node")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere), importing():
            hello_of(node)
    except FednnUNetError as error:
        return str(error)
    finally:
        logger.setLevel(level)
    return None
