"""The command lines of processes, as words that give them their settings."""

from fednnunet.channel.messages import TASKS_WITH_NETWORK
from fednnunet.settings.coordinator import CoordinatorSettings
from fednnunet.settings.flags import client_flags, server_flags
from fednnunet.settings.node import ModelSettings, NodeSettings, PlanningSettings


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
    words += ["--host", host, "--port", str(port)]
    for flag in client_flags(settings.task):
        if isinstance(settings, PlanningSettings) and flag.dest == "configurations":
            words += [flag.name, *settings.configurations] if settings.explicit_configurations else []
        else:
            words += flag.to_argv(settings)
    return words
