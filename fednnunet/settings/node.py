"""The settings of a node: what it works on, by task, how it reaches its coordinator, and what may leave it."""

from dataclasses import dataclass
from pathlib import Path

from fednnunet.evaluation.prediction import CHECKPOINT
from fednnunet.nnunet_defaults import model_folder_name
from fednnunet.protocol.messages import FingerprintMode, OwnModel, Task
from fednnunet.settings.coordinator import DEFAULT_HOST, DEFAULT_PORT
from fednnunet.settings.nnunet_flags import DEFAULT_CONFIGURATIONS


@dataclass(frozen=True, kw_only=True)
class ConnectionSettings:
    """How a node reaches its coordinator.

    Attributes
    ----------
    host, port
        Name or address of the coordinator, and its TCP port.
    ca_cert
        Certificate of the authority that has signed the coordinator's, PEM, or ``system``.
    insecure
        Whether a coordinator on another machine may be reached without encryption.
    retry_for
        Seconds without a connection after which to give up; ``None`` for never.
    contact_timeout
        Seconds without a word after which a connection counts as broken.
    """

    host: str = DEFAULT_HOST
    port: int = DEFAULT_PORT
    ca_cert: str | None = None
    insecure: bool = False
    retry_for: float | None = None
    contact_timeout: float = 120.0


@dataclass(frozen=True, kw_only=True)
class GateSettings:
    """What may leave a site, and where that is written down.

    Attributes
    ----------
    policy
        The site's rules, TOML; ``None`` for all that a task needs.
    audit_log
        File with all that the node has sent and got; ``None`` for one beside the data or the model.
    sites
        The site's own list of the sites, TOML, for masked sums only; ``None`` for plain answers and updates.
    """

    policy: Path | None = None
    audit_log: Path | None = None
    sites: Path | None = None


@dataclass(frozen=True, kw_only=True)
class NodeSettings:
    """What all nodes have.

    Attributes
    ----------
    task
        The task.
    dataset
        Id or name of the site's dataset.
    site
        Name of the site; ``None`` for that of its dataset.
    """

    task: Task
    dataset: str
    site: str | None = None


@dataclass(frozen=True, kw_only=True)
class MeasuringSettings:
    """How the cases are measured, planned for, and preprocessed; nnU-Net's own settings.

    Attributes
    ----------
    extractor, planner, preprocessor_name
        Classes of nnU-Net.
    extraction_processes
        Processes that measure.
    preprocessing_processes
        Processes that preprocess: one number, or one for each configuration; ``None`` for nnU-Net's own.
    verify_dataset_integrity
        Whether nnU-Net checks the dataset first.
    clean
        Whether images are read again even if they were measured before.
    gpu_memory_target
        GPU memory that the plans may use, in GB.
    overwrite_target_spacing
        Target spacing of 3d_fullres: three numbers in mm, as words.
    overwrite_plans_name
        Name of the plans, instead of the default.
    """

    extractor: str = "DatasetFingerprintExtractor"
    extraction_processes: int = 8
    verify_dataset_integrity: bool = False
    clean: bool = False
    planner: str = "ExperimentPlanner"
    gpu_memory_target: float | None = None
    preprocessor_name: str = "DefaultPreprocessor"
    overwrite_target_spacing: tuple[str, ...] | None = None
    overwrite_plans_name: str | None = None
    preprocessing_processes: tuple[int, ...] | None = None
    fingerprint: FingerprintMode = "exact"


@dataclass(frozen=True, kw_only=True)
class PlanningSettings(NodeSettings, MeasuringSettings):
    """A node of ``extract_fingerprint`` or ``plan_and_preprocess``.

    Attributes
    ----------
    asym
        Whether the site plans for itself, and shares nothing of its fingerprint.
    no_pp
        Whether to leave preprocessing out.
    configurations
        What is preprocessed.
    explicit_configurations
        Whether the user has named them, so that plans without one of them are refused.
    verbose, no_pbar
        What nnU-Net says.
    """

    asym: bool = False
    no_pp: bool = False
    configurations: tuple[str, ...] = DEFAULT_CONFIGURATIONS
    explicit_configurations: bool = False
    verbose: bool = False
    no_pbar: bool = False


def fingerprint_mode(settings: NodeSettings) -> FingerprintMode | None:
    """Return what a node tells for a common fingerprint, if it tells anything."""
    return settings.fingerprint if isinstance(settings, PlanningSettings) and not settings.asym else None


@dataclass(frozen=True, kw_only=True)
class ModelSettings(NodeSettings):
    """A node that works with a network.

    Attributes
    ----------
    configuration, fold, trainer, plans
        As nnU-Net means them; `fold` is ``all``, ``fold_all``, or a number.
    device
        ``cuda``, ``cpu`` or ``mps``.
    """

    configuration: str
    fold: str
    trainer: str = "nnUNetTrainer"
    plans: str = "nnUNetPlans"
    device: str = "cuda"

    def model_name(self, own: OwnModel | None = None) -> str:
        """Return what nnU-Net calls the folder of the model, or of one of the site's own beside it."""
        plans = self.plans if own is None else f"{self.plans}_{own}"
        return model_folder_name(self.trainer, plans, self.configuration)


@dataclass(frozen=True, kw_only=True)
class TrainingSettings(ModelSettings):
    """A node of ``train``.

    Attributes
    ----------
    pretrained_weights
        Checkpoint of nnU-Net to start from.
    num_gpus
        GPUs of the site.
    npz
        Whether the final validation also saves softmax probabilities.
    resume, overwrite
        Whether to continue the training that is kept at this site, or to replace it.
    validation_only, val_best
        Whether to only run the final validation, and whether to run it with ``checkpoint_best``.
    disable_checkpointing
        Whether to write no checkpoints.
    seed
        Repeats chance; ``None`` leaves it to nnU-Net.
    """

    pretrained_weights: str | None = None
    num_gpus: int = 1
    npz: bool = False
    resume: bool = False
    overwrite: bool = False
    validation_only: bool = False
    val_best: bool = False
    disable_checkpointing: bool = False
    seed: int | None = None


@dataclass(frozen=True, kw_only=True)
class PredictionSettings:
    """How test cases are predicted.

    Attributes
    ----------
    checkpoint
        File in the folder of each fold.
    step_size
        Step of the sliding window, as a share of the patch.
    disable_tta
        Whether to leave out test-time augmentation by mirroring.
    """

    checkpoint: str = CHECKPOINT
    step_size: float = 0.5
    disable_tta: bool = False


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings(ModelSettings, PredictionSettings):
    """A node of ``evaluate``.

    Attributes
    ----------
    model
        Results folder of the model; ``None`` for the site's own.
    images, labels
        Folders of the test cases; ``None`` for those of the dataset.
    output
        Folder for predictions and metrics; ``None`` for one in the model's.
    min_cases
        A figure over fewer cases than this is not told.
    """

    model: Path | None = None
    images: Path | None = None
    labels: Path | None = None
    output: Path | None = None
    min_cases: int = 5
