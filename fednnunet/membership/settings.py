"""The settings of ``fednnunet audit privacy``."""

from dataclasses import dataclass
from pathlib import Path

from fednnunet.nnunet_defaults import FINAL_CHECKPOINT
from fednnunet.protocol.messages import Task
from fednnunet.settings.node import ModelSettings


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
