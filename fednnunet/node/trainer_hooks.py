"""Checks which overrides of a custom trainer a federation can honour.

Federated rounds call all methods that stock nnU-Net calls in a training except ``run_training``, the loop over the
epochs, which they replace. All other overrides take effect.
"""

import contextlib
import inspect
import io
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from fednnunet.errors import FednnUNetError
from fednnunet.nnunet_defaults import looked_up
from fednnunet.protocol.messages import Schedule

if TYPE_CHECKING:
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

DEFAULT_TRAINER = "nnUNetTrainer"

NEVER_CALLED = ("run_training",)
"""Methods that stock nnU-Net calls in a training and a federated round does not."""

_FLAGS = {
    "num_epochs": "--rounds",
    "num_iterations_per_epoch": "--iterations_per_epoch",
    "num_val_iterations_per_epoch": "--val_iterations_per_epoch",
}


def find_trainer(name: str) -> "type[nnUNetTrainer]":
    """Return the trainer class that nnU-Net finds under a name; raises whatever the modules it imports raise."""
    from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name  # takes seconds to import

    with contextlib.redirect_stdout(io.StringIO()):  # nnU-Net tells where it looks
        found: type[nnUNetTrainer] = looked_up(lambda: recursive_find_trainer_class_by_name(name))
    return found


def check_hooks(trainer: "type[nnUNetTrainer]", attributes: Collection[str] = ()) -> None:
    """Refuse a trainer that overrides methods that federated rounds never call.

    Parameters
    ----------
    trainer
        Its class.
    attributes
        Names of those that the trainer itself has, once there is one.

    Raises
    ------
    FednnUNetError
        Names trainer, method, file and remedy.
    """
    for method in NEVER_CALLED:
        owner = overriding_class(trainer, method)
        if owner is not None or method in attributes:
            where = "in __init__" if owner is None else f"{owner.__name__} in {_file(owner, method)}"
            raise FednnUNetError(
                f"Trainer {trainer.__name__} overrides {method} ({where}), which a federation never calls, because "
                "its rounds replace that loop: move its work into hooks that are called, such as on_train_start, "
                "train_step or on_epoch_end, and give the coordinator the length with --rounds, or choose another "
                "trainer with -tr."
            )


def overriding_class(trainer: "type[nnUNetTrainer]", method: str) -> type | None:
    """Return the class of which a trainer has a method, ``None`` if it has nnU-Net's own.

    That is nnU-Net's own class too, where a module of the user's has put a method of its own there.
    """
    from nnunetv2.training.nnUNetTrainer import nnUNetTrainer as nnunet

    owner = next(each for each in trainer.__mro__ if method in vars(each))
    code = getattr(vars(owner)[method], "__code__", None)
    is_stock = owner is nnunet.nnUNetTrainer and code is not None and code.co_filename == nnunet.__file__
    return None if is_stock else owner


def check_split(trainer: "type[nnUNetTrainer]") -> None:
    """Refuse a trainer that deals the cases itself, where those that test its models must not train them.

    Raises
    ------
    FednnUNetError
        Names trainer, file and remedy.
    """
    owner = overriding_class(trainer, "do_split")
    if owner is not None:
        raise FednnUNetError(
            f"Trainer {trainer.__name__} overrides do_split ({owner.__name__} in {_file(owner, 'do_split')}), so cases "
            "on which its models are to be tested might train them: compare with a trainer that takes the folds of "
            "splits_final.json, as nnU-Net's do."
        )


def reads_splits(name: str) -> bool:
    """Return whether a trainer takes its folds from ``splits_final.json``, as far as known without training.

    Parameters
    ----------
    name
        Of the trainer; that nnU-Net finds it is checked elsewhere.
    """
    if name == DEFAULT_TRAINER:
        return True  # looking for it would import torch, which takes seconds
    try:
        return overriding_class(find_trainer(name), "do_split") is None
    except (Exception, SystemExit):  # nnU-Net imports modules that may fail in any way
        return True


def check_schedule(trainer: "nnUNetTrainer", schedule: Schedule) -> None:
    """Refuse a trainer that has replaced the numbers that the coordinator has set, or would begin in the middle.

    Raises
    ------
    FednnUNetError
        Names trainer, number, and remedy.
    """
    for name, wanted in _numbers(schedule).items():
        found = getattr(trainer, name)
        if found != wanted:
            raise FednnUNetError(
                f"trainer {type(trainer).__name__} sets {name} to {found} when the training starts (in initialize or "
                f"on_train_start), but the coordinator has said {wanted}: set it in __init__, from where the "
                f"coordinator takes it, or give the coordinator {_FLAGS[name]} to match"
            )
    if trainer.current_epoch != 0:
        raise FednnUNetError(
            f"trainer {type(trainer).__name__} would start with epoch {trainer.current_epoch}, but a federation starts "
            "with epoch 0: leave current_epoch alone, and give the coordinator fewer --rounds"
        )


def set_schedule(trainer: "nnUNetTrainer", schedule: Schedule) -> None:
    """Give a trainer the numbers of the coordinator."""
    for name, wanted in _numbers(schedule).items():
        setattr(trainer, name, wanted)


def changed_number(trainer: "nnUNetTrainer", schedule: Schedule) -> str | None:
    """Return in words which of the coordinator's numbers a hook of the trainer has replaced since, if any."""
    for name, wanted in _numbers(schedule).items():
        found: Any = getattr(trainer, name)
        if found != wanted:
            return f"{name} to {found} from {wanted}"
    return None


def _numbers(schedule: Schedule) -> dict[str, int]:
    return {
        "num_epochs": schedule.epochs,
        "num_iterations_per_epoch": schedule.iterations_per_epoch,
        "num_val_iterations_per_epoch": schedule.val_iterations_per_epoch,
    }


def _file(owner: type, method: str) -> str:
    # not the module's: nnU-Net forgets modules that it has imported from nnUNet_extTrainer
    code = getattr(inspect.unwrap(vars(owner)[method]), "__code__", None)
    return owner.__module__ if code is None else str(code.co_filename)
