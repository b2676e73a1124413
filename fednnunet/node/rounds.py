"""The federated rounds of an nnU-Net trainer.

An epoch of nnU-Net (``nnUNetTrainer.run_training``) becomes: train locally, send the update, receive the global model,
nnU-Net's validation epoch on the global model, ``on_epoch_end``. Only public hooks of the trainer are called, so any
trainer class takes part; log, ``progress.png`` and checkpoints describe the federated model.
"""

import gc
import logging
import math
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.run.run_training import get_trainer_from_args, maybe_load_checkpoint
from nnunetv2.utilities.helpers import empty_cache

from fednnunet.background import Background, Tracker
from fednnunet.errors import FednnUNetError, disk_problem
from fednnunet.files import read_json_object
from fednnunet.folds import Fold
from fednnunet.labels import Labels, read_labels
from fednnunet.nnunet_defaults import looked_up, use_device
from fednnunet.node.dataset import SiteDataset
from fednnunet.node.description import describe
from fednnunet.node.kept_states import KeptStates
from fednnunet.node.optimizer_state import OptimizerState
from fednnunet.node.own_trainer import OwnTrainer
from fednnunet.node.proximal import ProximalTerm
from fednnunet.node.support import support_in_summary, support_of
from fednnunet.node.trainer_hooks import changed_number, check_hooks, check_schedule, overriding_class, set_schedule
from fednnunet.node.warm_trainers import Parked
from fednnunet.protocol.messages import (
    ModelDescription,
    Ready,
    RoundReport,
    Schedule,
    Start,
    Support,
    TrainingOffer,
    ValidationReport,
)
from fednnunet.settings.node import TrainingSettings
from fednnunet.weights.layout import Layout
from fednnunet.weights.packing import layout_of, load_state, normalization_in, pack, unpack

logger = logging.getLogger(__name__)


class FederatedRounds:
    """One fold's training at one site; the trainer lives through all rounds.

    Parameters
    ----------
    settings
        The node's settings.
    dataset
        The site's dataset.
    fold
        The fold to train.
    own
        How a model of the site's own is trained, if it is not the federation's.
    """

    def __init__(
        self, settings: TrainingSettings, dataset: SiteDataset, fold: Fold, own: OwnTrainer | None = None
    ) -> None:
        self.fold = fold
        self._settings = settings
        self._device = use_device(settings.device)
        self._own = own
        if own is not None:
            self._trainer = own.build(self._device)
        else:
            self._trainer = looked_up(
                lambda: get_trainer_from_args(
                    dataset.name,
                    settings.configuration,
                    fold,
                    settings.trainer,
                    settings.plans,
                    settings.resume,
                    self._device,
                )
            )
        if not settings.validation_only:
            check_hooks(type(self._trainer), vars(self._trainer))
        if settings.disable_checkpointing:  # else the trainer may have done that
            self._trainer.disable_checkpointing = True
        self._labels = read_labels(self._trainer.dataset_json)
        _check_label_manager(self._labels, self._trainer.label_manager)
        self._states = KeptStates(Path(self._trainer.output_folder))
        self._proximal: ProximalTerm | None = None
        self._optimizer_state: OptimizerState | None = None
        self._ready: Ready | None = None
        self._run = ""
        self._cases_with: Support | None = None
        self._is_validated = False
        """Whether the epoch's model has been validated, and the epoch has not been ended."""
        self._trained = False
        self._parked: Parked | None = None
        self._has_told_change = False
        self.is_untrained = False
        """Whether the network is as it was built: nothing that this site has learned is in its weights."""

    def offer(self) -> TrainingOffer:
        """Return the trainer's default schedule."""
        return TrainingOffer(
            epochs=self._trainer.num_epochs,
            iterations_per_epoch=self._trainer.num_iterations_per_epoch,
            val_iterations_per_epoch=self._trainer.num_val_iterations_per_epoch,
        )

    def start(self, start: Start) -> tuple[Ready, np.ndarray | None]:
        """Be ready for the round after the last complete one; builds network and data loaders the first time.

        What was kept of that last round is restored, if it is of the same training. Without that the trainer goes on
        with the optimizer that it has, and with an empty log where it has missed epochs.

        Returns
        -------
        What the coordinator wants to know, and the rounding error that was restored, if any.

        Raises
        ------
        FednnUNetError
            If there are states of another training.
        """
        if self._ready is None:
            if not self._settings.validation_only:
                self._states.begin(start.run, self._settings.overwrite)
            self._build(start.run, start.schedule)
        assert self._ready is not None
        self._run = start.run
        restored, rounding_error = self._states.restore(start.run, start.completed, self._trainer)
        if restored:
            self.is_untrained, self._is_validated = False, True
            self.end_epoch()
        elif not self._settings.validation_only:
            self._catch_up(start.completed * start.schedule.local_epochs)
            if self._optimizer_state is not None:
                iterations = start.schedule.local_epochs * start.schedule.iterations_per_epoch
                self._optimizer_state.set_steps(start.completed * iterations)
        return self._ready.model_copy(update={"restored": restored}), rounding_error

    def _build(self, run: str, schedule: Schedule) -> None:
        trainer, settings = self._trainer, self._settings
        self._schedule = schedule
        # before `initialize`, where the learning-rate schedule is built for this number of epochs
        set_schedule(trainer, schedule)
        initial = None if self._own is None else self._own.initial_weights()
        if settings.pretrained_weights is not None and initial is None and not settings.validation_only:
            self._load_pretrained()
        else:
            maybe_load_checkpoint(trainer, False, settings.validation_only)
        if not settings.validation_only:
            trainer.on_train_start()
            check_schedule(trainer, schedule)
        if initial is not None:
            load_state(initial, trainer.network.state_dict())
        self.is_untrained = not settings.validation_only  # which has loaded what was trained before
        if not settings.validation_only and schedule.optimizer_state != "local":
            self._optimizer_state = OptimizerState(trainer.network, trainer.optimizer)
        self.layout = layout_of(self._shareable)
        if schedule.proximal_mu > 0:
            self._proximal = ProximalTerm(trainer.network, trainer.optimizer, schedule.proximal_mu)
        training_keys, validation_keys = trainer.do_split()
        if not settings.validation_only:
            self._states.check_split(run, list(training_keys), list(validation_keys))
        self._ready = Ready(
            tensors=list(self.layout.tensors),
            normalization=normalization_in(trainer.network),
            training_cases=len(training_keys),
            pretrained=settings.pretrained_weights is not None,
        )

    def _load_pretrained(self) -> None:
        """Take over the weights of a pretrained network, but for its segmentation heads, as nnU-Net does.

        Raises
        ------
        FednnUNetError
            If the file is no checkpoint, or that of another network.
        """
        self._trainer.initialize()
        file, configuration = Path(str(self._settings.pretrained_weights)).name, self._settings.configuration
        try:
            maybe_load_checkpoint(self._trainer, False, False, self._settings.pretrained_weights)
        except AssertionError as error:
            reason = str(error).partition(". ")[0]  # then come all the values of a tensor
            raise FednnUNetError(
                f"-pretrained_weights {file} is not for the network of {configuration} in the plans "
                f"{self._settings.plans} ({reason}): distribute the plans of the pretrained model to all "
                "sites with plan_and_preprocess --plans FILE at the coordinator"
            ) from error
        except Exception as error:  # torch raises whatever the file makes it stumble over
            raise FednnUNetError(
                f"-pretrained_weights {file} cannot be read as a checkpoint of nnU-Net ({type(error).__name__}: "
                f"{str(error).partition('. ')[0][:150]}): give a checkpoint_final.pth"
            ) from error

    @property
    def output_folder(self) -> Path:
        """nnU-Net's folder of the fold."""
        return Path(self._trainer.output_folder)

    def describe(self, dataset: SiteDataset) -> ModelDescription:
        """Return how the network is built."""
        return describe(self._trainer, dataset, self._settings.plans)

    def weights(self, layout: Layout) -> np.ndarray:
        """Return those of the model's weights that `layout` lists: shape ``(layout.size,)``, float32."""
        return pack(self._shareable, layout)

    def load(self, weights: np.ndarray, layout: Layout) -> None:
        """Replace those of the model's weights that `layout` lists."""
        unpack(weights, layout, self._shareable)

    @property
    def _shareable(self) -> dict[str, torch.Tensor]:
        """The live tensors that can be averaged."""
        weights: dict[str, torch.Tensor] = self._trainer.network.state_dict()
        if self._optimizer_state is None or self._schedule.optimizer_state == "reset":
            return weights
        return {**weights, **self._optimizer_state.tensors}

    def train(self, tracker: Tracker) -> None:
        """Train the local epochs of a round.

        All local epochs but the last are complete epochs of nnU-Net, validated on the local model; the last one stays
        open until `validate` and `end_epoch`.

        Raises
        ------
        Stopped
            If the round shall not be trained to its end; `start` makes the trainer usable again.
        """
        if self._proximal is not None:
            self._proximal.remember()
        if self._optimizer_state is not None and self._schedule.optimizer_state == "reset":
            self._optimizer_state.forget()
        self.is_untrained = False
        epochs = self._schedule.local_epochs
        tracker.total, tracker.done = epochs * self._trainer.num_iterations_per_epoch, 0
        for epoch in range(epochs):
            if epoch > 0:
                self._validate()
                self.end_epoch()
            self._train_epoch(tracker)

    def validate(self, round_number: int, rounding_error: np.ndarray | None) -> RoundReport:
        """Validate the model, which by now is the global one, and keep the state of the training meanwhile.

        Writing what is large needs nothing of the validation, so it goes on beside it.

        Raises
        ------
        FednnUNetError
            If the state cannot be written.
        """
        due = round_number % self._schedule.save_every == 0 or round_number == self._schedule.rounds
        keeps = due and not self._trainer.disable_checkpointing

        def keep(tracker: Tracker) -> bool:
            return self._states.keep_arrays(round_number, self._trainer, rounding_error)

        writing = Background(keep) if keeps else None
        try:
            self._validate()
        finally:
            if writing is not None:
                writing.wait()
        log = self._trainer.logger
        if writing is not None:
            try:
                if writing.result():
                    self._states.keep_log(self._run, round_number, log.get_checkpoint())
                else:
                    logger.warning(
                        "Trainer %s saves no checkpoint, so round %d cannot be resumed.",
                        *(type(self._trainer).__name__, round_number),
                    )
            except Exception as error:  # also what a trainer's own ``save_checkpoint`` raises
                reason = disk_problem(error) or getattr(error, "strerror", None) or type(error).__name__
                logger.error("The state of the training cannot be saved: %s", error)
                raise FednnUNetError(
                    f"the state of its training cannot be written ({reason}): fix that, and start the node with --c"
                ) from error
        return RoundReport(
            train_loss=_number(log.get_value("train_losses", step=-1)),
            val_loss=_number(log.get_value("val_losses", step=-1)),
            mean_dice=_number(log.get_value("mean_fg_dice", step=-1)),
            dice=_numbers(self._labels.from_outputs(log.get_value("dice_per_class_or_region", step=-1))),
            support=self._support(),
        )

    def end_epoch(self) -> None:
        """Let nnU-Net do its housekeeping, checkpoints and ``progress.png``, unless it is done or not yet time."""
        if self._is_validated:
            self._trainer.on_epoch_end()
            self._is_validated = False
            self._tell_change()

    def _tell_change(self) -> None:
        """Say once that a hook has replaced one of the coordinator's numbers.

        nnU-Net reads the iterations of an epoch anew for each, as is done here, and the epochs before the first one.
        """
        changed = changed_number(self._trainer, self._schedule)
        if changed is not None and not self._has_told_change:
            self._has_told_change = True
            logger.warning(
                "Trainer %s has set %s, which is the coordinator's, while it trains: the number of rounds remains that "
                "of the coordinator (--rounds), epochs of another length are this site's alone.",
                *(type(self._trainer).__name__, changed),
            )

    def finish(self) -> ValidationReport:
        """Save the final checkpoint and run nnU-Net's full validation."""
        trainer, settings = self._trainer, self._settings
        if not settings.validation_only and not self._trained:
            trainer.on_train_end()
            self._trained = True
        if settings.val_best:
            self.is_untrained = False
            trainer.load_checkpoint(os.path.join(trainer.output_folder, "checkpoint_best.pth"))
        path = Path(trainer.output_folder) / "validation" / "summary.json"
        before = path.stat().st_mtime_ns if path.is_file() else None
        trainer.perform_actual_validation(settings.npz)
        self._states.clear()
        if overriding_class(type(trainer), "perform_actual_validation") is not None and (
            not path.is_file() or path.stat().st_mtime_ns == before
        ):
            logger.warning(
                "Trainer %s has not written %s, so there is no validation result.", type(trainer).__name__, path
            )
            return ValidationReport(mean_dice=None, dice=dict.fromkeys(self._labels.foreground))
        summary = read_json_object(path, "run the validation again with --val")
        dice = {key: metrics["Dice"] for key, metrics in summary["mean"].items()}
        return ValidationReport(
            mean_dice=_number(summary["foreground_mean"]["Dice"]),
            dice=_numbers(self._labels.by_name(dice)),
            support=support_in_summary(summary, self._labels),
        )

    def _support(self) -> Support:
        """Return how many cases can be behind the figures of an epoch: no more than its batches have samples."""
        trainer = self._trainer
        if self._cases_with is None:
            _, validation = trainer.do_split()
            self._cases_with = support_of(Path(trainer.preprocessed_dataset_folder), list(validation), self._labels)
        assert self._ready is not None
        seen = trainer.num_val_iterations_per_epoch * trainer.batch_size
        return Support(
            training=min(self._ready.training_cases, trainer.num_iterations_per_epoch * trainer.batch_size),
            validation=min(self._cases_with.validation or 0, seen),
            labels={label: min(cases or 0, seen) for label, cases in self._cases_with.labels.items()},
        )

    def park(self) -> None:
        """Move network and optimizer into main memory, where they stay until `wake`."""
        if self._parked is None:
            if self._proximal is not None:
                self._proximal.forget()
            self._parked = Parked(self._trainer)

    def wake(self) -> None:
        """Make the trainer usable again if it is parked."""
        if self._parked is not None:
            self._parked.return_to_device()
            self._parked = None

    def close(self) -> None:
        """Free the memory of network and optimizer, and close nnU-Net's own logger."""
        _finish_wandb()
        del self._trainer
        gc.collect()
        empty_cache(self._device)

    def _train_epoch(self, tracker: Tracker) -> None:
        trainer = self._trainer
        trainer.on_epoch_start()
        trainer.on_train_epoch_start()
        outputs = []
        for _ in range(trainer.num_iterations_per_epoch):
            tracker.check()
            outputs.append(trainer.train_step(next(trainer.dataloader_train)))
            tracker.done += 1
        trainer.on_train_epoch_end(outputs)

    def _validate(self) -> None:
        trainer = self._trainer
        with torch.no_grad():
            trainer.on_validation_epoch_start()
            outputs = [
                trainer.validation_step(next(trainer.dataloader_val))
                for _ in range(trainer.num_val_iterations_per_epoch)
            ]
            trainer.on_validation_epoch_end(outputs)
        self._is_validated = True

    def _catch_up(self, epochs: int) -> None:
        """Set the number of finished epochs to `epochs`: remove later ones, leave missing ones blank."""
        trainer = self._trainer
        labels = len(self._labels.outputs)
        log = {}
        for name, values in trainer.logger.get_checkpoint().items():
            missing = epochs - len(values)
            blank: Any = math.nan
            if name == "dice_per_class_or_region":
                blank = [math.nan] * labels
            elif name == "ema_fg_dice":  # a moving average would never recover from NaN
                blank = values[-1] if values else 0.0
            elif name.endswith("timestamps"):
                blank = time.time()
            log[name] = [*values[:epochs], *[blank] * missing]
        trainer.logger.load_checkpoint(log)
        trainer.current_epoch = epochs
        self._is_validated = False


def _finish_wandb() -> None:
    """End nnU-Net's run of Weights & Biases, if any (``nnUNet_wandb_enabled``).

    nnU-Net trains one fold in a process, and leaves that to its end. Here, the next fold's run would be this one.
    """
    wandb = sys.modules.get("wandb")
    if wandb is None or getattr(wandb, "run", None) is None:
        return
    try:
        wandb.finish()
    except Exception as error:  # whatever goes wrong there has nothing to do with the training
        logger.warning("Weights & Biases: the run of nnU-Net's logger could not be ended (%s).", error)


def _check_label_manager(labels: Labels, manager: Any) -> None:
    """Refuse plans whose label manager sees other labels than nnU-Net's own: their figures could not be named."""
    keys = manager.foreground_regions if manager.has_regions else manager.foreground_labels
    seen = [tuple(int(number) for number in (key if isinstance(key, list | tuple) else (key,))) for key in keys]
    if seen != labels.outputs:
        raise FednnUNetError(
            f"the plans' label manager {type(manager).__name__} makes {seen} of the labels in dataset.json, not "
            f"{labels.outputs}, which is not supported: use plans with nnU-Net's LabelManager"
        )


def _number(value: float) -> float | None:
    """Return `value` as JSON can hold it: NaN, where nnU-Net has nothing to average, becomes ``None``."""
    return float(value) if math.isfinite(value) else None


def _numbers(values: Mapping[str, float]) -> dict[str, float | None]:
    return {name: _number(value) for name, value in values.items()}
