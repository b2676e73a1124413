"""Reports a site's benefit from the federation: by case at the site, as means to the coordinator."""

import json
import logging
import math
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

from fednnunet.errors import FednnUNetError
from fednnunet.evaluation.gain import PAIRS, TITLES, Advice, Dice, Gain, ModelName, advise, gain_of_label, gain_overall
from fednnunet.evaluation.paired import Difference
from fednnunet.files import read_json_object, replacing
from fednnunet.labels import Labels, read_labels
from fednnunet.node.dataset import SiteDataset
from fednnunet.node.dataset_json import DATASET_JSON
from fednnunet.node.kept_states import KeptStates
from fednnunet.node.own_trainer import fold_folder
from fednnunet.protocol.messages import Gain as TellableGain
from fednnunet.protocol.messages import GainReport, GainRequest, PairedDifference
from fednnunet.settings.node import TrainingSettings
from fednnunet.table_cells import Markdown, markdown_table

logger = logging.getLogger(__name__)

FILE = "federation_gain"
"""Of the report in the fold's folder, ``.json`` and ``.md``."""

_DIGITS = 4


def tell_gain(settings: TrainingSettings, dataset: SiteDataset, asked: GainRequest) -> GainReport:
    """Compare the site's models on its validation cases, write the report, and return its shareable part.

    Parameters
    ----------
    settings
        The node's settings.
    dataset
        The site's dataset.
    asked
        Which models.

    Raises
    ------
    FednnUNetError
        If the site has not finished that training.
    """
    folder = fold_folder(settings, dataset, asked.fold)
    if not KeptStates(folder).is_begun(asked.run):
        raise FednnUNetError("the coordinator asks about a training which this site has not finished")
    labels = read_labels(read_json_object(dataset.preprocessed / DATASET_JSON, "restore it"))
    try:
        models: dict[ModelName, Dice] = {"federated": _dice_of(folder, labels)}
        for own in asked.models:
            models[own] = _dice_of(fold_folder(settings, dataset, asked.fold, own), labels)
    except FednnUNetError as error:  # a trainer of one's own may write no summary: that is no reason to end
        logger.warning("The site's benefit from the federation cannot be computed: %s", error)
        return GainReport()
    by_label = {label: gain_of_label(models, label) for label in labels.foreground}
    overall = gain_overall(models, list(labels.foreground))
    advice = advise(overall)
    _write(folder, models, by_label, overall, advice)
    if advice is None:
        return GainReport()
    logger.log(logging.WARNING if advice.model == "alone" else logging.INFO, "%s", advice.reason)
    return GainReport(
        labels={label: _tellable(gain) for label, gain in by_label.items()},
        overall=_tellable(overall),
        advice=advice.model,
        is_certain=advice.is_certain,
    )


def _dice_of(folder: Path, labels: Labels) -> Dice:
    """Return the results of nnU-Net's full validation of a model."""
    path = folder / "validation" / "summary.json"
    summary = read_json_object(path, "run the validation again with --val")
    found = {}
    for case in summary["metric_per_case"]:
        dice = labels.by_name({key: metrics["Dice"] for key, metrics in case["metrics"].items()})
        there = {label: float(value) for label, value in dice.items() if value is not None and math.isfinite(value)}
        found[PurePath(case["prediction_file"]).name] = there
    return found


def _write(
    folder: Path,
    models: Mapping[ModelName, Dice],
    by_label: Mapping[str, Gain],
    overall: Gain,
    advice: Advice | None,
) -> None:
    """Write the complete report, which stays at the site."""
    content: dict[str, Any] = {
        "advice": None if advice is None else advice.model,
        "reason": None if advice is None else advice.reason,
        "overall": _as_json(overall),
        "labels": {label: _as_json(gain) for label, gain in by_label.items()},
        "dice_by_case": models,
    }
    texts = {".json": json.dumps(content, indent=1), ".md": _markdown(by_label, overall, advice)}
    try:
        for ending, text in texts.items():
            with replacing(folder / f"{FILE}{ending}") as temporary:
                temporary.write_text(text, encoding="utf-8")
    except OSError as error:
        logger.warning("%s cannot be written (%s).", folder / FILE, error.strerror)


def _as_json(gain: Gain) -> dict[str, Any]:
    return {
        "cases": gain.cases,
        "dice": gain.dice,
        "differences": {
            f"{one} - {other}": {"mean": found.mean, "low": found.low, "high": found.high}
            for (one, other), found in gain.differences.items()
        },
    }


def _markdown(by_label: Mapping[str, Gain], overall: Gain, advice: Advice | None) -> str:
    titles = [*overall.dice, *(f"{one} - {other}" for one, other in overall.differences)]
    lines = ["# Benefit of this site from the federation", ""]
    lines += [advice.reason if advice is not None else "There are no cases to compare models on.", ""]
    lines += ["Mean Dice over validation cases, and differences by case with their 95 % confidence interval:", ""]
    rows = []
    for label, gain in (*by_label.items(), (Markdown("**overall**"), overall)):
        dice = [f"{gain.dice[name]:.4f}" if name in gain.dice else "" for name in overall.dice]
        differences = [Markdown(_cell(gain.differences.get(pair))) for pair in overall.differences]
        rows.append([label, str(gain.cases), *dice, *differences])
    lines += markdown_table(["label", "cases", *titles], rows)
    named = "; ".join(f"{name}: {title}" for name, title in TITLES.items() if name in overall.dice)
    stay = f"{FILE}.json contains the figures of each case; it stays at the site."
    return "\n".join([*lines, "", f"{named}. {stay}", ""])


def _cell(found: Difference | None) -> str:
    if found is None:
        return ""
    if found.low is None or found.high is None:
        return f"{found.mean:+.4f}"
    return f"{found.mean:+.4f} [{found.low:+.4f}, {found.high:+.4f}]"


def _tellable(gain: Gain) -> TellableGain:
    differences = {
        f"{one}_over_{other}": PairedDifference(
            mean=round(found.mean, _DIGITS), low=_rounded(found.low), high=_rounded(found.high)
        )
        for one, other in PAIRS
        if (found := gain.differences.get((one, other))) is not None
    }
    dice = {name: round(value, _DIGITS) for name, value in gain.dice.items()}
    return TellableGain.model_validate({**dice, **differences, "cases": gain.cases, "fewest": gain.fewest})


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, _DIGITS)
