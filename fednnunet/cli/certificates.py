"""``fednnunet certificates``: creates and shows certificates."""

import argparse
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from fednnunet.errors import FednnUNetError
from fednnunet.report.formats import MISSING, printable
from fednnunet.security.certificates import (
    CA_CERTIFICATE,
    CA_KEY,
    DAYS,
    SERVER_CERTIFICATE,
    SERVER_KEY,
    CertificateSummary,
    create_certificates,
    describe_certificates,
)
from fednnunet.settings.values import positive_int

_PLACES = (
    (CA_CERTIFICATE, "send it to every hospital: nodes authenticate the coordinator with it"),
    (SERVER_CERTIFICATE, "stays at the coordinator"),
    (SERVER_KEY, "stays at the coordinator; secret"),
    (CA_KEY, f"store it offline; secret; needed, with {CA_CERTIFICATE}, only to renew {SERVER_CERTIFICATE}"),
)
_SOON_DAYS = 30


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare ``create`` and ``show`` on `parser`."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    create = actions.add_parser("create", help="create the coordinator's certificate, and a CA if necessary")
    create.add_argument(
        "--host",
        dest="hosts",
        metavar="NAME",
        nargs="+",
        action="extend",
        required=True,
        help="DNS names and IP addresses by which nodes reach the coordinator; may be given several times",
    )
    create.add_argument("--out", metavar="DIR", type=Path, required=True, help="folder for the files")
    create.add_argument(
        "--days", type=positive_int, default=DAYS, help="days until the certificate expires (default: %(default)s)"
    )
    create.add_argument("--organization", metavar="NAME", help="operator of the federation (default: none)")
    create.add_argument(
        "--overwrite", action="store_true", help="replace the coordinator's certificate; the CA stays as it is"
    )
    show = actions.add_parser("show", help="show the contents and remaining validity of certificates")
    show.add_argument("path", metavar="FILE_OR_DIR", type=Path, help="PEM file, or the folder written by create")


def run_certificates(arguments: argparse.Namespace) -> int:
    """Run the subcommand, print the result, and return the exit status.

    Raises
    ------
    FednnUNetError
        If it cannot be done.
    """
    result = _create(arguments) if arguments.action == "create" else _show(arguments.path)
    Console().print(result, soft_wrap=True)
    return 0


def _create(arguments: argparse.Namespace) -> RenderableType:
    created = create_certificates(
        arguments.hosts, arguments.out, arguments.days, arguments.organization, overwrite=arguments.overwrite
    )
    places = Table.grid(padding=(0, 2))
    for name, place in _PLACES:
        places.add_row(Text(name, style="bold"), place)
    ca = "The CA is new." if created.ca_is_new else "The CA is unchanged: nodes need no new files."
    limit = " The certificate expires together with the CA." if created.server.not_after == created.ca.not_after else ""
    head = Text.assemble("Certificates in ", printable(str(arguments.out)))
    return Group(head, places, Text(ca + limit), Text(), _description(SERVER_CERTIFICATE, created.server))


def _show(path: Path) -> RenderableType:
    files = [path]
    if path.is_dir():
        files = [path / name for name in (CA_CERTIFICATE, SERVER_CERTIFICATE) if (path / name).is_file()]
        if not files:
            raise FednnUNetError(f"{path} has no {CA_CERTIFICATE} and no {SERVER_CERTIFICATE}: give a file instead.")
    parts: list[RenderableType] = []
    for file in files:
        for summary in describe_certificates(file):
            parts += [Text()] if parts else []
            parts.append(_description(str(file), summary))
    return Group(*parts)


def _description(title: str, summary: CertificateSummary) -> RenderableType:
    """Return one certificate as a table with a line for each thing about it."""
    kind = " (CA)" if summary.is_ca else ""
    table = Table.grid(padding=(0, 2))
    for name, value in (
        ("hosts", printable(", ".join(summary.hosts) or MISSING)),
        ("subject", printable(summary.subject)),
        ("issuer", printable(summary.issuer)),
        ("valid from", Text(f"{summary.not_before:%Y-%m-%d %H:%M} UTC")),
        ("valid until", Text(f"{summary.not_after:%Y-%m-%d %H:%M} UTC")),
        ("days left", _days_left(summary.days_left())),
        ("SHA-256", Text(summary.fingerprint)),
    ):
        value.overflow = "fold"
        table.add_row(name, value)
    head = printable(title + kind)
    head.stylize("bold")
    return Group(head, table)


def _days_left(days: float) -> Text:
    if days < 0:
        return Text(f"expired {-days:.1f} days ago", style="bold red")
    return Text(f"{days:.1f}", style="yellow" if days < _SOON_DAYS else "")
