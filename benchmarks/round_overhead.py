"""Compares the cost of a federated round with an epoch of plain nnU-Net, side by side in one run.

``python benchmarks/round_overhead.py [--epochs 8] [--iterations 10] [--repeats 2] [--device cpu]``

Seconds per epoch or round are the median distance between two starts of an epoch in nnU-Net's own log, which holds all
that happens in between: training, exchange of weights, validation, plot, checkpoints.
"""

import argparse
import itertools
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from fednnunet.demo.hospitals import write_hospitals

TRAINER = "BenchmarkTrainer"


def main() -> None:
    """Prepare three sites, train them in turn by nnU-Net and by the federation, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=8, help="epochs or rounds of each training")
    parser.add_argument("--iterations", type=int, default=10, help="training iterations of an epoch")
    parser.add_argument("--val_iterations", type=int, default=2, help="validation iterations of an epoch")
    parser.add_argument("--repeats", type=int, default=2, help="trainings of each kind, in turn")
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()

    console = Console()
    with tempfile.TemporaryDirectory(prefix="fednnunet-benchmark-") as folder:
        bench = Bench(Path(folder), arguments)
        bench.prepare()
        seconds: dict[str, list[float]] = {}
        for repeat in range(arguments.repeats):
            for sites in (1, 3):
                for driver in (bench.plain, bench.federated):
                    name = f"{driver.__name__}, {sites} site{'s' if sites > 1 else ''}"
                    seconds.setdefault(name, []).append(driver(sites))
                    console.print(
                        f"{repeat + 1}/{arguments.repeats} {name}: {seconds[name][-1]:.3f} s", highlight=False
                    )
        parameters = bench.parameters()

    table = Table(
        title=f"{parameters / 1e6:.1f} M parameters, {arguments.iterations} iterations, {os.cpu_count()} cores"
    )
    for column in ("", "seconds per epoch or round", "ratio to plain nnU-Net"):
        table.add_column(column, justify="left" if not column else "right")
    for name, values in seconds.items():
        plain = seconds[name.replace("federated", "plain")]
        ratio = statistics.median(values) / statistics.median(plain)
        table.add_row(name, f"{statistics.median(values):.3f}", f"{ratio:.3f}")
    console.print(table)


class Bench:
    """Three prepared sites of equal size, and the two ways to train them."""

    def __init__(self, folder: Path, arguments: argparse.Namespace) -> None:
        self._folder = folder
        self._arguments = arguments
        self._results = 0

    def prepare(self) -> None:
        """Write three hospitals, plan and preprocess."""
        datasets = write_hospitals(self._folder / "nnUNet_raw", training_cases=20, test_cases=1)
        self._ids = [str(dataset.dataset_id) for dataset in datasets]
        self._names = [dataset.name for dataset in datasets]
        self._run([*self._fednnunet("plan_and_preprocess", self._ids), "2d"], self._environment(sites=1))

    def plain(self, sites: int) -> float:
        """Train `sites` sites at the same time, each by ``nnUNetv2_train``, and return seconds per epoch."""
        environment = self._environment(sites)
        command = str(Path(sys.executable).with_name("nnUNetv2_train"))
        trainings = [
            subprocess.Popen(
                [command, name, "2d", "0", "-tr", TRAINER, "-device", self._arguments.device],
                env=environment,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            for name in self._names[:sites]
        ]
        if any([training.wait() != 0 for training in trainings]):
            sys.exit("nnUNetv2_train failed")
        return self._seconds(environment, sites)

    def federated(self, sites: int) -> float:
        """Train `sites` sites together and return seconds per round."""
        environment = self._environment(sites)
        words = ["2d", "0", "-tr", TRAINER, "-device", self._arguments.device]
        self._run([*self._fednnunet("train", self._ids[:sites]), *words], environment)
        return self._seconds(environment, sites)

    def parameters(self) -> int:
        """Return the number of distinct parameters of the trained network."""
        weights = self._checkpoint(self._environment_of_last, self._names[0])["network_weights"]
        return sum(tensor.numel() for tensor in {tensor.data_ptr(): tensor for tensor in weights.values()}.values())

    def _fednnunet(self, task: str, ids: list[str]) -> list[str]:
        return [sys.executable, "-m", "fednnunet", "run", task, " ".join(ids)]

    def _environment(self, sites: int) -> dict[str, str]:
        """Return an environment with a results folder of its own, in which `sites` sites share the cores."""
        self._results += 1
        threads = str(max(1, (os.cpu_count() or 1) // sites))
        environment = {
            **os.environ,
            "nnUNet_raw": str(self._folder / "nnUNet_raw"),
            "nnUNet_preprocessed": str(self._folder / "nnUNet_preprocessed"),
            "nnUNet_results": str(self._folder / f"nnUNet_results_{self._results}"),
            "nnUNet_extTrainer": str(Path(__file__).parent / "trainers"),
            "nnUNet_n_proc_DA": "1",
            "nnUNet_def_n_proc": "1",
            "OMP_NUM_THREADS": threads,
            "BENCHMARK_THREADS": threads,
            "BENCHMARK_EPOCHS": str(self._arguments.epochs),
            "BENCHMARK_ITERATIONS": str(self._arguments.iterations),
            "BENCHMARK_VAL_ITERATIONS": str(self._arguments.val_iterations),
        }
        self._environment_of_last = environment
        return environment

    def _run(self, command: list[str], environment: dict[str, str]) -> None:
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit(done.stdout + done.stderr)

    def _seconds(self, environment: dict[str, str], sites: int) -> float:
        """Return the median distance of two epochs' starts over all sites, without the first, which warms up."""
        distances = []
        for name in self._names[:sites]:
            starts = self._checkpoint(environment, name)["logging"]["epoch_start_timestamps"]
            distances += [later - earlier for earlier, later in itertools.pairwise(starts[1:])]
        return statistics.median(distances)

    def _checkpoint(self, environment: dict[str, str], name: str) -> dict:
        fold = Path(environment["nnUNet_results"], name, f"{TRAINER}__nnUNetPlans__2d", "fold_0")
        return torch.load(fold / "checkpoint_final.pth", map_location="cpu", weights_only=False)  # our own file


if __name__ == "__main__":
    main()
