"""Compares a site's models case by case, and advises which one to use."""

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from fednnunet.evaluation.paired import Difference, confidence
from fednnunet.wording import counted

ModelName = Literal["federated", "personal", "alone"]
TITLES: dict[ModelName, str] = {
    "federated": "the federated model",
    "personal": "the personal model",
    "alone": "the model trained alone",
}
PAIRS: tuple[tuple[ModelName, ModelName], ...] = (
    ("personal", "federated"),
    ("federated", "alone"),
    ("personal", "alone"),
)
"""Of which models differences are told, the second one taken from the first."""

Dice = Mapping[str, Mapping[str, float]]
"""By case, the Dice of each label that has one there."""


@dataclass(frozen=True)
class Gain:
    """Models on the cases on which each of them has a Dice.

    Attributes
    ----------
    dice
        Mean Dice of each model.
    differences
        Between the models of `PAIRS` that are there, paired by case.
    cases
        Over how many cases.
    fewest
        Cases without which a figure would be another one: the smallest group of cases that this figure, or one told
        beside it, has and the other has not.
    """

    dice: dict[ModelName, float] = field(default_factory=dict)
    differences: dict[tuple[ModelName, ModelName], Difference] = field(default_factory=dict)
    cases: int = 0
    fewest: int = 0


@dataclass(frozen=True)
class Advice:
    """Recommendation of a model to a site.

    Attributes
    ----------
    model
        The model.
    is_certain
        Whether it is better than the next one by more than chance, as far as a 95 % interval tells.
    reason
        Why, in a sentence with figures.
    """

    model: ModelName
    is_certain: bool
    reason: str


def gain_of_label(models: Mapping[ModelName, Dice], label: str) -> Gain:
    """Compare models on the cases on which each has a Dice of a label.

    nnU-Net has none where neither truth nor prediction has the label, which may be so for one model only.
    """
    having = {case: sum(label in dice.get(case, {}) for dice in models.values()) for case in _cases(models)}
    both = [case for case, number in having.items() if number == len(models)]
    some = sum(0 < number < len(models) for number in having.values())
    values = {name: [dice[case][label] for case in both] for name, dice in models.items()}
    return _gain(values, min(len(both), some or len(both)))


def gain_overall(models: Mapping[ModelName, Dice], labels: Sequence[str]) -> Gain:
    """Compare models where a case counts with the mean over those of its labels of which each model has a Dice."""
    common = {
        case: [label for label in labels if all(label in dice.get(case, {}) for dice in models.values())]
        for case in _cases(models)
    }
    sorts = Counter(tuple(there) for there in common.values())
    values = {
        name: [statistics.fmean(dice[case][label] for label in there) for case, there in common.items() if there]
        for name, dice in models.items()
    }
    return _gain(values, min(sorts.values(), default=0))


def advise(gain: Gain) -> Advice | None:
    """Return which model a site should use, ``None`` if nothing is known of them.

    The federation's model has seen all sites, so it is the one to use where nothing else is better by more than chance.
    """
    if "federated" not in gain.dice:
        return None
    ours: ModelName = "federated"
    personal, alone = gain.differences.get(("personal", "federated")), gain.differences.get(("federated", "alone"))
    if personal is not None and (_is_above(personal) or (_is_below(alone) and personal.mean > 0)):
        ours = "personal"
    to_alone = gain.differences.get((ours, "alone"))
    cases = counted(gain.cases, "validation case")
    figures = ", ".join(f"{TITLES[name]} {value:.3f}" for name, value in gain.dice.items())
    told = f"mean Dice over {cases}: {figures}"
    if to_alone is not None and _is_below(to_alone):
        less = f"{TITLES[ours]} is worse by {_text(to_alone)}"
        return Advice("alone", True, f"This site would be better off alone: {less}; {told}.")
    reasons = [f"Use {TITLES[ours]}"]
    is_certain = personal is None or ours == "personal" or _is_below(personal)
    if personal is not None and ours == "personal":
        reasons.append(f"it is {_text(personal)} above the federated one")
    elif personal is not None:
        chance = "" if _is_below(personal) else ", which may be chance"
        reasons.append(f"the personal one differs from it by {_text(personal)}{chance}")
    if to_alone is not None:
        is_certain = is_certain and _is_above(to_alone)
        chance = "" if _is_above(to_alone) else f", not distinguishable from chance with {cases}"
        reasons.append(f"the difference to training alone is {_text(to_alone)}{chance}")
    return Advice(ours, is_certain, f"{reasons[0]}: {'; '.join([*reasons[1:], told])}.")


def _cases(models: Mapping[ModelName, Dice]) -> list[str]:
    """Return the cases that all models have predicted."""
    first, *others = models.values()
    return [case for case in first if all(case in other for other in others)]


def _gain(values: Mapping[ModelName, Sequence[float]], fewest: int) -> Gain:
    cases = len(next(iter(values.values())))
    if not cases:
        return Gain()
    differences = {}
    for one, other in PAIRS:
        if one in values and other in values:
            found = confidence(a - b for a, b in zip(values[one], values[other], strict=True))
            if found is not None:
                differences[one, other] = found
    return Gain({name: statistics.fmean(of_model) for name, of_model in values.items()}, differences, cases, fewest)


def _is_above(difference: Difference | None) -> bool:
    return difference is not None and difference.low is not None and difference.low > 0


def _is_below(difference: Difference | None) -> bool:
    return difference is not None and difference.high is not None and difference.high < 0


def _text(difference: Difference) -> str:
    interval = (
        f" (95 % interval {difference.low:+.3f} to {difference.high:+.3f})"
        if difference.low is not None and difference.high is not None
        else ""
    )
    return f"{difference.mean:+.3f}{interval}"
