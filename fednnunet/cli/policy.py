"""``fednnunet policy``: writes and checks a site's policy, and approves waiting messages."""

import argparse
from pathlib import Path

from rich.console import Console

from fednnunet.errors import FednnUNetError
from fednnunet.privacy.approval import as_decision, waiting
from fednnunet.privacy.policy import RECOMMENDED, read_policy


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the subcommands."""
    commands = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    create = commands.add_parser("create", help="write an initial policy, with every rule explained")
    create.add_argument("--out", type=Path, default=Path("policy.toml"), help="the file (default: %(default)s)")
    check = commands.add_parser("check", help="check a policy file")
    check.add_argument("policy", type=Path, metavar="FILE", help="the policy")
    approve = commands.add_parser("approve", help="show the messages that need approval, and answer")
    approve.add_argument("folder", type=Path, metavar="FOLDER", help="folder that the node has printed")


def run_policy(arguments: argparse.Namespace) -> int:
    """Run the subcommand and return the exit status."""
    console = Console(highlight=False, markup=False, soft_wrap=True)
    if arguments.action == "create":
        _create(arguments.out)
        console.print(f"Wrote {arguments.out}: read it, edit it, and start the node with --policy.")
    elif arguments.action == "check":
        read_policy(arguments.policy)
        console.print(f"{arguments.policy} is valid.")
    else:
        _approve(arguments.folder, console)
    return 0


def _create(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(RECOMMENDED)
    except FileExistsError as error:
        raise FednnUNetError(f"{path} already exists: remove it, or choose another file with --out.") from error
    except OSError as error:
        raise FednnUNetError(f"{path} cannot be written ({error.strerror}): choose another file with --out.") from error


def _approve(folder: Path, console: Console) -> None:
    requests = waiting(folder)
    if not requests:
        console.print(f"No message waits in {folder}.")
    for request in requests:
        console.print(request.summary.read_text(encoding="utf-8"))
        console.print(f"Bytes to be sent: {request.payload}")
        try:
            while (answer := as_decision(console.input("Send it? Type yes or no: "))) is None:
                pass
        except EOFError:
            raise FednnUNetError("No answer: run this command in a terminal.") from None
        if request.decide(answer):
            console.print("It will be sent." if answer else "It will not be sent.")
        else:
            console.print("The node no longer waits for this answer: run the command again to check for others.")
