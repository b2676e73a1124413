"""A training whose processes a test kills and starts again."""

import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fednnunet.coordinator.run_folder import FoldFolder, RoundRecord
from fednnunet.transport.address import find_free_port
from tests.system.conftest import SITES
from tests.system.consortium import Consortium
from tests.system.workspace import Workspace, finish

TRAINER = "RepeatableTrainer"
ROUNDS = 40  # of a tenth of a second each: a kill after the second one arrives long before the last


class Training:
    """A coordinator and its nodes, each started, killed and started again by itself.

    Parameters
    ----------
    federation
        Planned and preprocessed.
    name
        Of the folder of its results.
    flags
        Of the coordinator.
    consortium
        Whose certificate, keys and policies are used, for masked sums; ``None`` for a training without any.
    rounds
        To train.
    """

    def __init__(
        self,
        federation: Workspace,
        name: str,
        *flags: object,
        consortium: Consortium | None = None,
        rounds: int = ROUNDS,
    ) -> None:
        self.workspace = replace(federation, results_name=f"results of {name}")
        self.workspace.results.mkdir()
        port = find_free_port("127.0.0.1")
        if consortium is not None:
            flags = (*flags, *consortium.server_flags(), "--secure")
        self._words: dict[str, tuple[object, ...]] = {
            "server": (
                *("server", "train", "--num_clients", 3, "--port", port, "--rounds", rounds),
                *("--iterations_per_epoch", 2, "--val_iterations_per_epoch", 1, *flags),
            )
        }
        for number, site in enumerate(SITES):
            trust = () if consortium is None else consortium.node_flags(number)
            self._words[site] = (
                "client",
                "train",
                site,
                "2d",
                0,
                "-tr",
                TRAINER,
                "-device",
                "cpu",
                "--port",
                port,
                *trust,
            )
        self._processes: dict[str, subprocess.Popen[str]] = {}

    def __enter__(self) -> "Training":
        self.start(*self._words)
        return self

    def __exit__(self, *_: object) -> None:
        self.kill(*self._processes)

    def start(self, *names: str, further: Sequence[object] = ()) -> None:
        for name in names:
            self._processes[name] = self.workspace.start(*map(str, (*self._words[name], *further)))

    def kill(self, *names: str) -> None:
        for name in names:
            process = self._processes[name]
            if process.poll() is None:
                process.kill()
                process.communicate()

    def follow(self, text: str) -> str:
        """Read what the coordinator says until it says `text`, and return that line."""
        output = self._processes["server"].stdout
        assert output is not None
        said = []
        for line in output:
            if text in line:
                return line
            said.append(line)
        raise AssertionError(f"the coordinator ended without saying '{text}': {''.join(said)}")

    def end(self, *names: str) -> None:
        """Wait until processes have ended, with success."""
        for name in names:
            status, output = finish(self._processes[name])
            assert status == 0, f"{name}: {output}"

    def weights(self, *sites: str) -> list[dict[str, Any]]:
        return [self.workspace.checkpoint(site, trainer=TRAINER)["network_weights"] for site in sites]

    @property
    def run_dir(self) -> Path:
        (run_dir,) = (self.workspace.results / "fednnunet_runs").glob(f"{TRAINER}__nnUNetPlans__2d__3_sites_*")
        return run_dir

    @property
    def history(self) -> list[RoundRecord]:
        return FoldFolder.of(self.run_dir, 0).history()
