"""Measures memory, descriptors and threads of a coordinator with many sites, and their growth with the rounds.

``python benchmarks/many_sites.py [--sites 30] [--rounds 200] [--parameters 100000]``

Each site is a process with a connection of its own and no trainer behind it: what it learns in a round is a number.
"""

import argparse
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from flwr.client import NumPyClient
from flwr.common import NDArrays, Scalar
from rich.console import Console
from rich.table import Table

from fednnunet.coordinator.run_folder import FoldFolder
from fednnunet.protocol.conversation import NO_CERTIFICATE
from fednnunet.protocol.messages import (
    Accepted,
    Hello,
    ModelPart,
    Ready,
    RoundReport,
    Shared,
    Sharing,
    TrainingOffer,
    ValidationReport,
)
from fednnunet.schema import Message
from fednnunet.transport.address import find_free_port
from fednnunet.transport.long_lived.joining import join
from fednnunet.transport.tls import Endpoint
from fednnunet.weights.encoding import ENCODINGS
from fednnunet.weights.layout import Layout, TensorSpec
from fednnunet.weights.site_model import SiteModel

HOST = "127.0.0.1"
_LOOK_SECONDS = 0.05

Reply = dict[str, Scalar]


class TinyNode(NumPyClient):
    """A node of the task ``train`` without data, as `joining.Node`.

    Parameters
    ----------
    number
        Of the site.
    parameters
        Of its network.
    """

    def __init__(self, number: int, parameters: int) -> None:
        self._layout = Layout((TensorSpec("weights", (parameters,), "float32"),))
        self._step = np.float32(1e-3 * number)
        self._model: SiteModel
        self.has_left = False
        self.certificate = NO_CERTIFICATE
        self.hello = Hello(
            site=f"Site {number:02d}", instance=str(number), task="train", method="FFE", fold="0", cases=5,
            versions={}, labels={"background": 0, "x": 1}, channels={"0": "CT"},
        )  # fmt: skip

    def get_properties(self, config: Reply) -> Reply:
        """Answer a question."""
        kind, body, data = str(config["ask"]), str(config["body"]), config.get("data", b"")
        if kind == "hello":
            return _said(self.hello)
        if kind == "offer":
            return _said(TrainingOffer(epochs=1, iterations_per_epoch=1, val_iterations_per_epoch=1))
        if kind == "start":
            return _said(Ready(tensors=list(self._layout.tensors), training_cases=5, pretrained=False))
        if kind == "share":
            self._model = SiteModel(self.hello.site, [self._layout], ENCODINGS[Sharing.from_json(body).encoding])
            return _said(Shared(digests=[self._layout.digest]))
        if kind == "accept":
            self._model.accept()
            return _said(Accepted.from_json(body))
        if kind in ("fetch", "hand"):
            return {"body": body} | self._move(kind, ModelPart.from_json(body), data)
        if kind == "finish":
            return _said(ValidationReport(mean_dice=0.5, dice={"x": 0.5}))
        if kind in ("ping", "farewell"):
            self.has_left = kind == "farewell"
            return {"body": body}
        return {"failure": "the site's policy does not allow this message (rule model.allow): ask the site"}

    def _move(self, kind: str, part: ModelPart, data: Scalar) -> Reply:
        where = (part.group, part.start, part.stop, part.round)
        if kind == "fetch":
            return {"data": self._model.send(*where)}
        assert isinstance(data, bytes)
        self._model.take(*where, data)
        return {}

    def fit(self, parameters: NDArrays, config: Reply) -> tuple[NDArrays, int, Reply]:
        """Learn a number."""
        self._model.hold(self._model.weights + self._step)
        return [], 5, {}

    def evaluate(self, parameters: NDArrays, config: Reply) -> tuple[float, int, Reply]:
        """Take the global model."""
        self._model.accept()
        return 0.0, 1, _said(RoundReport(train_loss=-0.5, val_loss=-0.25, mean_dice=0.5, dice={"x": 0.5}))


def _said(message: Message) -> Reply:
    return {"body": message.to_json()}


def _take_part(number: int, port: int, parameters: int) -> None:
    join(Endpoint(HOST, port), TinyNode(number, parameters), 60.0)


def _usage(pid: int) -> tuple[float, int, int]:
    """Return resident memory in MB, open descriptors, and threads of a process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    status = dict(line.split(":", 1) for line in lines)
    return int(status["VmRSS"].split()[0]) / 1024, len(os.listdir(f"/proc/{pid}/fd")), int(status["Threads"])


def main() -> None:
    """Train to the end, and print what the coordinator took on the way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sites", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--parameters", type=int, default=100_000)
    arguments = parser.parse_args()
    port, due = find_free_port(HOST), sorted({1, arguments.rounds // 4, arguments.rounds // 2, arguments.rounds})
    table = Table(title=f"{arguments.sites} sites, {arguments.parameters / 1e6:g} M parameters")
    for column in ("round", "seconds", "resident MB", "descriptors", "threads"):
        table.add_column(column, justify="right")
    with tempfile.TemporaryDirectory(prefix="fednnunet-many-sites-") as name:
        words = ("server", "train", "--num_clients", arguments.sites, "--port", port, "--rounds", arguments.rounds,
                 "--iterations_per_epoch", 1, "--val_iterations_per_epoch", 1, "--run_dir",
                 Path(name, "run"))  # fmt: skip
        command = [sys.executable, "-m", "fednnunet", *map(str, words)]
        with Path(name, "log").open("w") as log:
            coordinator = subprocess.Popen(command, stdout=log, stderr=log)
        # forked before anything connects: thirty processes that import all by themselves would take minutes
        processes = multiprocessing.get_context("fork")
        began = time.monotonic()
        nodes = [
            processes.Process(target=_take_part, args=(number, port, arguments.parameters), daemon=True)
            for number in range(1, arguments.sites + 1)
        ]
        for node in nodes:
            node.start()
        folder, completed = FoldFolder.of(Path(name, "run"), 0), 0
        while coordinator.poll() is None:
            completed = len(folder.history())
            if due and completed >= due[0]:
                memory, descriptors, threads = _usage(coordinator.pid)
                seconds = time.monotonic() - began
                table.add_row(str(completed), f"{seconds:.0f}", f"{memory:.0f}", str(descriptors), str(threads))
                due = [number for number in due if number > completed]
            time.sleep(_LOOK_SECONDS)
        for node in nodes:
            node.join()
        missing = sum(len(record.sites) < arguments.sites for record in folder.history())
    console = Console()
    console.print(table)
    console.print(
        f"exit status {coordinator.returncode}, {completed} rounds, {missing} without a site", highlight=False
    )


if __name__ == "__main__":
    main()
