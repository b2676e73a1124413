"""The settings of the coordinator."""

from dataclasses import dataclass
from pathlib import Path

from fednnunet.protocol.messages import FingerprintMode, Task
from fednnunet.settings.training import AveragingSettings, OwnModelSettings, RecoverySettings, ScheduleSettings
from fednnunet.settings.values import DEFAULT_MODEL_NAME

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 8080


@dataclass(frozen=True, kw_only=True)
class ListeningSettings:
    """Where the coordinator listens, and by what nodes know it and it knows them.

    Attributes
    ----------
    host, port
        Name or address, and TCP port.
    tls_cert, tls_key
        Its certificate and private key, PEM; both or none.
    sites
        List of the sites that may take part, TOML; ``None`` for anybody.
    insecure
        Whether other machines may connect without encryption or authentication.
    """

    host: str = DEFAULT_HOST
    port: int = DEFAULT_PORT
    tls_cert: Path | None = None
    tls_key: Path | None = None
    sites: Path | None = None
    insecure: bool = False


@dataclass(frozen=True, kw_only=True)
class CoordinatorSettings(ScheduleSettings, AveragingSettings, OwnModelSettings, RecoverySettings):
    """What the coordinator does, whatever channel it is reached over; settings of other tasks have no effect.

    Attributes
    ----------
    task
        The task.
    num_clients
        Sites in the federation.
    fold
        What the nodes must have been started with; ``None`` for whatever they were.
    fingerprint, asym
        Likewise.
    secure
        Whether answers about cases, and updates, come as terms of masked sums.
    given_plans
        File with plans to bring to all sites, in place of planning.
    model_name
        What the dataset is called in the exported model.
    nsd_tolerance
        Up to how many mm surfaces count as equal; ``None`` for no normalised surface Dice.
    wandb, mlflow
        Project of Weights & Biases, and experiment of MLflow, that get the numbers of a training.
    round_timeout
        Seconds that a site gets for each step of a round; ``None`` for no limit.
    run_dir
        Where what has to be kept is kept; ``None`` for a folder that the sites' network and names tell.
    progress_file
        Gets a line for each event.
    dashboard
        Port of the report page on this machine; ``None`` for none.
    contact_timeout
        Seconds without a word after which a connection counts as broken.
    quiet
        Whether to show warnings, errors and results only.
    """

    task: Task
    num_clients: int
    fold: str | None = None
    fingerprint: FingerprintMode | None = None
    asym: bool = False
    secure: bool = False
    given_plans: Path | None = None
    model_name: str = DEFAULT_MODEL_NAME
    nsd_tolerance: float | None = None
    wandb: str | None = None
    mlflow: str | None = None
    round_timeout: float | None = None
    run_dir: Path | None = None
    progress_file: Path | None = None
    dashboard: int | None = None
    contact_timeout: float = 120.0
    quiet: bool = False
