"""Rules that others add by name."""

import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fednnunet.errors import FednnUNetError
from fednnunet.weights.aggregation import AGGREGATIONS, register_aggregation
from fednnunet.weights.server_optimizers import register_server_optimizer, server_optimizer
from tests.markdown import DOCS, blocks

GUIDE = (DOCS / "aggregation.md").read_text("utf-8")


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A folder in which the package of the guide is installed."""
    (rule,) = blocks(GUIDE, "python")
    (declared,) = blocks(GUIDE, "toml")
    (tmp_path / "hospital_rules").mkdir()
    (tmp_path / "hospital_rules" / "winsorized_mean.py").write_text(rule, "utf-8")
    (tmp_path / "hospital_rules" / "broken.py").write_text("def rule(models, weights):\n    return [1.0]\n", "utf-8")
    about = tmp_path / "hospital_rules-1.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: hospital_rules\nVersion: 1\n", "utf-8")
    points = declared.splitlines()[1].replace('"', "")
    broken = "broken = hospital_rules.broken:rule\nmissing = hospital_rules.nothing:rule"
    (about / "entry_points.txt").write_text(f"[fednnunet.aggregations]\n{points}\n{broken}\n", "utf-8")
    return tmp_path


def _server(package: Path, name: str) -> "subprocess.CompletedProcess[str]":
    script = f"""
import sys
sys.path.insert(0, {str(package)!r})
from fednnunet.cli.commands import server_main
from fednnunet.weights.aggregation import AGGREGATIONS
status = server_main(["train", "--num_clients", "1", "--aggregation", {name!r}, "--host", "192.0.2.1"])
print([module for module in sys.modules if module.startswith("hospital_rules.")])
print(AGGREGATIONS[{name!r}]([[1], [2], [9]], [1, 1, 1]))
"""
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)


def test_a_rule_of_an_installed_package_is_a_value_of_the_flag(package: Path) -> None:
    done = _server(package, "winsorized_mean")
    assert done.stdout.split("\n")[:2] == ["['hospital_rules.winsorized_mean']", "[2.]"]
    assert "the connection would not be encrypted" in done.stderr  # it was not the rule that ended the command


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("broken", "'broken' cannot be used (of models of shape (3,) it makes list, not float32 (3,))"),
        ("missing", "'missing' cannot be imported from hospital_rules.nothing:rule (ModuleNotFoundError"),
        ("unheard_of", "invalid choice: 'unheard_of' (choose from 'mean', 'median'"),
    ],
)
def test_a_rule_that_is_no_good_is_told_before_anything_starts(package: Path, name: str, told: str) -> None:
    done = _server(package, name)
    assert told in done.stderr
    assert "the connection would not be encrypted" not in done.stderr


def _float64(models: Sequence[np.ndarray], weights: Sequence[int]) -> np.ndarray:
    mean: np.ndarray = np.mean(models, axis=0, dtype=np.float64)
    return mean


@pytest.mark.parametrize(
    ("name", "rule", "told"),
    [
        ("mean", AGGREGATIONS["mean"], "has the aggregation 'mean' already"),
        ("A rule", AGGREGATIONS["mean"], "'A rule' cannot name"),
        ("wide", _float64, r"it makes float64 \(3,\)"),
        ("failing", lambda models, weights: models[7], "cannot be used"),
    ],
)
def test_what_cannot_be_a_rule_is_refused(name: str, rule: Callable[..., Any], told: str) -> None:
    with pytest.raises(FednnUNetError, match=told):
        register_aggregation(name, rule)
    assert name not in set(AGGREGATIONS) - {"mean"}


def test_an_optimizer_that_was_registered_is_made_with_and_without_a_learning_rate() -> None:
    class Damped:
        def __init__(self, size: int, learning_rate: float = 0.5) -> None:
            self.state: dict[str, np.ndarray] = {}
            self.learning_rate = np.float32(learning_rate)

        def step(self, part: slice, difference: np.ndarray) -> np.ndarray:
            change: np.ndarray = self.learning_rate * difference
            return change

    register_server_optimizer("damped", Damped)
    for rate, expected in ((None, 0.5), (0.25, 0.25)):
        optimizer = server_optimizer("damped", 3, rate)
        assert optimizer is not None
        assert optimizer.step(slice(0, 1), np.ones(1, np.float32)).tolist() == [expected]
    with pytest.raises(FednnUNetError, match="cannot be used"):
        register_server_optimizer("none_at_all", lambda *_: None)  # type: ignore[arg-type, return-value]
