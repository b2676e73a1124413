"""``fednnunet report``: rewrites the report page of a run."""

import argparse
from pathlib import Path

from rich.console import Console
from rich.text import Text

from fednnunet.errors import FednnUNetError
from fednnunet.report.event_files import read_events
from fednnunet.report.events import EVENTS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("run_dir", metavar="RUN_DIR", type=Path, help="the coordinator's --run_dir")


def run_report(arguments: argparse.Namespace) -> int:
    """Write the page, say where it is, and return the exit status.

    Raises
    ------
    FednnUNetError
        If the folder holds no events, or the page cannot be written.
    """
    from fednnunet.report.page.parts import parts_of_run
    from fednnunet.report.page.rendering import write_page
    from fednnunet.report.page.run_state import RunState
    from fednnunet.report.page_file import REPORT, TITLE

    run_dir: Path = arguments.run_dir
    events = read_events(run_dir / EVENTS)
    if not events:
        raise FednnUNetError(f"{run_dir} is not a run folder: it has no {EVENTS}; give the coordinator's --run_dir.")
    state = RunState.of(events)
    write_page(run_dir / REPORT, TITLE, parts_of_run(state), state.condition)
    Console().print(Text(str(run_dir / REPORT)), soft_wrap=True)
    return 0
