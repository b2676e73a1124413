"""``fednnunet sites``: shows the digest of a list of sites."""

import argparse
from pathlib import Path

from rich.console import Console

from fednnunet.security.identity import read_sites


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the subcommands."""
    commands = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    digest = commands.add_parser("digest", help="show the digest of a list of sites, to compare it by telephone")
    digest.add_argument("sites", type=Path, metavar="FILE", help="the list of sites (TOML), as for --sites")


def run_sites(arguments: argparse.Namespace) -> int:
    """Print digest and names, and return the exit status."""
    sites = read_sites(arguments.sites)
    console = Console(highlight=False, markup=False, soft_wrap=True)
    console.print(sites.digest)
    console.print(f"{len(sites.names)} sites: {', '.join(sites.names)}")
    console.print(
        "Read the digest to each other by telephone; if it is the same at all hospitals, put it into the policy, "
        f'section [masked]: list = "{sites.digest}"'
    )
    return 0
