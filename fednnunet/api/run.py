"""Reads a run folder: history, figures and results of a federation."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fednnunet.errors import FednnUNetError
from fednnunet.events.event_files import EVENTS, read_events
from fednnunet.events.events import (
    Event,
    Finished,
    FoldValidated,
    ModelExported,
    PlansAgreed,
    RoundCompleted,
    SiteJoined,
    SitesEvaluated,
    StageStarted,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

_CURVES = {"mean_dice": "mean pseudo Dice", "train_loss": "training loss", "val_loss": "validation loss"}


class Run:
    """A run folder, as it is when this is made; tables are of pandas, figures of matplotlib.

    Parameters
    ----------
    path
        The coordinator's ``--run_dir``, or a folder of logs.

    Raises
    ------
    FednnUNetError
        If the folder holds no events.

    Attributes
    ----------
    path
        The folder.
    events
        All that has happened, in order.

    Examples
    --------
    >>> import fednnunet as fed
    >>> run = fed.Run("nnUNet_results/fednnunet_runs/301+302__nnUNetTrainer__nnUNetPlans__2d")  # doctest: +SKIP
    >>> run.history().groupby("round").mean_dice.mean()  # doctest: +SKIP
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.events: tuple[Event, ...] = tuple(read_events(self.path / EVENTS))
        if not self.events:
            raise FednnUNetError(
                f"{self.path} is not a run folder: it has no {EVENTS}; give the coordinator's --run_dir."
            )

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    @property
    def sites(self) -> list[str]:
        """Names of the sites, in the order in which they have joined."""
        joined = [event.site for event in self.events if isinstance(event, SiteJoined)]
        rounds = [site for event in self.events if isinstance(event, RoundCompleted) for site in event.sites]
        return list(dict.fromkeys([*joined, *rounds]))

    @property
    def is_finished(self) -> bool:
        """Whether the task has been done to its end."""
        return isinstance(self.events[-1], Finished)

    @property
    def plans(self) -> dict[str, Any] | None:
        """The plans on which the sites have agreed, as nnU-Net writes them; ``None`` if this run has made none."""
        return self._agreed("plans")

    @property
    def fingerprint(self) -> dict[str, Any] | None:
        """The common fingerprint, as nnU-Net writes it; ``None`` if this run has made none."""
        return self._agreed("fingerprint")

    @property
    def model(self) -> Path | None:
        """The folder of the federation's model, as ``nnUNetv2_predict`` reads it; ``None`` if none was written."""
        exported = [event for event in self.events if isinstance(event, ModelExported)]
        return Path(exported[-1].folder) if exported else None

    @property
    def evaluations(self) -> list[SitesEvaluated]:
        """What the sites have told of their test cases."""
        return [event for event in self.events if isinstance(event, SitesEvaluated)]

    def rounds(self) -> dict[str, list[RoundCompleted]]:
        """Return the rounds of each fold, in order; of one that was repeated, the last time counts."""
        found: dict[str, dict[int, RoundCompleted]] = {}
        fold = "0"
        for event in self.events:
            if isinstance(event, StageStarted) and event.fold is not None:
                fold = event.fold
            elif isinstance(event, RoundCompleted):
                found.setdefault(fold, {})[event.round] = event
        return {fold: [of_fold[number] for number in sorted(of_fold)] for fold, of_fold in found.items()}

    def history(self) -> "DataFrame":
        """Return a row for each fold, round and site.

        Returns
        -------
        Columns ``fold``, ``round``, ``site``, ``train_loss``, ``val_loss``, ``mean_dice`` and, for each label,
        ``dice_LABEL``: nnU-Net's pseudo Dice of the global model. NaN stands for what was not told.
        """
        return _table(self._history(), ["fold", "round", "site", *_CURVES])

    def validation(self) -> "DataFrame":
        """Return the Dice of nnU-Net's full validation: columns ``fold``, ``site``, ``label`` and ``dice``.

        The label ``mean`` is nnU-Net's mean over the foreground.
        """
        return _table(self._validation(), ["fold", "site", "label", "dice"])

    def scores(self) -> "DataFrame":
        """Return the figures of all evaluations on test cases.

        Returns
        -------
        Columns ``fold``, ``checkpoint``, ``site``, ``label``, ``metric``, ``mean``, ``std``, ``median`` and ``cases``;
        the label ``overall`` is each case's mean over labels.
        """
        columns = ["fold", "checkpoint", "site", "label", "metric", "mean", "std", "median", "cases"]
        return _table(self._scores(), columns)

    def curves(self, quantity: str = "mean_dice") -> "Figure":
        """Return a figure of a quantity over the rounds: a line for each site and fold.

        Parameters
        ----------
        quantity
            ``mean_dice``, ``train_loss`` or ``val_loss``.

        Raises
        ------
        FednnUNetError
            If there is no such quantity.
        """
        if quantity not in _CURVES:
            raise FednnUNetError(f"Unknown curve '{quantity}': choose from {', '.join(_CURVES)}.")
        from matplotlib.figure import Figure

        figure = Figure(figsize=(6.4, 3.6), layout="constrained")
        axes = figure.add_subplot(xlabel="round", ylabel=_CURVES[quantity])
        for (fold, site), rows in self.history().groupby(["fold", "site"], sort=False):
            name = site if len(self.rounds()) == 1 else f"{site}, fold {fold}"
            axes.plot(rows["round"], rows[quantity], label=name, marker="." if len(rows) < 30 else "")
        if axes.lines:
            axes.legend(frameon=False)
        return figure

    def write_report(self) -> Path:
        """Write the report page into the folder, and return its path.

        Raises
        ------
        FednnUNetError
            If it cannot be written.
        """
        from fednnunet.events.run_state import RunState
        from fednnunet.report.page.parts import parts_of_run
        from fednnunet.report.page.rendering import write_page
        from fednnunet.report.page_file import REPORT, TITLE
        from fednnunet.report.standing import condition

        state = RunState.of(self.events)
        write_page(self.path / REPORT, TITLE, parts_of_run(state), condition(state))
        return self.path / REPORT

    def _agreed(self, what: str) -> dict[str, Any] | None:
        agreed = [getattr(event, what) for event in self.events if isinstance(event, PlansAgreed)]
        return agreed[-1] if agreed else None

    def _history(self) -> Iterator[Mapping[str, object]]:
        for fold, rounds in self.rounds().items():
            for event in rounds:
                for site, report in event.sites.items():
                    losses = {name: getattr(report, name) for name in _CURVES}
                    dice = {f"dice_{label}": value for label, value in report.dice.items()}
                    yield {"fold": fold, "round": event.round, "site": site, **losses, **dice}

    def _validation(self) -> Iterator[Mapping[str, object]]:
        for event in (event for event in self.events if isinstance(event, FoldValidated)):
            for site, report in event.sites.items():
                for label, dice in (*report.dice.items(), ("mean", report.mean_dice)):
                    yield {"fold": event.fold, "site": site, "label": label, "dice": dice}

    def _scores(self) -> Iterator[Mapping[str, object]]:
        for event in self.evaluations:
            for site, report in event.sites.items():
                for label, summaries in (*report.labels.items(), ("overall", report.overall)):
                    for metric, summary in summaries:
                        if summary is not None:
                            row = {"fold": event.fold, "checkpoint": event.checkpoint, "site": site, "label": label}
                            yield {**row, "metric": metric, **summary.model_dump()}


def _table(rows: Iterator[Mapping[str, object]], columns: list[str]) -> "DataFrame":
    import pandas as pd  # takes half a second

    table = pd.DataFrame(list(rows))
    more = [name for name in table.columns if name not in columns]
    return table.reindex(columns=[*columns, *more]).infer_objects()
