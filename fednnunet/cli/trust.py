"""What the flags about trust mean: whom to let in, whom to connect to, what may leave."""

import argparse
import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from fednnunet.channel.address import is_loopback, is_unspecified, join_address
from fednnunet.channel.approval import Approver
from fednnunet.channel.audit import AuditLog
from fednnunet.channel.certificates import check_server_certificate
from fednnunet.channel.door import Door
from fednnunet.channel.gate import Gate
from fednnunet.channel.identity import NO_CERTIFICATE, read_key, read_sites
from fednnunet.channel.kept_approvals import KeptApprovals
from fednnunet.channel.policy import Policy, read_policy
from fednnunet.channel.tls import Endpoint, authority
from fednnunet.errors import FednnUNetError
from fednnunet.files import alone
from fednnunet.folds import FOLDS_OF_NNUNET, parse_folds
from fednnunet.nnunet_defaults import model_folder_name
from fednnunet.node.dataset import SiteDataset, nnunet_folder
from fednnunet.node.evaluation_input import results_folder
from fednnunet.node.site_client import SiteClient

logger = logging.getLogger(__name__)

AUDIT_LOG = "fednnunet_audit"
"""How the name of an audit log begins, if the user does not give one."""


def tls_files(arguments: argparse.Namespace) -> tuple[bytes, bytes] | None:
    """Return certificate and key of the coordinator, PEM, if there are any.

    Raises
    ------
    FednnUNetError
        If they are no good, or other machines could connect without them.
    """
    if arguments.tls_cert is not None:
        check_server_certificate(arguments.tls_cert, arguments.tls_key)
        certificate: Path = arguments.tls_cert
        key: Path = arguments.tls_key
        return certificate.read_bytes(), key.read_bytes()
    if not is_loopback(arguments.host) and not arguments.insecure:
        raise FednnUNetError(
            f"Other machines can reach {arguments.host}, but nothing would be encrypted: give --tls-cert and --tls-key "
            "(see 'fednnunet certificates create'), or --insecure if the network is trusted."
        )
    return None


def door(arguments: argparse.Namespace) -> Door:
    """Return what lets sites in.

    Raises
    ------
    FednnUNetError
        If the list of sites is no good, or everybody could come in.
    """
    certificate = NO_CERTIFICATE
    if arguments.tls_cert is not None:
        certificate = check_server_certificate(arguments.tls_cert, arguments.tls_key)
    if arguments.sites is None:
        if not is_loopback(arguments.host) and not arguments.insecure:
            raise FednnUNetError(
                f"Other machines can reach {arguments.host}, and any of them could take part: list the sites with "
                "--sites (see 'fednnunet keys create'), or give --insecure."
            )
        return Door(None, certificate)
    sites = read_sites(arguments.sites)
    if len(sites.names) < arguments.num_clients:
        raise FednnUNetError(
            f"{arguments.sites} lists {len(sites.names)} sites, fewer than --num_clients {arguments.num_clients}: "
            "add the others."
        )
    return Door(sites, certificate)


def endpoint(arguments: argparse.Namespace) -> Endpoint:
    """Return where the coordinator is, and whom to trust there.

    Raises
    ------
    FednnUNetError
        If the authority's certificate is no good, or nothing would be encrypted on the way to another machine.
    """
    if arguments.ca_cert is not None:
        return Endpoint(arguments.host, arguments.port, authority(arguments.ca_cert))
    if is_unspecified(arguments.host) and not arguments.insecure:
        raise FednnUNetError(
            f"--host {arguments.host} stands for all addresses of a coordinator's machine: name one by which this node "
            "reaches it, on the same machine 127.0.0.1."
        )
    if not is_loopback(arguments.host) and not arguments.insecure:
        raise FednnUNetError(
            f"{join_address(arguments.host, arguments.port)} is another machine, and nothing would be encrypted on the "
            "way to it: give --ca-cert with the certificate that the coordinator has sent you, or --insecure."
        )
    return Endpoint(arguments.host, arguments.port)


def take_identity(arguments: argparse.Namespace) -> None:
    """Put the site's key in the place of the path to it, and name the site as its key if it has no other name.

    Raises
    ------
    FednnUNetError
        If the key is no good.
    """
    path: Path | None = arguments.key
    arguments.identity = None if path is None else read_key(path)
    if path is not None and arguments.site is None:
        arguments.site = path.stem


def fewest_cases(arguments: argparse.Namespace) -> int:
    """Return below how many cases nothing is told of a metric: the larger one of the flag and the policy's rule.

    Raises
    ------
    FednnUNetError
        If the policy cannot be read.
    """
    rule = 1 if arguments.policy is None else read_policy(arguments.policy).metrics.min_cases
    return max(int(arguments.min_cases), rule)


@contextmanager
def alone_in_results(arguments: argparse.Namespace, client: SiteClient) -> Iterator[None]:
    """Be the only node that trains these folds of this model, whatever log and coordinator it has.

    Raises
    ------
    FednnUNetError
        On entering, if there is another one.
    """
    if arguments.task != "train":
        yield
        return
    folder = nnunet_folder("nnUNet_results") / client.dataset.name / _model(arguments)
    with ExitStack() as stack:
        for fold in parse_folds(str(arguments.fold), client.hello.folds or FOLDS_OF_NNUNET):
            taken = f"Another node trains fold {fold} in {folder}: end it, or train another fold."
            stack.enter_context(alone(folder / f".fednnunet_fold_{fold}.lock", taken))
        yield


@contextmanager
def gate(arguments: argparse.Namespace, client: SiteClient) -> Iterator[Gate]:
    """Give the gate before a node, with policy and log as the command line wants them.

    Raises
    ------
    FednnUNetError
        If the policy cannot be read, or the log not be written.
    """
    policy = Policy() if arguments.policy is None else read_policy(arguments.policy)
    path: Path = arguments.audit_log or _default_log(arguments, client.dataset)
    log = AuditLog(path, client.hello.site, client.hello.task)
    kept = KeptApprovals(path.with_name(path.stem + "_approved.json"), client.hello.task)
    gated = Gate(client, policy, log, Approver(path.with_name(path.stem + "_waiting")), kept)
    try:
        yield gated
    finally:
        gated.close()
        log.close()


def _default_log(arguments: argparse.Namespace, dataset: SiteDataset) -> Path:
    """Return where the log is kept: folds may be trained at the same time, and a log has one writer."""
    if arguments.task == "evaluate":  # the model's folder may be another site's too
        return results_folder(arguments, dataset) / f"{AUDIT_LOG}.jsonl"
    if arguments.task != "train":
        return dataset.preprocessed / f"{AUDIT_LOG}.jsonl"
    folder = nnunet_folder("nnUNet_results") / dataset.name / _model(arguments)
    return folder / f"{AUDIT_LOG}_{arguments.fold}.jsonl"


def _model(arguments: argparse.Namespace) -> str:
    return model_folder_name(arguments.tr, arguments.p, arguments.configuration)
