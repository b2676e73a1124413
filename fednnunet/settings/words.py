"""The command lines of processes, as words that give them their settings."""

from fednnunet.protocol.messages import TASKS_WITH_NETWORK
from fednnunet.settings.coordinator import CoordinatorSettings
from fednnunet.settings.flag import Flag
from fednnunet.settings.flags import client_flags, server_flags
from fednnunet.settings.node import ModelSettings, NodeSettings, PlanningSettings
from fednnunet.settings.simulation import SimulationSettings


def server_words(settings: CoordinatorSettings, host: str, port: int) -> list[str]:
    """Return what stands after ``fednnunet server`` for a coordinator that listens there."""
    words = [settings.task, "--num_clients", str(settings.num_clients)]
    if settings.task in TASKS_WITH_NETWORK and settings.fold is not None:
        words.append(settings.fold)
    return [
        *[*words, "--host", host, "--port", str(port)],
        *(word for flag in server_flags(settings.task) for word in flag.to_argv(settings)),
    ]


def client_words(settings: NodeSettings, host: str, port: int) -> list[str]:
    """Return what stands after ``fednnunet client`` for a node whose coordinator is there."""
    words = [settings.task, settings.dataset]
    if isinstance(settings, ModelSettings):
        words += [settings.configuration, settings.fold]
    flags = (word for flag in client_flags(settings.task) for word in _words(flag, settings))
    return [*words, "--host", host, "--port", str(port), *flags]


def run_words(settings: SimulationSettings) -> list[str]:
    """Return what stands after ``fednnunet run`` for this federation, apart from its folder for logs."""
    task, node = settings.task, settings.nodes[0]
    words = [task, " ".join(settings.datasets)]
    if isinstance(node, ModelSettings):
        words += [node.configuration, node.fold]
    coordinators = server_flags(task)
    known = {flag.name for flag in coordinators}
    words += [word for flag in coordinators for word in flag.to_argv(settings.coordinator)]
    words += [word for flag in client_flags(task) if flag.name not in known for word in _words(flag, node)]
    own = {"--gpus": settings.gpus, "--gpu_memory_target": settings.gpu_memory_targets}
    words += [word for name, value in own.items() if value is not None for word in (name, " ".join(value))]
    if settings.port is not None:
        words += ["--port", str(settings.port)]
    if settings.warm_sites is not None:
        words += ["--warm_sites", str(settings.warm_sites)]
    return [*words, "--host", settings.host, *(["--in_process"] if settings.in_process else [])]


def _words(flag: Flag, settings: NodeSettings) -> list[str]:
    if isinstance(settings, PlanningSettings) and flag.dest == "configurations":
        return [flag.name, *settings.configurations] if settings.explicit_configurations else []
    return flag.to_argv(settings)
