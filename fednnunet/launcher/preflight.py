"""What the launcher looks at before it starts a process: all that a node refuses before it connects, told once."""

import argparse
import difflib
import logging
import os
from collections.abc import Iterable, Sequence
from contextlib import redirect_stdout
from pathlib import Path

from fednnunet.cli.arguments import parse_client
from fednnunet.errors import FednnUNetError
from fednnunet.fingerprint.coverage import PLANNERS
from fednnunet.garbage import importing
from fednnunet.node.dataset import find_dataset
from fednnunet.node.hello import evaluation_hello, planning_hello, training_hello

_CONFIGURATIONS = ("2d", "3d_fullres", "3d_lowres", "3d_cascade_fullres")
"""What nnU-Net's own planners plan."""
_HELLOS = {"train": training_hello, "evaluate": evaluation_hello}


def check_sites(arguments: argparse.Namespace, nodes: Sequence[Sequence[str]]) -> None:
    """Let each site introduce itself to nobody: what is wrong at one of them is told before anything begins.

    A training that shall go on without some sites (``--min_clients``) begins without them, too.

    Parameters
    ----------
    arguments
        Command line of ``run``.
    nodes
        Command line of each node, as ``client`` reads it.

    Raises
    ------
    FednnUNetError
        What the first node that is not ready would say, and which others are not.
    """
    if arguments.task == "plan_and_preprocess" and getattr(arguments, "plans", None) is None:
        check_planned(arguments.pl, arguments.c)
    parsed = [parse_client(words) for words in nodes]
    problems = {find_dataset(node.dataset).name: problem for node in parsed if (problem := _problem_of(node))}
    quorum = arguments.min_clients if arguments.task == "train" else None
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


def _problem_of(node: argparse.Namespace) -> str | None:
    """Return what a node refuses to begin with; what it only remarks, it will say itself."""
    logger = logging.getLogger("fednnunet.node")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere), importing():
            _HELLOS.get(node.task, planning_hello)(node)
    except FednnUNetError as error:
        return str(error)
    finally:
        logger.setLevel(level)
    return None
