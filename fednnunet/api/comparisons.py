"""Methods compared on this machine, from Python."""

import json
import sys
from collections.abc import Sequence
from functools import cached_property
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from fednnunet.api.federations import Datasets, check_names, names_of
from fednnunet.comparison.comparison import REPORT, compare_methods
from fednnunet.comparison.flags import SETTLED_FLAGS, TESTING_FLAGS
from fednnunet.comparison.methods import METHODS, PERSONAL, read_methods
from fednnunet.comparison.settings import ComparisonSettings
from fednnunet.errors import FednnUNetError
from fednnunet.settings.flag import check_values, filled

if TYPE_CHECKING:
    from pandas import DataFrame


class Comparison:
    """The folder of a comparison.

    Parameters
    ----------
    path
        The folder, ``--out``.

    Raises
    ------
    FednnUNetError
        If there are no results in it.

    Attributes
    ----------
    path
        The folder.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        if not (self.path / "comparison.csv").is_file():
            raise FednnUNetError(f"{self.path} holds no results of a comparison: name its --out.")

    def __repr__(self) -> str:
        return f"Comparison({str(self.path)!r})"

    @property
    def report(self) -> Path:
        """The report page."""
        return self.path / REPORT

    @cached_property
    def results(self) -> dict[str, Any]:
        """All results, as ``comparison.json`` has them."""
        found: dict[str, Any] = json.loads((self.path / "comparison.json").read_text(encoding="utf-8"))
        return found

    def table(self) -> "DataFrame":
        """Return a row for each method, dataset and label; for each metric, mean, deviation, cases and interval."""
        return _read(self.path / "comparison.csv")

    def differences(self) -> "DataFrame":
        """Return the paired differences between methods, with 95 % confidence intervals."""
        return _read(self.path / "differences.csv")


def compare(
    datasets: Datasets,
    configuration: str,
    fold: int | str = 0,
    *,
    methods: Sequence[str] | None = None,
    external: Datasets | None = None,
    show: bool = False,
    **settings: Any,
) -> Comparison:
    """Train local, federated and centralized models under the same conditions, and test them.

    What is done is kept, so the same call continues what was interrupted.

    Parameters
    ----------
    datasets
        Id or name of each site's dataset.
    configuration, fold
        As nnU-Net means them.
    methods
        Such as ``["local", "ffe", "FedBN=ffe --keep_local norm"]``; by default, local, asym, ffe and centralized.
    external
        Datasets that only test the models.
    show
        Whether to print each step.
    **settings
        Fields of `ComparisonSettings`, such as ``rounds=50`` or ``out="comparison"``.

    Returns
    -------
    The comparison, with its tables.

    Raises
    ------
    FednnUNetError
        If the comparison cannot begin, or no method has results.
    """
    check_names(settings, ComparisonSettings)
    check_values((*SETTLED_FLAGS, *TESTING_FLAGS), settings)
    default = [*METHODS, *([PERSONAL] if settings.get("personalize") is not None else [])]
    given = {
        "datasets": names_of(datasets),
        "configuration": configuration,
        "fold": str(fold),
        "external": () if external is None else names_of(external),
        "methods": tuple(read_methods(methods or default, settings)),
        "out": None if settings.get("out") is None else Path(settings["out"]),
    }
    console = Console(file=sys.stdout if show else StringIO(), highlight=False)
    _, folder = compare_methods(filled(ComparisonSettings, {**settings, **given}), console)
    return Comparison(folder)


def _read(path: Path) -> "DataFrame":
    import pandas as pd  # takes half a second

    return pd.read_csv(path)
