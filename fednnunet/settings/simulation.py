"""The settings of a federation on one machine."""

from dataclasses import dataclass
from pathlib import Path

from fednnunet.protocol.messages import Task
from fednnunet.settings.coordinator import DEFAULT_HOST, CoordinatorSettings
from fednnunet.settings.node import NodeSettings


@dataclass(frozen=True, kw_only=True)
class SimulationSettings:
    """A coordinator, and a node for each dataset.

    Attributes
    ----------
    coordinator, nodes
        What each of them does.
    host, port
        Where they meet; without a port, at a free one.
    gpus
        GPU of each site; ``None`` for round robin.
    gpu_memory_targets
        GPU memory that the plans of each site may use, in GB, as words.
    log_dir
        Folder for the log files; ``None`` for a new one.
    in_process
        Whether to train in this process, one site after the other.
    warm_sites
        With `in_process`: sites whose network may be on the GPU at a time.
    """

    coordinator: CoordinatorSettings
    nodes: tuple[NodeSettings, ...]
    host: str = DEFAULT_HOST
    port: int | None = None
    gpus: tuple[str, ...] | None = None
    gpu_memory_targets: tuple[str, ...] | None = None
    log_dir: Path | None = None
    in_process: bool = False
    warm_sites: int | None = None

    @property
    def task(self) -> Task:
        """The task of all of them."""
        return self.coordinator.task

    @property
    def datasets(self) -> list[str]:
        """Id or name of each site's dataset."""
        return [node.dataset for node in self.nodes]

    @property
    def quiet(self) -> bool:
        """Whether to show warnings, errors and results only."""
        return self.coordinator.quiet
