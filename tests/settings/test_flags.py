"""The flags of the commands, and the settings that they fill."""

from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import pytest

from fednnunet.comparison.flags import SETTLED_FLAGS, TESTING_FLAGS
from fednnunet.comparison.settings import ComparisonSettings
from fednnunet.protocol.messages import TASKS, Task
from fednnunet.settings.coordinator import CoordinatorSettings, ListeningSettings
from fednnunet.settings.flag import Flag, filled
from fednnunet.settings.flags import (
    CLIENT_TRUST_FLAGS,
    HOST,
    PORT,
    SERVER_TRUST_FLAGS,
    SITE_FLAGS,
    client_flags,
    server_flags,
)
from fednnunet.settings.node import (
    ConnectionSettings,
    EvaluationSettings,
    GateSettings,
    NodeSettings,
    PlanningSettings,
    TrainingSettings,
)

NODES: dict[Task, type[NodeSettings]] = {
    "extract_fingerprint": PlanningSettings,
    "plan_and_preprocess": PlanningSettings,
    "train": TrainingSettings,
    "evaluate": EvaluationSettings,
}


def _defaults(*kinds: Any) -> dict[str, object]:
    found = {field.name: field for kind in kinds for field in fields(kind)}
    return {
        name: list(field.default) if isinstance(field.default, tuple) else field.default
        for name, field in found.items()
        if field.default is not MISSING
    }


def _check(flags: tuple[Flag, ...], defaults: dict[str, object]) -> None:
    assert {flag.name: defaults[flag.dest] for flag in flags} == {flag.name: flag.default for flag in flags}


@pytest.mark.parametrize("task", TASKS)
def test_each_flag_has_a_field_with_the_same_default(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("nnUNet_def_n_proc", raising=False)
    _check((HOST, PORT, *server_flags(task), *SERVER_TRUST_FLAGS), _defaults(CoordinatorSettings, ListeningSettings))
    by_position = [flag for flag in client_flags(task) if flag.name != "-d"]
    key = [flag for flag in CLIENT_TRUST_FLAGS if flag.name != "--key"]  # which is read where it is used
    defaults = _defaults(NODES[task], ConnectionSettings, GateSettings)
    _check((HOST, PORT, *SITE_FLAGS, *by_position, *key), defaults)


def test_the_flags_of_a_comparison_fill_its_settings_too() -> None:
    _check((*SETTLED_FLAGS, *TESTING_FLAGS), _defaults(ComparisonSettings))


def test_settings_take_what_they_have_a_field_for_and_cannot_be_changed() -> None:
    values = {"task": "train", "dataset": "1", "configuration": "2d", "fold": "0", "seed": 5, "key": Path("secret.key")}
    settings = filled(TrainingSettings, values)
    assert (settings.seed, settings.device) == (5, "cuda")
    assert "secret" not in repr(settings)
    with pytest.raises(AttributeError, match="seed"):
        settings.seed = 6  # type: ignore[misc]
    with pytest.raises(TypeError, match="configuration"):
        filled(TrainingSettings, {"task": "train", "dataset": "1", "fold": "0"})
    planning = filled(PlanningSettings, {"task": "plan_and_preprocess", "dataset": "1", "configurations": ["2d"]})
    assert planning.configurations == ("2d",)
