"""Trainings whose processes die, through the real commands: they end as if nothing had happened."""

import itertools
import json
import shutil
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.chaos import Chaos
from tests.system.conftest import SITES
from tests.system.killed_training import ROUNDS, TRAINER, Training
from tests.system.workspace import Workspace, equal_weights, finish

pytestmark = pytest.mark.system

# all that a round can depend on: rounding errors at both ends, and a server optimizer
STATEFUL = ("--encoding", "int8", "--server_optimizer", "adam", "--server_lr", 0.001)


@pytest.fixture(scope="module")
def undisturbed(federation: Workspace) -> Iterator[dict[str, Any]]:
    """Return the weights with which a training ends that nobody disturbs."""
    with Training(federation, "peace", *STATEFUL) as training:
        training.end("server", *SITES)
        first, *others = training.weights(*SITES)
        assert all(equal_weights(first, other) for other in others)
        yield first


def test_a_training_that_was_killed_again_and_again_ends_with_the_same_bits(
    federation: Workspace, undisturbed: dict[str, Any]
) -> None:
    with Training(federation, "war", *STATEFUL) as training:
        training.follow(f"round 2/{ROUNDS}")  # everything, at the end of a round
        training.kill("server", *SITES)
        training.start("server", *SITES, further=["--c"])
        training.follow(f"round 3/{ROUNDS}")  # a node, somewhere in a round
        training.kill(SITES[1])
        training.start(SITES[1], further=["--c"])
        training.follow(f"round 4/{ROUNDS}")  # the coordinator, whose nodes nobody touches
        training.kill("server")
        training.start("server", further=["--c"])
        training.end("server", *SITES)
        assert [record.round for record in training.history] == list(range(1, ROUNDS + 1))
        for weights in training.weights(*SITES):
            assert equal_weights(weights, undisturbed)


def test_a_training_in_one_process_that_was_stopped_ends_with_the_same_bits(
    federation: Workspace, undisturbed: dict[str, Any]
) -> None:
    workspace = replace(federation, results_name="results of a stopped process")
    workspace.results.mkdir()
    words = (
        *("run", "train", "901 902 903", "2d", 0, "-tr", TRAINER, "-device", "cpu", "--rounds", ROUNDS),
        *("--iterations_per_epoch", 2, "--val_iterations_per_epoch", 1, *STATEFUL, "--in_process"),
    )
    process = workspace.start(*map(str, words))
    assert process.stdout is not None
    assert any(f"round 2/{ROUNDS}" in line for line in process.stdout)
    process.send_signal(signal.SIGINT)
    status, output = finish(process)
    assert status == 128 + signal.SIGINT
    assert "Stopped." in output
    assert f"round {ROUNDS}/{ROUNDS}" not in output
    assert "Traceback" not in output

    output = workspace.succeed(*map(str, words), "--c")
    assert "round 1/" not in output
    assert f"round {ROUNDS}/{ROUNDS}" in output
    for site in SITES:
        assert equal_weights(workspace.checkpoint(site, trainer=TRAINER)["network_weights"], undisturbed)


def test_a_site_that_has_lost_all_but_its_data_is_awaited_and_ends_like_the_others(federation: Workspace) -> None:
    with Training(federation, "a site with a broken disk") as training:
        training.follow(f"round 2/{ROUNDS}")
        training.kill(SITES[2])
        assert SITES[2] in training.follow("waiting for")
        shutil.rmtree(training.workspace.results / SITES[2])
        training.start(SITES[2])
        training.follow(f"site {SITES[2]} rejoins")
        training.end("server", *SITES)
        first, *others = training.weights(*SITES)
        assert all(equal_weights(first, other) for other in others)
        assert all(set(record.sites) == set(SITES) for record in training.history)


def test_with_a_quorum_of_two_the_training_goes_on_without_a_site_that_is_gone(federation: Workspace) -> None:
    with Training(federation, "two of three", "--min_clients", 2) as training:
        training.follow(f"round 2/{ROUNDS}")
        training.kill(SITES[0])
        assert SITES[0] in training.follow("without site")
        training.end("server", *SITES[1:])
        first, second = training.weights(*SITES[1:])
        assert equal_weights(first, second)
        last = training.history[-1]
        assert last.round == ROUNDS
        assert set(last.sites) == set(SITES[1:])


def test_chaos_costs_no_round_and_leaves_all_sites_with_the_same_model(
    federation: Workspace, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder: Path = tmp_path_factory.mktemp("chaos") / "training"
    chaos = Chaos(folder, federation.environment, SITES, rounds=20, seed=5, pause=(0.0, 0.2))
    figures = chaos.run()
    assert figures.rounds == 20
    assert figures.lost == 0
    assert figures.done["disk full"] == 1
    assert figures.done["node killed"] >= 1
    weights = chaos.final_weights()
    assert len(weights) == 3
    assert all(equal_weights(one, other) for one, other in itertools.pairwise(weights))
    assert "No space left on device" in "".join(chaos.output(site) for site in SITES) + chaos.output("coordinator")
    status = json.loads((folder / "run" / "status.json").read_text())
    assert status["ended"] == "all is done"
    assert status["number_of_failures"] >= 0
