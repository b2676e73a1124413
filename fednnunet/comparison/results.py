"""The results of a comparison: the paper's table, the differences to local training, and what each step took."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

from fednnunet.comparison.methods import Method
from fednnunet.comparison.scores import (
    Scores,
    Summary,
    best,
    by_case,
    mean_over_sites,
    paired_differences,
    summary,
)
from fednnunet.evaluation.paired import Difference, confidence

MEAN = "mean over sites"
ALL_CASES = "all sites"
REFERENCE = "local"


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


@dataclass(frozen=True)
class Results:
    """What is known of a comparison; methods may still be missing.

    Parameters
    ----------
    sites, externals
        Names of the datasets, in the table's order.
    methods
        The methods that are compared, in the table's order.
    scores
        By name of the method and the dataset.
    failures
        By name of the method, why it has no results.
    seconds
        What each step took, by its name.
    untested
        Datasets without labelled test cases.
    """

    sites: Sequence[str]
    externals: Sequence[str]
    methods: Sequence[Method]
    scores: dict[str, dict[str, Scores]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    untested: Sequence[str] = ()

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
        every = (scores for datasets in self.scores.values() for scores in datasets.values())
        return list(dict.fromkeys(label for scores in every for _, label in scores))

    def of(self, method: Method, dataset: str, metric: str, label: str | None = None) -> Summary | None:
        """Return what a method achieves on a dataset: the mean over cases of each case's mean over labels."""
        scores = self.scores.get(method.name, {}).get(dataset)
        return None if scores is None else summary(by_case(scores, metric, label).values())

    def column(self, dataset: str, metric: str) -> dict[str, float | None]:
        """Return each method's value in a column of the table: a dataset, or `MEAN`."""
        return {method.name: self._value(method, dataset, metric) for method in self.methods}

    def best(self, dataset: str, metric: Metric) -> set[str]:
        """Return which of the federated methods is the best in a column."""
        column = self.column(dataset, metric.name)
        federated = {method.name: column[method.name] for method in self.methods if method.is_federated}
        return best(federated, highest=metric.higher_is_better, digits=metric.digits)

    @property
    def columns(self) -> list[str]:
        """The columns of the table."""
        return [*self.datasets, *([MEAN] if len(self.tested_sites) > 1 else [])]

    @property
    def compared(self) -> list[Method]:
        """The methods that have a difference to local training."""
        if REFERENCE not in self.scores:
            return []
        return [method for method in self.methods if method.name != REFERENCE and method.name in self.scores]

    @property
    def rows_of_differences(self) -> list[str]:
        """The datasets for which differences are told; `ALL_CASES` are those of all sites."""
        return [*self.datasets, *([ALL_CASES] if len(self.tested_sites) > 1 else [])]

    def difference(self, method: Method, dataset: str, metric: str, label: str | None = None) -> Difference | None:
        """Return by how much a method is above local training, case by case, on a dataset or in `ALL_CASES`."""
        names = self.tested_sites if dataset == ALL_CASES else [dataset]
        mine, reference = self.scores.get(method.name, {}), self.scores.get(REFERENCE, {})
        differences: list[float] = []
        for name in names:
            if name in mine and name in reference:
                differences += paired_differences(mine[name], reference[name], metric, label).values()
        return confidence(differences)

    def _value(self, method: Method, dataset: str, metric: str) -> float | None:
        if dataset == MEAN:
            return mean_over_sites([self._value(method, site, metric) for site in self.tested_sites])
        of_dataset = self.of(method, dataset, metric)
        return None if of_dataset is None else of_dataset.mean
