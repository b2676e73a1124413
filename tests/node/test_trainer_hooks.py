"""What of a trainer is honoured: everything that stock nnU-Net calls in a training, or the trainer is refused."""

import ast
import importlib
import inspect
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace

import nnunetv2
import pytest
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.training.nnUNetTrainer.variants.training_length.nnUNetTrainer_Xepochs import nnUNetTrainer_5epochs

from fednnunet.errors import FednnUNetError
from fednnunet.node import kept_states, rounds, trainer_hooks
from fednnunet.node.trainer_hooks import (
    NEVER_CALLED,
    changed_number,
    check_hooks,
    check_schedule,
    check_split,
    reads_splits,
    set_schedule,
)
from fednnunet.protocol.messages import Schedule

TRAINERS = Path(nnunetv2.__path__[0]) / "training" / "nnUNetTrainer"
REFUSED = {"nnUNetTrainerBenchmark_5epochs", "nnUNetTrainerBenchmark_5epochs_noDataLoading"}
ACCEPTED = 74
SCHEDULE = Schedule(rounds=6, local_epochs=2, iterations_per_epoch=3, val_iterations_per_epoch=4)


def _called_on(tree: ast.AST, *names: str) -> set[str]:
    return {
        node.func.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and ast.unparse(node.func.value) in names
    }


def test_a_federated_round_calls_every_method_that_the_loop_of_nnunet_calls() -> None:
    """What ``run_training`` and ``nnUNetv2_train`` call of a trainer, rounds call too, or it is known to be refused."""
    from nnunetv2.run import run_training

    stock = _called_on(ast.parse(inspect.getsource(run_training)), "nnunet_trainer")
    stock |= _called_on(ast.parse(textwrap.dedent(inspect.getsource(nnUNetTrainer.run_training))), "self")
    ours = set[str]()
    for module in (rounds, kept_states):
        ours |= _called_on(ast.parse(inspect.getsource(module)), "trainer", "self._trainer")
    assert "train_step" in stock
    assert stock - ours - {"initialize"} == set(NEVER_CALLED)  # maybe_load_checkpoint and on_train_start call it


def _shipped() -> dict[str, tuple[list[str], set[str]]]:
    """Bases and methods of every trainer class that nnU-Net ships, by name."""
    classes = {}
    for path in TRAINERS.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef) and node.name != "nnUNetTrainer":
                methods = {part.name for part in node.body if isinstance(part, ast.FunctionDef)}
                classes[node.name] = ([ast.unparse(base) for base in node.bases], methods)
    return classes


def test_of_nnunets_own_trainers_only_the_benchmarks_are_refused() -> None:
    shipped = _shipped()

    def overrides(name: str, method: str) -> bool:
        if name not in shipped:
            assert name == "nnUNetTrainer"
            return False
        bases, methods = shipped[name]
        return method in methods or any(overrides(base, method) for base in bases)

    refused = {name for name in shipped if any(overrides(name, method) for method in NEVER_CALLED)}
    assert refused == REFUSED
    assert len(shipped) - len(refused) == ACCEPTED
    own = {method for method, value in vars(nnUNetTrainer).items() if callable(getattr(value, "__func__", value))}
    honoured = own - set(NEVER_CALLED)
    assert {method for _, methods in shipped.values() for method in methods} <= honoured | set(NEVER_CALLED)
    check_hooks(nnUNetTrainer)
    check_hooks(nnUNetTrainer_5epochs)


class _Loop:
    def run_training(self) -> None:
        pass


class _Before(_Loop, nnUNetTrainer):
    pass


class _After(nnUNetTrainer, _Loop):
    pass


class _Child(_Before):
    def train_step(self, batch: dict[str, object]) -> dict[str, object]:
        return {}


@pytest.mark.parametrize("trainer", [_Before, _Child])
def test_a_loop_of_its_own_is_refused_wherever_it_is_defined(trainer: type[nnUNetTrainer]) -> None:
    with pytest.raises(FednnUNetError) as caught:
        check_hooks(trainer)
    said = str(caught.value)
    assert said.startswith(f"Trainer {trainer.__name__} overrides run_training (_Loop in {__file__})")
    assert "on_epoch_end" in said
    assert "--rounds" in said


def test_a_mixin_that_nnunets_own_method_hides_changes_nothing() -> None:
    check_hooks(_After)


def test_the_file_of_a_trainer_is_named_and_its_own_folds_are_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = "from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer\n\n\n"
    source += "class MyStopping(nnUNetTrainer):\n    def run_training(self):\n        pass\n\n"
    source += "    def do_split(self):\n        return [], []\n"
    (tmp_path / "stopping.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    trainer = importlib.import_module("stopping").MyStopping
    del sys.modules["stopping"]  # as nnU-Net does with what it finds in nnUNet_extTrainer
    with pytest.raises(FednnUNetError, match=f"MyStopping in {tmp_path / 'stopping.py'}"):
        check_hooks(trainer)
    for found, expected in ((trainer, False), (nnUNetTrainer_5epochs, True)):
        monkeypatch.setattr(trainer_hooks, "find_trainer", lambda _, found=found: found)
        assert reads_splits("Any") is expected
    assert reads_splits("nnUNetTrainer")


def test_numbers_that_a_trainer_replaces_are_not_ignored() -> None:
    trainer = SimpleNamespace(current_epoch=0)
    set_schedule(trainer, SCHEDULE)  # type: ignore[arg-type]
    check_schedule(trainer, SCHEDULE)  # type: ignore[arg-type]
    assert changed_number(trainer, SCHEDULE) is None  # type: ignore[arg-type]
    assert trainer.num_epochs == 12
    trainer.num_val_iterations_per_epoch = 5
    with pytest.raises(FednnUNetError, match=r"num_val_iterations_per_epoch to 5 .* has said 4: .*__init__"):
        check_schedule(trainer, SCHEDULE)  # type: ignore[arg-type]
    assert changed_number(trainer, SCHEDULE) == "num_val_iterations_per_epoch to 5 from 4"  # type: ignore[arg-type]


def test_a_training_that_would_begin_in_its_middle_is_told() -> None:
    trainer = SimpleNamespace(current_epoch=5)
    set_schedule(trainer, SCHEDULE)  # type: ignore[arg-type]
    with pytest.raises(FednnUNetError, match=r"would start with epoch 5, .* fewer --rounds"):
        check_schedule(trainer, SCHEDULE)  # type: ignore[arg-type]


def test_a_loop_put_into_a_trainer_or_into_nnunets_own_class_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    check_hooks(nnUNetTrainer_5epochs, {"num_epochs"})
    with pytest.raises(FednnUNetError, match=r"overrides run_training \(in __init__\)"):
        check_hooks(nnUNetTrainer_5epochs, {"num_epochs", "run_training"})
    monkeypatch.setattr(nnUNetTrainer, "run_training", lambda self: None)
    with pytest.raises(FednnUNetError, match=rf"overrides run_training \(nnUNetTrainer in {__file__}\)"):
        check_hooks(nnUNetTrainer_5epochs)


def test_a_trainer_with_folds_of_its_own_is_not_compared() -> None:
    class Dealing(nnUNetTrainer):
        def do_split(self) -> tuple[list[str], list[str]]:
            return [], []

    check_split(nnUNetTrainer_5epochs)
    with pytest.raises(FednnUNetError, match=rf"Dealing overrides do_split \(Dealing in {__file__}\)"):
        check_split(Dealing)
