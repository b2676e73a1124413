"""Compares the cost of the federated fingerprint with nnU-Net's extractor on the pooled data, in one run.

``python benchmarks/fingerprint.py [--cases 6 8 10] [--size 128] [--channels 1] [--processes 3] [--float]``

Writes CT-like volumes (``--float``: intensities that hardly repeat, the dearest case), lets nnU-Net extract the pooled
dataset, and a federation of one node per number of cases extract the same data, with the same processes in all. Seconds
are those from the first image to the fingerprint; starting Python and importing libraries is told apart.
"""

import argparse
import contextlib
import itertools
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from rich.console import Console
from rich.table import Table

from fednnunet.events.event_files import EventReader
from fednnunet.events.events import FingerprintFound, StageStarted
from fednnunet.transport.address import find_free_port

FIRST_ID = 951
POOLED_ID = 950
_EXTRACT = """
import time
from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import DatasetFingerprintExtractor
if __name__ == "__main__":
    extractor = DatasetFingerprintExtractor({dataset}, {processes})
    extractor.show_progress_bar = False
    began = time.monotonic()
    extractor.run(True)
    print(time.monotonic() - began)
"""


def main() -> None:
    """Write the data, extract it both ways, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, nargs="+", default=[6, 8, 10], help="cases of each site")
    parser.add_argument("--size", type=int, default=128, help="edge of the volumes, voxels")
    parser.add_argument("--channels", type=int, default=1)
    parser.add_argument("--processes", type=int, default=3, help="reading images, in all; shared out over the sites")
    parser.add_argument("--float", action="store_true", help="intensities that hardly repeat")
    parser.add_argument("--repeats", type=int, default=2, help="runs of each kind, in turn; the fastest counts")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fednnunet-benchmark-") as folder:
        bench = Bench(Path(folder), arguments)
        bench.write()
        stock, federated = [], []
        for _ in range(arguments.repeats):
            stock.append(bench.stock())
            federated.append(bench.federated())
    best, ours = min(stock, key=lambda run: run["seconds"]), min(federated, key=lambda run: run["seconds"])
    size = f"{arguments.size}³" + (", floats" if arguments.float else "")
    table = Table(title=f"{sum(arguments.cases)} cases of {size}, {arguments.channels} channels, "
                        f"{arguments.processes} processes, {os.cpu_count()} cores")  # fmt: skip
    for column in ("", "nnU-Net, pooled", "federated", "ratio"):
        table.add_column(column, justify="right" if column else "left")
    for name, key, digits in (("fingerprint, s", "seconds", 2), ("whole command, s", "command", 2)):
        ratio = ours[key] / best[key]
        table.add_row(name, f"{best[key]:.{digits}f}", f"{ours[key]:.{digits}f}", f"{ratio:.2f}")
    table.add_row(
        "peak memory, MB", f"{best['memory'] / 1e6:.0f}", f"{ours['memory'] / 1e6:.0f} (largest site)",
        f"{ours['memory'] / best['memory']:.2f}",
    )  # fmt: skip
    table.add_row("questions", "", str(ours["questions"]), "")
    table.add_row("answers per site, kB", "", f"{ours['bytes'] / 1000:.1f}", "")
    Console().print(table)


class Bench:
    """A folder with the sites' datasets and the pooled one.

    Parameters
    ----------
    folder
        Where to put nnU-Net's folders.
    arguments
        The command line.
    """

    def __init__(self, folder: Path, arguments: argparse.Namespace) -> None:
        self._folder = folder
        self._arguments = arguments
        self._sites = [FIRST_ID + index for index in range(len(arguments.cases))]
        self._runs = itertools.count()

    def write(self) -> None:
        """Write all cases, and link them into the pooled dataset."""
        rng = np.random.default_rng(0)
        pooled = self._dataset(POOLED_ID, sum(self._arguments.cases))
        for site, cases in zip(self._sites, self._arguments.cases, strict=True):
            folder = self._dataset(site, cases)
            for case in range(cases):
                self._write_case(folder, f"{site}_{case}", rng)
            for part in ("imagesTr", "labelsTr"):
                for file in (folder / part).iterdir():
                    (pooled / part / file.name).symlink_to(file)

    def stock(self) -> dict[str, Any]:
        """Run nnU-Net's extractor on the pooled data."""
        script = self._folder / "extract.py"
        script.write_text(_EXTRACT.format(dataset=POOLED_ID, processes=self._arguments.processes))
        began = time.monotonic()
        process = self._start(str(script), stdout=subprocess.PIPE)
        with _peak_memory([process]) as peaks:
            output, _ = process.communicate()
        _check(process)
        return {
            "seconds": float(output.splitlines()[-1]),
            "command": time.monotonic() - began,
            "memory": max(peaks.values()),
        }

    def federated(self) -> dict[str, Any]:
        """Run a coordinator and one node per site."""
        port = find_free_port("127.0.0.1")
        events = self._folder / f"events_{next(self._runs)}.jsonl"
        task = ["-m", "fednnunet"]
        words = ["extract_fingerprint", "--port", str(port)]
        share = str(max(1, self._arguments.processes // len(self._sites)))
        began = time.monotonic()
        server = self._start(
            *task, "server", *words, "--num_clients", str(len(self._sites)), "--progress_file", str(events)
        )
        nodes = [self._start(*task, "client", *words, str(site), "-np", share, "--clean") for site in self._sites]
        reader, at, found = EventReader(events), 0.0, None
        result: dict[str, Any] = {}
        with _peak_memory(nodes) as peaks:
            while server.poll() is None:
                for event in reader.new_events():
                    if isinstance(event, StageStarted) and event.stage == "reading":
                        at = time.monotonic()
                    if isinstance(event, FingerprintFound):
                        result["seconds"], found = time.monotonic() - at, event
                time.sleep(0.02)
            for process in (server, *nodes):
                process.wait()
                _check(process)
        assert found is not None
        return result | {
            "command": time.monotonic() - began,
            "memory": max(peaks.values()),
            "questions": found.questions,
            "bytes": max(found.answered_bytes.values()),
        }

    def _dataset(self, number: int, cases: int) -> Path:
        folder = self._folder / "nnUNet_raw" / f"Dataset{number}_Bench"
        for part in ("imagesTr", "labelsTr"):
            (folder / part).mkdir(parents=True)
        content = {
            "channel_names": {str(channel): "CT" for channel in range(self._arguments.channels)},
            "labels": {"background": 0, "organ": 1},
            "numTraining": cases,
            "file_ending": ".nii.gz",
        }
        (folder / "dataset.json").write_text(json.dumps(content))
        return folder

    def _write_case(self, folder: Path, case: str, rng: np.random.Generator) -> None:
        size = self._arguments.size
        z, y, x = np.ogrid[:size, :size, :size]
        inside = (z - size / 2) ** 2 + (y - size / 2) ** 2 + (x - size / 2) ** 2 < (size / 3) ** 2
        for channel in range(self._arguments.channels):
            image = rng.normal(0, 30, inside.shape) + 200 * inside
            image = image.astype(np.float32) if self._arguments.float else image.astype(np.int16)
            sitk.WriteImage(sitk.GetImageFromArray(image), str(folder / "imagesTr" / f"{case}_{channel:04d}.nii.gz"))
        label = sitk.GetImageFromArray(inside.astype(np.uint8))
        sitk.WriteImage(label, str(folder / "labelsTr" / f"{case}.nii.gz"))

    def _start(self, *words: str, stdout: int = subprocess.DEVNULL) -> "subprocess.Popen[str]":
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
            environment[name] = str(self._folder / name)
            (self._folder / name).mkdir(exist_ok=True)
        return subprocess.Popen(
            [sys.executable, *words], env=environment, stdout=stdout, stderr=subprocess.DEVNULL, text=True
        )


@contextlib.contextmanager
def _peak_memory(processes: Sequence["subprocess.Popen[str]"]) -> Iterator[dict[int, int]]:
    """Sample the memory of each process together with its descendants; pages that they share count once."""
    peaks = {process.pid: 0 for process in processes}
    ended = threading.Event()

    def sample() -> None:
        while not ended.wait(0.1):
            children = _children()
            for root in peaks:
                peaks[root] = max(peaks[root], sum(_memory(pid) for pid in _tree(root, children)))

    sampler = threading.Thread(target=sample)
    sampler.start()
    try:
        yield peaks
    finally:
        ended.set()
        sampler.join()


def _children() -> dict[int, list[int]]:
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(stat.parent.name))
    return children


def _tree(root: int, children: dict[int, list[int]]) -> Iterator[int]:
    yield root
    for child in children.get(root, []):
        yield from _tree(child, children)


def _memory(pid: int) -> int:
    """Return the proportional set size, bytes; 0 for a process that has ended."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0


def _check(process: "subprocess.Popen[str]") -> None:
    if process.returncode:
        raise SystemExit(f"{process.args} failed with status {process.returncode}")


if __name__ == "__main__":
    main()
