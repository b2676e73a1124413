"""Trainers for the tests, found by nnU-Net through nnUNet_extTrainer."""

import os

import numpy as np
import torch
from nnunetv2.evaluation.evaluate_predictions import compute_metrics_on_folder
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer


class SeededTrainer(nnUNetTrainer):
    """Draws everything from one seed, so that two trainings on the same data are the same; three short epochs."""

    def __init__(self, plans: dict, configuration: str, fold: int, dataset_json: dict, device: torch.device):
        # nnU-Net reads the names of these parameters, so they cannot be *args
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.num_epochs = 3
        self.num_iterations_per_epoch = 2
        self.num_val_iterations_per_epoch = 1

    def initialize(self):
        torch.set_num_threads(1)  # nnUNetv2_train takes all cores on CPU, and sums come out differently then
        torch.manual_seed(7)
        np.random.seed(7)
        super().initialize()


class _WithoutPlots(nnUNetTrainer):
    """Draws no plots, which would take most of the time."""

    def on_train_start(self):
        super().on_train_start()
        self.logger.plot_progress_png = lambda output_folder: None


class RecordingTrainer(_WithoutPlots):
    """Writes down its weights at the end of each epoch's training, before anything could average them."""

    def on_train_epoch_end(self, train_outputs):
        super().on_train_epoch_end(train_outputs)
        arrays = {name: tensor.numpy() for name, tensor in self.network.state_dict().items()}
        np.savez(os.path.join(self.output_folder, f"update_{self.current_epoch}.npz"), **arrays)


class RepeatableTrainer(_WithoutPlots):
    """Draws what an epoch needs from the epoch's own seed, so that it is the same in a process started again."""

    def on_train_start(self):
        super().on_train_start()
        torch.set_num_threads(1)

    def initialize(self):
        torch.manual_seed(7)
        super().initialize()

    def on_train_epoch_start(self):
        torch.manual_seed(self.current_epoch)
        np.random.seed(self.current_epoch)
        super().on_train_epoch_start()


class FailingTrainer(nnUNetTrainer):
    """Fails in its second epoch, at one site only."""

    def on_train_epoch_start(self):
        super().on_train_epoch_start()
        if self.current_epoch == 1 and "HospitalB" in self.output_folder:
            raise RuntimeError("the augmentation ran out of memory")


class PartlyRightTrainer(_WithoutPlots):
    """Predicts of label k the truth but for its first k rows, so that the Dice of every label is another one."""

    def perform_actual_validation(self, save_probabilities=False):
        truth = os.path.join(self.preprocessed_dataset_folder_base, "gt_segmentations")
        output = os.path.join(self.output_folder, "validation")
        os.makedirs(output, exist_ok=True)
        reader = self.plans_manager.image_reader_writer_class()
        ending = self.dataset_json["file_ending"]
        for case in self.do_split()[1]:
            segmentation, properties = reader.read_seg(os.path.join(truth, case + ending))
            predicted = segmentation[0].copy()
            rows = np.arange(predicted.shape[-2])[:, None]
            first = int(np.flatnonzero(predicted.any(axis=(0, 2)))[0])
            for label in np.unique(predicted[predicted > 0]).astype(int):
                predicted[(segmentation[0] == label) & (rows < first + label)] = 0
            reader.write_seg(predicted, os.path.join(output, case + ending), properties)
        manager = self.label_manager
        compute_metrics_on_folder(
            truth,
            output,
            os.path.join(output, "summary.json"),
            reader,
            ending,
            manager.foreground_regions if manager.has_regions else manager.foreground_labels,
            manager.ignore_label,
            num_processes=1,
        )
