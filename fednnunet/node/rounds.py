"""The federated rounds of an nnU-Net trainer.

An epoch of nnU-Net (``nnUNetTrainer.run_training``) becomes: train locally, send the update, receive the global model,
nnU-Net's validation epoch on the global model, ``on_epoch_end``. Only public hooks of the trainer are called, so any
trainer class takes part; log, ``progress.png`` and checkpoints describe the federated model.
"""

import argparse
import gc
import math
import multiprocessing
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from batchgenerators.utilities.file_and_folder_operations import load_json
from nnunetv2.run.run_training import get_trainer_from_args, maybe_load_checkpoint
from nnunetv2.utilities.helpers import empty_cache

from fednnunet.channel.messages import Ready, RoundReport, Schedule, TrainingOffer, ValidationReport
from fednnunet.folds import Fold
from fednnunet.node.dataset import SiteDataset
from fednnunet.node.proximal import ProximalTerm
from fednnunet.weights.layout import Layout
from fednnunet.weights.packing import layout_of, pack, unpack


class FederatedRounds:
    """One fold's training at one site; the trainer lives through all rounds.

    Parameters
    ----------
    arguments
        Command line of the client, with nnU-Net's training flags.
    dataset
        The site's dataset.
    fold
        The fold to train.
    """

    def __init__(self, arguments: argparse.Namespace, dataset: SiteDataset, fold: Fold) -> None:
        self._arguments = arguments
        self._device = _use_device(arguments.device)
        self._trainer = get_trainer_from_args(
            dataset.name, arguments.configuration, fold, arguments.tr, arguments.p, arguments.c, self._device
        )
        self._trainer.disable_checkpointing = arguments.disable_checkpointing
        self._proximal: ProximalTerm | None = None

    def offer(self) -> TrainingOffer:
        """Return what the trainer would do if nobody told it otherwise."""
        return TrainingOffer(
            epochs=self._trainer.num_epochs,
            iterations_per_epoch=self._trainer.num_iterations_per_epoch,
            val_iterations_per_epoch=self._trainer.num_val_iterations_per_epoch,
        )

    def start(self, schedule: Schedule) -> Ready:
        """Build network and data loaders for `schedule`; load a checkpoint if the flags ask for one."""
        trainer, arguments = self._trainer, self._arguments
        self._local_epochs = schedule.local_epochs
        # before `initialize`, where the learning-rate schedule is built for this number of epochs
        trainer.num_epochs = schedule.epochs
        trainer.num_iterations_per_epoch = schedule.iterations_per_epoch
        trainer.num_val_iterations_per_epoch = schedule.val_iterations_per_epoch
        maybe_load_checkpoint(trainer, arguments.c, arguments.val, arguments.pretrained_weights)
        if not arguments.val:
            trainer.on_train_start()
        self.layout = layout_of(trainer.network.state_dict())
        if schedule.proximal_mu > 0:
            self._proximal = ProximalTerm(trainer.network, trainer.optimizer, schedule.proximal_mu)
        training_keys, _ = trainer.do_split()
        return Ready(
            tensors=list(self.layout.tensors),
            training_cases=len(training_keys),
            completed_epochs=trainer.current_epoch,
            pretrained=arguments.pretrained_weights is not None,
        )

    def weights(self, layout: Layout) -> np.ndarray:
        """Return those of the model's weights that `layout` lists: shape ``(layout.size,)``, float32."""
        return pack(self._trainer.network.state_dict(), layout)

    def load(self, weights: np.ndarray, layout: Layout) -> None:
        """Replace those of the model's weights that `layout` lists."""
        unpack(weights, layout, self._trainer.network.state_dict())

    def train(self) -> None:
        """Train the local epochs of a round.

        All local epochs but the last are complete epochs of nnU-Net, validated on the local model; the last one stays
        open until `complete` validates the global model.
        """
        if self._proximal is not None:
            self._proximal.remember()
        for epoch in range(self._local_epochs):
            if epoch > 0:
                self._validate_and_end_epoch()
            self._train_epoch()

    def complete(self) -> RoundReport:
        """Validate the model, which by now is the global one, and end the epoch that `train` left open."""
        self._validate_and_end_epoch()
        log = self._trainer.logger
        return RoundReport(
            train_loss=_number(log.get_value("train_losses", step=-1)),
            val_loss=_number(log.get_value("val_losses", step=-1)),
            mean_dice=_number(log.get_value("mean_fg_dice", step=-1)),
            dice=self._by_label(log.get_value("dice_per_class_or_region", step=-1)),
        )

    def finish(self) -> ValidationReport:
        """Save the final checkpoint and run nnU-Net's full validation."""
        trainer, arguments = self._trainer, self._arguments
        if not arguments.val:
            trainer.on_train_end()
        if arguments.val_best:
            trainer.load_checkpoint(os.path.join(trainer.output_folder, "checkpoint_best.pth"))
        trainer.perform_actual_validation(arguments.npz)
        summary = load_json(os.path.join(trainer.output_folder, "validation", "summary.json"))
        return ValidationReport(
            mean_dice=_number(summary["foreground_mean"]["Dice"]),
            dice=self._by_label([metrics["Dice"] for metrics in summary["mean"].values()]),
        )

    def close(self) -> None:
        """Free the memory of network and optimizer."""
        del self._trainer
        gc.collect()
        empty_cache(self._device)

    def _train_epoch(self) -> None:
        trainer = self._trainer
        trainer.on_epoch_start()
        trainer.on_train_epoch_start()
        outputs = [trainer.train_step(next(trainer.dataloader_train)) for _ in range(trainer.num_iterations_per_epoch)]
        trainer.on_train_epoch_end(outputs)

    def _validate_and_end_epoch(self) -> None:
        trainer = self._trainer
        with torch.no_grad():
            trainer.on_validation_epoch_start()
            outputs = [
                trainer.validation_step(next(trainer.dataloader_val))
                for _ in range(trainer.num_val_iterations_per_epoch)
            ]
            trainer.on_validation_epoch_end(outputs)
        trainer.on_epoch_end()

    def _by_label(self, values: Sequence[float]) -> dict[str, float | None]:
        """Name values that come in the order of nnU-Net's metrics by the dataset's labels or regions."""
        manager, labels = self._trainer.label_manager, self._trainer.dataset_json["labels"]
        names = {_as_tuple(value): name for name, value in labels.items()}
        foreground = manager.foreground_regions if manager.has_regions else manager.foreground_labels
        return {names[_as_tuple(label)]: _number(value) for label, value in zip(foreground, values, strict=True)}


def _use_device(name: str) -> torch.device:
    """Set torch up for a device as ``nnUNetv2_train`` does; OMP_NUM_THREADS bounds the threads of a CPU training."""
    if name == "cpu":
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or multiprocessing.cpu_count()))
    elif name == "cuda":
        torch.set_num_threads(1)
        torch.backends.cudnn.deterministic = False
        torch.backends.cudnn.benchmark = True
    return torch.device(name)


def _as_tuple(label_or_region: Any) -> tuple[int, ...]:
    members = label_or_region if isinstance(label_or_region, list | tuple) else (label_or_region,)
    return tuple(int(member) for member in members)


def _number(value: float) -> float | None:
    """Return `value` as JSON can hold it: NaN, where nnU-Net has nothing to average, becomes ``None``."""
    return float(value) if math.isfinite(value) else None
