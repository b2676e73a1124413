"""Reads each of a site's images once, and stores the measurements.

Worker processes import this module, so it does not import torch.
"""

import collections
import concurrent.futures
import concurrent.futures.process
import itertools
import json
import multiprocessing
import os
import signal
import sys
import threading
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from nnunetv2.imageio.reader_writer_registry import recursive_find_reader_writer_by_name

from fednnunet.background import Tracker
from fednnunet.errors import CaseError, FednnUNetError
from fednnunet.files import replacing
from fednnunet.fingerprint.distribution import Distribution
from fednnunet.fingerprint.measurement import CaseMeasurement, SiteMeasurement, measure_case
from fednnunet.node.case_reading import check_segmentation, read_images, read_segmentation
from fednnunet.node.dataset import CaseFiles

KEPT_MEASUREMENT = "federated_measurement.npz"
"""A site's stored measurement, beside its plans; never sent. Without it, all images are read again."""

_FORMAT = 1
_CHECK_SECONDS = 0.5


@dataclass(frozen=True)
class Extraction:
    """Inputs that determine a measurement, except for the content of the files.

    Attributes
    ----------
    reader
        Name of nnU-Net's reader class.
    channels
        Number of channels that ``dataset.json`` names.
    samples
        Foreground voxels to sample from each case.
    labels
        What may stand in a segmentation.
    """

    reader: str
    channels: int
    samples: int
    labels: tuple[int, ...]


def measure_site(
    cases: Sequence[CaseFiles], extraction: Extraction, processes: int, tracker: Tracker
) -> SiteMeasurement:
    """Measure all cases.

    Raises
    ------
    CaseError
        If a case cannot be used.
    FednnUNetError
        If a worker process dies.
    """
    tracker.total, tracker.done = len(cases), 0
    return SiteMeasurement.of(_measured(cases, extraction, min(processes, len(cases)), tracker))


def _measured(
    cases: Sequence[CaseFiles], extraction: Extraction, processes: int, tracker: Tracker
) -> Iterator[CaseMeasurement]:
    if processes == 1:
        for case in cases:
            tracker.check()
            yield measure_files(case, extraction)
            tracker.done += 1
        return
    executor = concurrent.futures.ProcessPoolExecutor(processes, _worker_context(), _prepare_worker)
    upcoming, running = iter(cases), collections.deque[concurrent.futures.Future[CaseMeasurement]]()
    try:
        while True:
            # results wait in memory until their turn, so only a few cases are begun ahead
            for case in itertools.islice(upcoming, 2 * processes - len(running)):
                running.append(executor.submit(measure_files, case, extraction))
            if not running:
                return
            while not running[0].done():
                concurrent.futures.wait([running[0]], timeout=_CHECK_SECONDS)
                tracker.check()
            yield running.popleft().result()
            tracker.done += 1
    except concurrent.futures.process.BrokenProcessPool as error:
        raise FednnUNetError(
            "a process that reads images was killed, probably for lack of memory: use fewer with -np or -npfp"
        ) from error
    finally:
        executor.shutdown(wait=False, cancel_futures=True)


def measure_files(files: CaseFiles, extraction: Extraction) -> CaseMeasurement:
    """Read and measure one case.

    Raises
    ------
    CaseError
        If its files cannot be read, or nnU-Net could not use them.
    """
    reader = recursive_find_reader_writer_by_name(extraction.reader)()
    images = read_images(reader, files, extraction.channels)
    segmentation = read_segmentation(reader, files)
    _check(files.case, images.array, segmentation.array)
    check_segmentation(files, segmentation.array, extraction.labels)
    return measure_case(images.array, segmentation.array, images.spacing, extraction.samples)


def _check(case: str, images: np.ndarray, segmentation: np.ndarray) -> None:
    if images.dtype != np.float32:
        raise CaseError(case, f"is read as {images.dtype}, not as float32", "use one of nnU-Net's own readers")
    if len(segmentation) != 1:
        problem = f"has a segmentation with {len(segmentation)} channels"
        raise CaseError(case, problem, "save it with one, the number of the label, not as a colour image")
    if images.shape[1:] != segmentation.shape[1:]:
        raise CaseError(case, "has a segmentation of another shape than its image", "correct labelsTr")
    if not np.isfinite(images).all():
        raise CaseError(case, "has NaN or infinite voxels", "replace them, for example by 0")


def _worker_context() -> multiprocessing.context.BaseContext:
    if sys.platform == "win32":
        return multiprocessing.get_context("spawn")
    # one clean process imports everything once, workers are forks of it: no threads or locks of this process come along
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["__main__", __name__])
    return context


def _prepare_worker() -> None:
    """Let a worker end with its node, and only with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def follow() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def identity(cases: Sequence[CaseFiles], extraction: Extraction) -> str:
    """Return a text that changes with whatever a measurement depends on: all files (by size and time), `extraction`."""
    files = [path for case in cases for path in case.files]
    states = [(path, os.stat(path).st_size, os.stat(path).st_mtime_ns) for path in files if os.path.exists(path)]
    return json.dumps([_FORMAT, asdict(extraction), states])


def save_measurement(measurement: SiteMeasurement, path: Path, identity: str) -> None:
    """Keep a measurement for the next task; a reader never sees half of it."""
    arrays = {"identity": np.array(identity), "spacings": measurement.spacings, "shapes": measurement.shapes}
    arrays["relative_sizes"] = measurement.relative_sizes
    for channel, samples in enumerate(measurement.samples):
        arrays[f"keys_{channel}"] = samples.keys
        largest = int(samples.counts.max(initial=0))
        arrays[f"counts_{channel}"] = samples.counts.astype(np.min_scalar_type(largest))
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]


def load_measurement(path: Path, identity: str) -> SiteMeasurement | None:
    """Return the stored measurement; ``None`` if it is missing, damaged, or of other files."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            if str(arrays["identity"]) != identity:
                return None
            channels = sum(name.startswith("keys_") for name in arrays.files)
            return SiteMeasurement(
                arrays["spacings"],
                arrays["shapes"],
                arrays["relative_sizes"],
                tuple(
                    Distribution(arrays[f"keys_{channel}"], arrays[f"counts_{channel}"].astype(np.int64), "float32")
                    for channel in range(channels)
                ),
            )
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        return None
