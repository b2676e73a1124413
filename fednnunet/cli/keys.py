"""``fednnunet keys``: creates a site's key pair."""

import argparse
from pathlib import Path

from rich.console import Console

from fednnunet.security.identity import create_key, entry


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the subcommands."""
    commands = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    create = commands.add_parser("create", help="make a key pair for a site")
    create.add_argument("--site", required=True, help="name of the site for the coordinator's list")
    create.add_argument("--out", type=Path, required=True, help="folder for both files")


def run_keys(arguments: argparse.Namespace) -> int:
    """Create a key pair, print instructions, and return the exit status."""
    private, public, listed = create_key(arguments.site, arguments.out)
    console = Console(highlight=False, markup=False, soft_wrap=True)
    console.print(f"{private} stays at this site: give it to the node with --key, and keep it secret.")
    console.print(f"{public} goes to the coordinator, who adds it to the file for --sites:\n")
    console.print(entry(listed))
    return 0
