"""The settings of ``fednnunet audit privacy``."""

import shlex
from dataclasses import dataclass
from pathlib import Path

from fednnunet.nnunet_defaults import FINAL_CHECKPOINT, stages_of
from fednnunet.protocol.messages import Task
from fednnunet.settings.nnunet_flags import EVALUATE_FLAGS
from fednnunet.settings.node import ModelSettings, TrainingSettings

AUDIT_FLAGS = tuple(flag for flag in EVALUATE_FLAGS if flag.name in {"-tr", "-p", "-device"})
"""nnU-Net's own flags of the audit."""


@dataclass(frozen=True, kw_only=True)
class PrivacyAuditSettings(ModelSettings):
    """Which models of a site are audited, and how.

    Attributes
    ----------
    checkpoint
        File in the folder of each fold.
    test_cases
        Whether labelled test cases are held-out cases, too; with ``fold_all`` they are the only ones.
    mirror
        Whether predictions are averaged over mirrored images (test-time augmentation).
    output
        Folder for the report; ``None`` for one in the model's.
    as_json
        Whether to print the report as JSON.
    """

    task: Task = "evaluate"
    checkpoint: str = FINAL_CHECKPOINT
    test_cases: bool = False
    mirror: bool = False
    output: Path | None = None
    as_json: bool = False


def audit_command(settings: TrainingSettings) -> str | None:
    """Return the command line that audits the model of a training, ``None`` if it leaves none that can be audited."""
    has_stages = stages_of(settings.configuration) != (settings.configuration,)
    if settings.disable_checkpointing or settings.fold == "fold_all" or has_stages:
        return None
    words = [settings.dataset, settings.configuration, settings.fold]
    for flag in AUDIT_FLAGS:
        words += flag.to_argv(settings)
    return shlex.join(["fednnunet", "audit", "privacy", *words])
