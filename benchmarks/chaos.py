"""Kills, stops and disconnects the processes of a training at random, and checks that its result is unaffected.

``python benchmarks/chaos.py [--minutes 15] [--rounds 40] [--seed 0] [--tcp 5000] [--tls 500] [--no_hostile]
[--secure]``

One coordinator and three nodes on loopback, over TLS and with a list of sites, each node behind a proxy that can drop
its connections. A fourth site, which is on the list, answers nonsense (``hostile_site.py``), and a crowd of strangers
keeps connections open (``crowd.py``). Whatever ends with another status than 0 is started again with ``--c``, as an
operator or a scheduler would do. Trainings follow each other until the time is over. The figures at the end: what was
done to them, and whether any round was lost.

With ``--secure``, updates are terms of masked sums. There is no hostile site then: one that masks wrongly ends the
coordinator, which cannot tell who it is.
"""

import argparse
import contextlib
import itertools
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import torch
from rich.console import Console

from fednnunet.coordinator.run_folder import FoldFolder
from fednnunet.demo.hospitals import write_hospitals
from fednnunet.security.certificates import create_certificates
from fednnunet.security.identity import create_key, entry
from fednnunet.transport.address import find_free_port

HOST = "127.0.0.1"
TRAINER = "ChaosTrainer"
TRAINERS = Path(__file__).parent / "trainers"
HOSTILE = "hostile"

_LOOK_SECONDS = 0.2
_LONGEST_STOP_SECONDS = 4.0
_LATE_SECONDS = 60.0
_SLOW_SECONDS = 30.0
"""After which something is done to a training although no round is over: a busy machine needs longer for a start."""


class DroppingProxy:
    """Forwards connections to a port on loopback, until it is told to drop them.

    Parameters
    ----------
    target
        The port that is forwarded to.
    """

    def __init__(self, target: int) -> None:
        self._target = target
        self._open: list[socket.socket] = []
        self._listener = socket.create_server((HOST, 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def drop(self) -> None:
        """End all connections."""
        dropped, self._open = self._open, []
        for one in dropped:
            _close(one)

    def close(self) -> None:
        """Accept no more connections, and end those that there are."""
        _close(self._listener)
        self.drop()

    def _accept(self) -> None:
        while True:
            try:
                node, _ = self._listener.accept()
            except OSError:  # closed
                return
            try:
                coordinator = socket.create_connection((HOST, self._target))
            except OSError:  # it is not there
                _close(node)
                continue
            self._open += [node, coordinator]
            for source, target in ((node, coordinator), (coordinator, node)):
                threading.Thread(target=self._forward, args=(source, target), daemon=True).start()

    def _forward(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                target.sendall(data)
        _close(source)
        _close(target)


def _close(one: socket.socket) -> None:
    with contextlib.suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
    one.close()


@dataclass
class Figures:
    """What was done to a training, and what came of it."""

    rounds: int = 0
    attempts: int = 0
    lost: int = 0
    done: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    strangers: int = 0

    def __add__(self, other: Self) -> Self:
        pairs = {name: getattr(self, name) + getattr(other, name) for name in vars(self)}
        return type(self)(**pairs)


class Chaos:
    """One training, and what happens to it.

    Parameters
    ----------
    folder
        For run folder and logs.
    environment
        Of all processes, with nnU-Net's folders: the datasets are planned and preprocessed.
    datasets
        Of the sites.
    rounds
        To train.
    seed
        Of all that is done at random.
    crowd
        How many connections strangers keep open: without a word, and after a handshake of TLS.
    has_hostile_site
        Whether one more site takes part, which answers nonsense.
    pause
        Seconds between two deeds, at least and at most.
    secure
        Whether updates are terms of masked sums.
    """

    def __init__(
        self,
        folder: Path,
        environment: Mapping[str, str],
        datasets: Sequence[str],
        rounds: int,
        seed: int,
        crowd: tuple[int, int] = (0, 0),
        has_hostile_site: bool = False,
        pause: tuple[float, float] = (1.0, 6.0),
        secure: bool = False,
    ) -> None:
        self._folder = folder
        self._run_dir = folder / "run"
        self._rounds = rounds
        self._random = random.Random(seed)
        self._datasets = datasets
        self._crowd = crowd
        self._pause = pause
        self._port = find_free_port(HOST)
        self._proxies = {name: DroppingProxy(self._port) for name in datasets}
        self._full_disks = {name: folder / f"the disk of {name} is full" for name in datasets}
        sites = [*datasets, *([HOSTILE] if has_hostile_site else [])]
        trust = _make_trust(folder / "trust", sites)
        common = {**environment, "nnUNet_extTrainer": str(TRAINERS), "nnUNet_results": str(folder / "nnUNet_results")}
        schedule = ["--rounds", rounds, "--iterations_per_epoch", 2, "--val_iterations_per_epoch", 1]
        patience = ["--contact_timeout", 20, *(["--secure"] if secure else [])]
        if has_hostile_site:
            # the honest sites go on without it, and their median does not follow it
            patience += ["--min_clients", len(datasets), "--round_timeout", 10, "--aggregation", "median"]
        self._commands: dict[str, tuple[list[str], dict[str, str]]] = {
            "coordinator": (
                _words("server", "train", "--num_clients", len(sites), "--port", self._port, *schedule,
                       "--run_dir", self._run_dir, "--encoding", "int8", *patience, "--sites", trust / "sites.toml",
                       "--tls-cert", trust / "server.pem", "--tls-key", trust / "server.key"),
                common,
            )
        }  # fmt: skip
        for name in sites:
            dataset = datasets[0] if name == HOSTILE else name
            proxy = self._proxies.get(name)
            words = ["train", dataset, "2d", 0, "-tr", TRAINER, "-device", "cpu", "--host", HOST,
                     "--port", self._port if proxy is None else proxy.port, "--contact_timeout", 20,
                     "--ca-cert", trust / "ca.pem", "--key", trust / f"{name}.key",
                     *(["--sites", trust / "sites.toml"] if secure else [])]  # fmt: skip
            disk = {"CHAOS_FULL_DISK": str(self._full_disks.get(name, folder / "never full"))}
            if name == HOSTILE:
                script = Path(__file__).parent / "hostile_site.py"
                results = {"nnUNet_results": str(folder / "hostile_results")}
                command = [sys.executable, str(script), str(seed), *map(str, words)]
                self._commands[name] = (command, {**common, **disk, **results})
            else:
                self._commands[name] = (_words("client", *words), {**common, **disk})
        for place in ("nnUNet_results", "hostile_results"):
            (folder / place).mkdir(parents=True)
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._stopped: dict[str, float] = {}
        self._ended_at: float | None = None
        self.figures = Figures()

    def run(self) -> Figures:
        """Train to the end, and return what was done meanwhile."""
        began = time.monotonic()
        folder = FoldFolder.of(self._run_dir, 0)
        history = at_last_deed = 0
        due = self._next_deed()
        crowd = self._gather()
        try:
            for name in self._commands:
                self._start(name)
            while any(process.poll() != 0 for name, process in self._processes.items() if name != HOSTILE):
                time.sleep(_LOOK_SECONDS)
                self._start_again()
                records = folder.history()
                self.figures.lost += max(0, history - len(records))
                history = len(records)
                now = time.monotonic()
                has_gone_on = history > at_last_deed or now > due + _SLOW_SECONDS
                if 1 <= history < self._rounds and now > due and has_gone_on:
                    self._do_something()
                    due, at_last_deed = self._next_deed(), history
        finally:
            for process in self._processes.values():
                process.kill()
                process.wait()
            for proxy in self._proxies.values():
                proxy.close()
            said, _ = crowd.communicate()
            self.figures.strangers = int(said.split()[-1])
            self.figures.done["nonsense of the hostile site"] += self.output(HOSTILE).count("nonsense: ")
        self.figures.rounds = len(folder.history())
        self.figures.attempts = sum(record.attempts for record in folder.history())
        self.figures.seconds = time.monotonic() - began
        return self.figures

    def final_weights(self) -> list[dict[str, torch.Tensor]]:
        """Return the weights with which each site has ended."""
        pattern = f"nnUNet_results/*/{TRAINER}__nnUNetPlans__2d/fold_0/checkpoint_final.pth"
        paths = sorted(self._folder.glob(pattern))
        # our own files, written a moment ago
        return [torch.load(path, map_location="cpu", weights_only=False)["network_weights"] for path in paths]

    def output(self, name: str) -> str:
        """Return all that the processes of a name have written."""
        path = self._folder / f"{name}.log"
        return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""

    def _gather(self) -> "subprocess.Popen[bytes]":
        """Start the crowd of strangers, which ends with its standard input."""
        script, (tcp, tls) = Path(__file__).parent / "crowd.py", self._crowd
        words = [sys.executable, script, self._port, "--tcp", tcp, "--tls", tls]
        return subprocess.Popen(list(map(str, words)), stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def _next_deed(self) -> float:
        return time.monotonic() + self._random.uniform(*self._pause)

    def _start(self, name: str, *further: str) -> None:
        words, environment = self._commands[name]
        with (self._folder / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                [*words, *further], env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def _start_again(self) -> None:
        for name, until in list(self._stopped.items()):
            if time.monotonic() > until:
                self._processes[name].send_signal(signal.SIGCONT)
                del self._stopped[name]
        ended = self._processes["coordinator"].poll() == 0
        self._ended_at = (self._ended_at or time.monotonic()) if ended else None
        if self._ended_at is not None and time.monotonic() > self._ended_at + _LATE_SECONDS:
            # a site was away when all was done, and hears of it from a coordinator that goes on
            self.figures.done["coordinator started again for a site that came late"] += 1
            self._start("coordinator", "--c")
        for name, process in self._processes.items():
            if process.poll() not in (None, 0):
                self._stopped.pop(name, None)
                if name in self._full_disks:
                    self._full_disks[name].unlink(missing_ok=True)
                what = "hostile site" if name == HOSTILE else "processes"
                self.figures.done[f"{what} started again"] += 1
                self._start(name, "--c")

    def _do_something(self) -> None:
        deeds: dict[str, Callable[[], None]] = {
            "coordinator killed": lambda: self._processes["coordinator"].kill(),
            "node killed": lambda: self._processes[self._some_site()].kill(),
            "process stopped for seconds": self._stop_one,
            "connections dropped": lambda: self._proxies[self._some_site()].drop(),
            "all killed": lambda: [process.kill() for process in self._processes.values()] and None,
        }
        (deed,) = self._random.choices(list(deeds), weights=[2, 4, 3, 4, 1])
        # once in each training, however short it is
        deeds["disk full"] = lambda: self._full_disks[self._some_site()].touch()
        deed = next((first for first in ("disk full", "node killed") if not self.figures.done[first]), deed)
        self.figures.done[deed] += 1
        deeds[deed]()

    def _some_site(self) -> str:
        return self._random.choice(list(self._datasets))

    def _stop_one(self) -> None:
        name = self._random.choice([name for name in self._processes if name != HOSTILE])
        if self._processes[name].poll() is None and name not in self._stopped:
            self._processes[name].send_signal(signal.SIGSTOP)
            self._stopped[name] = time.monotonic() + self._random.uniform(0.5, _LONGEST_STOP_SECONDS)


def _make_trust(folder: Path, sites: Sequence[str]) -> Path:
    """Make certificates, keys and the list of sites."""
    create_certificates([HOST], folder)
    entries = [entry(create_key(site, folder)[2]) for site in sites]
    (folder / "sites.toml").write_text("\n".join(entries), encoding="utf-8")
    return folder


def _words(*words: object) -> list[str]:
    return [sys.executable, "-m", "fednnunet", *map(str, words)]


def main() -> None:
    """Train again and again until the time is over, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=15.0)
    parser.add_argument("--rounds", type=int, default=40, help="of each training")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tcp", type=int, default=5000, help="connections of strangers that say nothing")
    parser.add_argument("--tls", type=int, default=500, help="connections of strangers after a handshake")
    parser.add_argument("--no_hostile", action="store_true", help="without the site that answers nonsense")
    parser.add_argument("--secure", action="store_true", help="mask updates; without the site that answers nonsense")
    arguments = parser.parse_args()
    console = Console()
    with tempfile.TemporaryDirectory(prefix="fednnunet-chaos-") as name:
        folder = Path(name)
        environment, datasets = _prepare(folder)
        end, total, trainings = time.monotonic() + 60 * arguments.minutes, Figures(), 0
        while time.monotonic() < end:
            chaos = Chaos(
                folder / str(trainings),
                environment,
                datasets,
                arguments.rounds,
                arguments.seed + trainings,
                (arguments.tcp, arguments.tls),
                not (arguments.no_hostile or arguments.secure),
                secure=arguments.secure,
            )
            figures = chaos.run()
            equal = all(
                torch.equal(one[key], other[key])
                for one, other in itertools.pairwise(chaos.final_weights())
                for key in one
            )
            total, trainings = total + figures, trainings + 1
            console.print(
                f"training {trainings}: {figures.rounds}/{arguments.rounds} rounds in {figures.attempts} attempts, "
                f"{figures.lost} lost, final weights {'equal' if equal else 'DIFFER'}, "
                f"{figures.seconds:.0f} s, {figures.strangers} strangers, {json.dumps(figures.done)}",
                highlight=False,
            )
    console.print(
        f"{trainings} trainings, {total.rounds} rounds in {total.attempts} attempts, {total.lost} lost, "
        f"{total.seconds / 60:.1f} minutes, {total.strangers} strangers, {json.dumps(total.done)}",
        highlight=False,
    )


def _prepare(folder: Path) -> tuple[dict[str, str], list[str]]:
    """Write three hospitals, plan and preprocess, with a network that trains in milliseconds."""
    environment = {
        **os.environ,
        **{f"nnUNet_{part}": str(folder / f"nnUNet_{part}") for part in ("raw", "preprocessed", "results")},
        "nnUNet_n_proc_DA": "0",
        "nnUNet_def_n_proc": "1",
        "OMP_NUM_THREADS": "1",
    }
    datasets = write_hospitals(folder / "nnUNet_raw", training_cases=6, test_cases=1, resolution=0.75)
    ids = " ".join(str(dataset.dataset_id) for dataset in datasets)
    subprocess.run(_words("run", "plan_and_preprocess", ids, "2d"), env=environment, check=True, capture_output=True)
    for dataset in datasets:
        path = folder / "nnUNet_preprocessed" / dataset.name / "nnUNetPlans.json"
        plans = json.loads(path.read_text())
        kwargs = plans["configurations"]["2d"]["architecture"]["arch_kwargs"]
        kwargs["features_per_stage"] = [4 + 2 * stage for stage in range(kwargs["n_stages"])]
        path.write_text(json.dumps(plans))
    return environment, [dataset.name for dataset in datasets]


if __name__ == "__main__":
    main()
