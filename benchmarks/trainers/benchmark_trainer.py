"""A short training, the same for nnU-Net and for the federation; nnU-Net finds it through nnUNet_extTrainer."""

import os

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer


class BenchmarkTrainer(nnUNetTrainer):
    """Takes epochs, iterations and threads from the environment, so that only the driver differs."""

    def __init__(self, plans: dict, configuration: str, fold: int, dataset_json: dict, device: torch.device):
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.num_epochs = int(os.environ["BENCHMARK_EPOCHS"])
        self.num_iterations_per_epoch = int(os.environ["BENCHMARK_ITERATIONS"])
        self.num_val_iterations_per_epoch = int(os.environ["BENCHMARK_VAL_ITERATIONS"])

    def on_train_start(self):
        # nnUNetv2_train takes all cores on CPU, also when several trainings share them
        torch.set_num_threads(int(os.environ["BENCHMARK_THREADS"]))
        super().on_train_start()
