"""Holds the results of a comparison: scores, differences to local training, and durations."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, TypeAlias

from fednnunet.comparison.costs import Cost
from fednnunet.comparison.methods import Method
from fednnunet.comparison.scores import (
    ScoreTable,
    best,
    by_case,
    joined,
    mean_of_models,
    mean_over_sites,
    paired_differences,
)
from fednnunet.evaluation.paired import Difference, crossed_confidence
from fednnunet.evaluation.summaries import Summary, summarize

MEAN = "mean over sites"
WORST = "worst site"
ALL_CASES = "all sites"
OTHERS = "other sites' cases"
REFERENCE = "local"

ByModel: TypeAlias = dict[str, dict[str, ScoreTable]]
"""What the model of each site achieves on each dataset, by their names; one model for all stands at each site."""


@dataclass(frozen=True)
class Metric:
    """A metric of the table.

    Parameters
    ----------
    name
        As in the files of ``evaluate``.
    title
        With its unit, and an arrow that tells what is good.
    digits
        Decimals that are shown.
    higher_is_better
        Whether a high value is good.
    """

    name: str
    title: str
    digits: int
    higher_is_better: bool


DICE = Metric("dice", "DSC \N{UPWARDS ARROW}", 3, higher_is_better=True)
HD95 = Metric("hd95", "HD95 in mm \N{DOWNWARDS ARROW}", 2, higher_is_better=False)
TABLE_METRICS = (DICE, HD95)

Where: TypeAlias = Literal["others", "externals"]


@dataclass(frozen=True)
class Results:
    """Results of a comparison so far; methods may still be missing.

    Parameters
    ----------
    sites, externals
        Names of the datasets, in the table's order.
    methods
        The methods that are compared, in the table's order.
    models
        By name of the method, for each seed, what the models achieve.
    failures
        By name of the method, why it has no results.
    seconds
        What each step took, by its name.
    untested
        Datasets without labelled test cases.
    costs
        By name of the method, what its training has taken, as a mean over seeds.
    seeds
        With which each method is trained.
    """

    sites: Sequence[str]
    externals: Sequence[str]
    methods: Sequence[Method]
    models: dict[str, list[ByModel]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    untested: Sequence[str] = ()
    costs: dict[str, Cost] = field(default_factory=dict)
    seeds: Sequence[int | None] = (None,)
    _scores: dict[str, dict[str, list[ScoreTable]]] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        for method in self.methods:
            if method.name in self.models:
                self.add(method, self.models[method.name])

    def add(self, method: Method, models: Sequence[ByModel]) -> None:
        """Take what a method's models achieve, for each seed."""
        self.models[method.name] = list(models)
        of_seeds = [self._by_dataset(of_seed) for of_seed in models]
        self._scores[method.name] = {name: [found[name] for found in of_seeds] for name in of_seeds[0]}

    def _by_dataset(self, models: ByModel) -> dict[str, ScoreTable]:
        """Return what one counts: each site's own model, on other cases the mean over the models."""
        found = {site: models[site][site] for site in self.tested_sites}
        for name in self.datasets[len(found) :]:
            found[name] = _mean_over([models[site][name] for site in self.sites])
        if len(self.sites) > 1 and self.tested_sites:
            others = {
                name: _mean_over([models[site][name] for site in self.sites if site != name])
                for name in self.tested_sites
            }
            found[OTHERS] = joined(others)
        return found

    @property
    def tested_sites(self) -> list[str]:
        """The sites that have test cases."""
        return [site for site in self.sites if site not in self.untested]

    @property
    def datasets(self) -> list[str]:
        """All datasets that have test cases, sites first."""
        return [*self.tested_sites, *(name for name in self.externals if name not in self.untested)]

    @cached_property
    def labels(self) -> list[str]:
        """The labels, in the order in which the scores name them."""
        every = (scores for datasets in self._scores.values() for of_seeds in datasets.values() for scores in of_seeds)
        return list(dict.fromkeys(label for scores in every for _, label in scores))

    def of(self, method: Method, dataset: str, metric: str, label: str | None = None) -> Summary:
        """Return what a method achieves on a dataset: the mean over cases of each case's mean over labels and seeds."""
        values = _over_seeds(self._values(method, dataset, metric, label))
        return summarize(values[0] if len(values) == 1 else map(statistics.fmean, zip(*values, strict=True)))

    def interval(self, method: Method, dataset: str, metric: str, label: str | None = None) -> Difference | None:
        """Return what a method achieves on a dataset, with an interval for other cases and seeds."""
        return crossed_confidence(_over_seeds(self._values(method, dataset, metric, label)))

    def elsewhere(self, method: Method, site: str, metric: str, where: Where) -> float | None:
        """Return what the model of a site achieves on the cases of other sites, or external ones, as a mean of these.

        In the mean each dataset counts the same.
        """
        others = [name for name in self.tested_sites if name != site]
        names = others if where == "others" else self.datasets[len(self.tested_sites) :]
        means = []
        for name in names:
            seeds = [by_case(of_seed[site][name], metric) for of_seed in self.models.get(method.name, [])]
            means.append(summarize(value for cases in _over_seeds(seeds) for value in cases).mean)
        return mean_over_sites(means)

    def elsewhere_row(self, method: Method, metric: Metric, where: Where) -> list[float | None]:
        """Return what the model of each site achieves elsewhere, then the worst and the mean of that."""
        values = [self.elsewhere(method, site, metric.name, where) for site in self.sites]
        return [*values, _worst(values, metric), mean_over_sites(values)]

    def column(self, dataset: str, metric: str) -> dict[str, float | None]:
        """Return each method's value in a column of the table: a dataset, `WORST` or `MEAN`."""
        return {method.name: self._value(method, dataset, metric) for method in self.methods}

    def best(self, dataset: str, metric: Metric) -> set[str]:
        """Return which of the federated methods is the best in a column."""
        column = self.column(dataset, metric.name)
        federated = {method.name: column[method.name] for method in self.methods if method.is_federated}
        return best(federated, highest=metric.higher_is_better, digits=metric.digits)

    @property
    def columns(self) -> list[str]:
        """The columns of the table."""
        return [*self.datasets, *([WORST, MEAN] if len(self.tested_sites) > 1 else [])]

    @property
    def compared(self) -> list[Method]:
        """The methods that have a difference to local training."""
        if REFERENCE not in self._scores:
            return []
        return [method for method in self.methods if method.name != REFERENCE and method.name in self._scores]

    @property
    def tested_on(self) -> dict[str, str]:
        """What models are tested on, and whether that is a site, external, or several sites."""
        kinds = {name: "external" if name in self.externals else "site" for name in self.datasets}
        return kinds | {name: "several sites" for name in self.rows_of_differences if name not in kinds}

    @property
    def rows_of_differences(self) -> list[str]:
        """The datasets for which differences are told; `ALL_CASES` are those of all sites, each with its own model."""
        more = [ALL_CASES] if len(self.tested_sites) > 1 else []
        return [*self.datasets, *more, *([OTHERS] if len(self.sites) > 1 and self.tested_sites else [])]

    def difference(self, method: Method, dataset: str, metric: str, label: str | None = None) -> Difference | None:
        """Return by how much a method is above local training, case by case, on a dataset or in `ALL_CASES`."""
        names = self.tested_sites if dataset == ALL_CASES else [dataset]
        mine, reference = self._scores.get(method.name, {}), self._scores.get(REFERENCE, {})
        seeds: list[dict[str, float]] = [{} for _ in self.seeds]
        for name in names:
            if name in mine and name in reference:
                for of_seed, ours, theirs in zip(seeds, mine[name], reference[name], strict=True):
                    found = paired_differences(ours, theirs, metric, label)
                    of_seed |= {f"{name}/{case}": value for case, value in found.items()}
        return crossed_confidence(_over_seeds(seeds))

    def _values(self, method: Method, dataset: str, metric: str, label: str | None) -> list[dict[str, float]]:
        """Return, for each seed, the value of each case."""
        if dataset == ALL_CASES:
            found = [self._values(method, site, metric, label) for site in self.tested_sites]
            return [
                {f"{site}/{case}": value for site, of in zip(self.tested_sites, sites, strict=True)
                 for case, value in of.items()}
                for sites in zip(*found, strict=True)
            ]  # fmt: skip
        return [by_case(scores, metric, label) for scores in self._scores.get(method.name, {}).get(dataset, [])]

    def _value(self, method: Method, dataset: str, metric: str) -> float | None:
        if dataset in {MEAN, WORST}:
            values = [self._value(method, site, metric) for site in self.tested_sites]
            return mean_over_sites(values) if dataset == MEAN else _worst(values, _METRICS[metric])
        return self.of(method, dataset, metric).mean


_METRICS = {metric.name: metric for metric in TABLE_METRICS}


def _worst(values: Sequence[float | None], metric: Metric) -> float | None:
    """Return the worst value, ``None`` unless all are there."""
    there = [value for value in values if value is not None]
    if not there or len(there) < len(values):
        return None
    return min(there) if metric.higher_is_better else max(there)


def _mean_over(models: Sequence[ScoreTable]) -> ScoreTable:
    """Return the mean over models; one model for all stands there several times."""
    unique = list({id(scores): scores for scores in models}.values())
    return unique[0] if len(unique) == 1 else mean_of_models(unique)


def _over_seeds(seeds: Sequence[Mapping[str, float]]) -> list[list[float]]:
    """Return, for each seed, the values of those cases that have one with all seeds."""
    cases = [case for case in seeds[0] if all(case in of_seed for of_seed in seeds)] if seeds else []
    return [[of_seed[case] for case in cases] for of_seed in seeds] or [[]]
