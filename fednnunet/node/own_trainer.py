"""The trainer of a site's own model: an ordinary one, in a separate results folder.

nnU-Net's folders are called ``TRAINER__PLANS__CONFIGURATION``, and its predictor reads the plans in them. A copy of the
plans under another name therefore makes a folder that works with ``nnUNetv2_predict -p PLANS_personal``, while trainer
class and preprocessed cases are those of the federated model.
"""

import hashlib
import itertools
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from batchgenerators.utilities.file_and_folder_operations import load_json

from fednnunet.errors import FednnUNetError
from fednnunet.fingerprint.plans import plans_digest, resolved
from fednnunet.fingerprint.plans_file import read_plans_file
from fednnunet.folds import Fold
from fednnunet.nnunet_defaults import FINAL_CHECKPOINT
from fednnunet.node.dataset import SiteDataset, nnunet_folder
from fednnunet.node.dataset_json import DATASET_JSON
from fednnunet.node.preprocessed_cases import find_preprocessed
from fednnunet.node.splits import SPLITS
from fednnunet.node.trainer_hooks import find_trainer
from fednnunet.protocol.messages import OwnModel, OwnTraining
from fednnunet.settings.node import TrainingSettings

if TYPE_CHECKING:
    import torch
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer


def fold_folder(settings: TrainingSettings, dataset: SiteDataset, fold: Fold, model: OwnModel | None = None) -> Path:
    """Return nnU-Net's folder of a fold of the federation's model, or of one of the site's own."""
    return nnunet_folder("nnUNet_results") / dataset.name / settings.model_name(model) / f"fold_{fold}"


@dataclass(frozen=True)
class OwnTrainer:
    """Settings and state of the training of one of a site's own models.

    Parameters
    ----------
    settings
        The node's settings.
    dataset
        The site's dataset.
    asked
        What the coordinator asks for.
    """

    settings: TrainingSettings
    dataset: SiteDataset
    asked: OwnTraining

    @property
    def folder(self) -> Path:
        """NnU-Net's folder of the fold."""
        return fold_folder(self.settings, self.dataset, self.asked.fold, self.asked.model)

    @property
    def name(self) -> str:
        """Identifies this training: a finished model is not trained again.

        A personal model is one of a federated training. One that was trained alone is the same whatever the
        federation did, as long as plans, cases and schedule are.
        """
        asked = self.asked.schedule
        schedule = [asked.epochs, asked.iterations_per_epoch, asked.val_iterations_per_epoch]
        if self.asked.model == "personal":
            depends_on: list[object] = [self.asked.run, schedule]
        else:
            plans = self._plans()
            cases = find_preprocessed(
                self.dataset.preprocessed / str(resolved(plans, self.settings.configuration)["data_identifier"])
            )
            splits = self.dataset.preprocessed / SPLITS
            folds = splits.read_text(encoding="utf-8") if splits.is_file() else None
            depends_on = [plans_digest(plans), schedule, cases, folds, self.settings.pretrained_weights]
        return hashlib.sha256(json.dumps([self.asked.model, *depends_on]).encode()).hexdigest()[:32]

    def build(self, device: "torch.device") -> "nnUNetTrainer":
        """Return the trainer, which is not initialized.

        Raises
        ------
        FednnUNetError
            If the site has plans of the name that the model's folder needs.
        """
        plans, settings = self._plans(), self.settings
        name = f"{plans['plans_name']}_{self.asked.model}"
        taken = self.dataset.preprocessed / f"{name}.json"
        if taken.exists():
            raise FednnUNetError(f"{taken} has the name of the {self.asked.model} model's plans: rename it")
        trainer: nnUNetTrainer = find_trainer(settings.trainer)(
            plans={**plans, "plans_name": name, "continue_training": False},
            configuration=settings.configuration,
            fold=self.asked.fold,
            dataset_json=load_json(str(self.dataset.preprocessed / DATASET_JSON)),
            device=device,
        )
        stage = trainer.configuration_manager.previous_stage_name
        if stage is not None:  # of a cascade, which is the federation's
            other = replace(settings, configuration=stage)
            folder = fold_folder(other, self.dataset, self.asked.fold).parent
            trainer.folder_with_segs_from_previous_stage = str(folder / "predicted_next_stage" / settings.configuration)
        return trainer

    def initial_weights(self) -> Mapping[str, Any] | None:
        """Return the state dict to begin with: the federation's final model, as this site has it; ``None`` if alone.

        Raises
        ------
        FednnUNetError
            If the site has none of this training.
        """
        if self.asked.model == "alone":
            return None
        import torch  # takes seconds

        path = fold_folder(self.settings, self.dataset, self.asked.fold) / FINAL_CHECKPOINT
        try:
            # its log has objects of numpy, so it is read with pickle: this node has written it
            checkpoint = torch.load(path, map_location="cpu", weights_only=False)
            weights: Mapping[str, Any] = checkpoint["network_weights"]
        except Exception as error:  # torch raises whatever a damaged file makes it stumble over
            raise FednnUNetError(
                f"the federated model, from which the personal one starts, cannot be read from {path} "
                f"({type(error).__name__})"
            ) from error
        return weights

    def set_aside(self) -> None:
        """Rename the fold's folder, if it is that of another training: nnU-Net would predict with both."""
        if not self.folder.exists():
            return
        name = f"until_{time.strftime('%Y-%m-%d_%H-%M-%S')}_{self.folder.name}"
        names = itertools.chain([name], (f"{name}_{number}" for number in itertools.count(2)))
        self.folder.rename(next(path for path in map(self.folder.with_name, names) if not path.exists()))

    def _plans(self) -> dict[str, Any]:
        return read_plans_file(self.dataset.preprocessed / f"{self.settings.plans}.json", "restore it")
