"""Surrounds a node while it takes part: the gate for its messages, and the locks of its folds."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from fednnunet.files import alone
from fednnunet.folds import FOLDS_OF_NNUNET, parse_folds
from fednnunet.node.dataset import SiteDataset, nnunet_folder
from fednnunet.node.evaluation_input import results_folder
from fednnunet.node.site_client import SiteClient
from fednnunet.privacy.approval import Approver
from fednnunet.privacy.audit import AuditLog
from fednnunet.privacy.gate import Gate
from fednnunet.privacy.kept_approvals import KeptApprovals
from fednnunet.privacy.policy import Policy, read_policy
from fednnunet.settings.node import EvaluationSettings, GateSettings, NodeSettings, TrainingSettings

AUDIT_LOG = "fednnunet_audit"
"""How the name of an audit log begins, if the user does not give one."""


@contextmanager
def alone_in_results(settings: NodeSettings, client: SiteClient) -> Iterator[None]:
    """Be the only node that trains these folds of this model, whatever log and coordinator it has.

    Raises
    ------
    FednnUNetError
        On entering, if there is another one.
    """
    if not isinstance(settings, TrainingSettings):
        yield
        return
    folder = nnunet_folder("nnUNet_results") / client.dataset.name / settings.model_name()
    with ExitStack() as stack:
        for fold in parse_folds(settings.fold, client.hello.folds or FOLDS_OF_NNUNET):
            taken = f"Another node trains fold {fold} in {folder}: stop it, or train another fold."
            stack.enter_context(alone(folder / f".fednnunet_fold_{fold}.lock", taken))
        yield


@contextmanager
def gate(settings: GateSettings, node: NodeSettings, client: SiteClient) -> Iterator[Gate]:
    """Give the gate before a node, with policy and log as the settings want them.

    Raises
    ------
    FednnUNetError
        If the policy cannot be read, or the log not be written.
    """
    policy = Policy() if settings.policy is None else read_policy(settings.policy)
    path = settings.audit_log or default_log(node, client.dataset)
    log = AuditLog(path, client.hello.site, client.hello.task)
    kept = KeptApprovals(path.with_name(path.stem + "_approved.json"), client.hello.task)
    gated = client.gate = Gate(client, policy, log, Approver(path.with_name(path.stem + "_waiting")), kept)
    try:
        yield gated
    finally:
        gated.close()
        log.close()


def default_log(settings: NodeSettings, dataset: SiteDataset) -> Path:
    """Return where the log is kept: folds may be trained at the same time, and a log has one writer."""
    if isinstance(settings, EvaluationSettings):  # the model's folder may be another site's too
        return results_folder(settings, dataset) / f"{AUDIT_LOG}.jsonl"
    if not isinstance(settings, TrainingSettings):
        return dataset.preprocessed / f"{AUDIT_LOG}.jsonl"
    folder = nnunet_folder("nnUNet_results") / dataset.name / settings.model_name()
    return folder / f"{AUDIT_LOG}_{settings.fold}.jsonl"
