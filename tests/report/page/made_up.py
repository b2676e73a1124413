"""Events of runs that never were."""

import math
import random
from collections.abc import Sequence
from typing import Any

from fednnunet.events.events import (
    Event,
    Finished,
    FoldValidated,
    GainTold,
    ModelExported,
    PlansAgreed,
    RoundCompleted,
    RoundTiming,
    SharingAgreed,
    SiteJoined,
    SiteLeftOut,
    SitesAwaited,
    SitesEvaluated,
    SiteShare,
    SiteTakenIn,
    StageStarted,
    Traffic,
    UpdateOutOfLine,
)
from fednnunet.protocol.messages import (
    EvaluationReport,
    Gain,
    GainReport,
    MetricSummaries,
    MetricSummary,
    PairedDifference,
    RoundReport,
    ValidationReport,
)

LABELS = ("liver", "kidney", "spleen")
SITES = ("hospital-a", "hospital-b", "hospital-c")


def a_round(
    number: int,
    rounds: int,
    sites: Sequence[str],
    labels: Sequence[str] = LABELS,
    left_out: dict[str, str] | None = None,
    seed: int = 0,
) -> RoundCompleted:
    """Return a round as it could have been."""
    chance = random.Random(1000 * seed + number)
    left_out = left_out or {}
    there = [site for site in sites if site not in left_out]
    gone = number / rounds
    reports = {}
    for site in there:
        skill = 0.55 + 0.4 * (1 - math.exp(-4 * gone)) - 0.02 * (sites.index(site) % 7)
        dice = {label: max(0.0, skill - 0.06 * i + chance.gauss(0, 0.012)) for i, label in enumerate(labels)}
        reports[site] = RoundReport(
            train_loss=-skill + chance.gauss(0, 0.01),
            val_loss=-skill + 0.05 + chance.gauss(0, 0.015),
            mean_dice=sum(dice.values()) / len(dice),
            dice=dice,
        )
    timing = RoundTiming(
        training={site: 40 + 2 * (sites.index(site) % 9) + chance.random() for site in there},
        moving=3 + chance.random(),
        averaging=0.4 + chance.random() / 10,
        validating={site: 6 + chance.random() for site in there},
    )
    seconds = max(timing.training.values()) + timing.moving + timing.averaging + max(timing.validating.values()) + 0.5
    return RoundCompleted(
        round=number,
        rounds=rounds,
        seconds=seconds,
        sites=reports,
        left_out=left_out,
        timing=timing,
        traffic={site: Traffic(to_site=62_000_000 + number, from_site=31_000_000 + number) for site in there},
    )


def a_training(
    rounds: int, sites: Sequence[str], labels: Sequence[str] = LABELS, fold: str = "0", of_rounds: int | None = None
) -> list[Event]:
    """Return the events of a fold's rounds, some of them without the last site."""
    events: list[Event] = [StageStarted(stage="training", fold=fold, rounds=of_rounds or rounds)]
    for number in range(1, rounds + 1):
        missing = sites[-1] if rounds // 3 < number <= rounds // 2 else None
        reason = f"it took longer than {300 + number // 50} s"
        if missing is not None:
            events.append(SiteLeftOut(site=missing, round=number, reason=reason))
        events.append(a_round(number, of_rounds or rounds, sites, labels, {missing: reason} if missing else None))
    return events


def _summaries(dice: float, cases: int | None) -> MetricSummaries:
    def of(mean: float, std: float) -> MetricSummary:
        return MetricSummary() if cases is None else MetricSummary(mean=mean, std=std, median=mean, cases=cases)

    return MetricSummaries(dice=of(dice, 0.034), hd95=of(12 - 10 * dice, 1.5), assd=of(3 - 2 * dice, 0.4))


PLANS: dict[str, Any] = {
    "plans_name": "nnUNetPlans",
    "experiment_planner_used": "ExperimentPlanner",
    "configurations": {
        "2d": {
            "batch_size": 12,
            "patch_size": [512, 448],
            "spacing": [0.78, 0.78],
            "median_image_size_in_voxels": [512.0, 480.0],
            "normalization_schemes": ["CTNormalization", "ZScoreNormalization"],
            "batch_dice": True,
            "architecture": {
                "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
                "arch_kwargs": {
                    "n_stages": 7,
                    "features_per_stage": [32, 64, 128, 256, 512, 512, 512],
                    "kernel_sizes": [[3, 3]] * 7,
                    "strides": [[1, 1], *[[2, 2]] * 6],
                    "n_conv_per_stage": [2] * 7,
                },
            },
        },
        "3d_fullres": {
            "batch_size": 2,
            "patch_size": [96, 160, 160],
            "spacing": [2.5, 0.78, 0.78],
            "median_image_size_in_voxels": [142.0, 512.0, 480.0],
            "normalization_schemes": ["CTNormalization", "ZScoreNormalization"],
            "batch_dice": False,
            "architecture": {
                "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
                "arch_kwargs": {
                    "n_stages": 6,
                    "features_per_stage": [32, 64, 128, 256, 320, 320],
                    "kernel_sizes": [[1, 3, 3], *[[3, 3, 3]] * 5],
                    "strides": [[1, 1, 1], [1, 2, 2], *[[2, 2, 2]] * 4],
                    "n_conv_per_stage": [2] * 6,
                },
            },
        },
        "3d_cascade_fullres": {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"},
    },
}
FINGERPRINT: dict[str, Any] = {
    "spacings": [[2.5, 0.78, 0.78], [3.0, 0.7, 0.7], [2.0, 0.9, 0.9]],
    "shapes_after_crop": [[142, 512, 512], [120, 512, 480], [180, 480, 400]],
    "median_relative_size_after_cropping": 0.93,
    "foreground_intensity_properties_per_channel": {
        "0": {
            **{"mean": 102.25, "std": 36.5, "median": 104.0, "min": -512.0, "max": 1371.0},
            **{"percentile_00_5": -12.0, "percentile_99_5": 198.0},
        },
        "1": {
            **{"mean": 590.6, "std": 442.7, "median": 477.0, "min": 83.0, "max": 2822.0},
            **{"percentile_00_5": 111.0, "percentile_99_5": 2231.0},
        },
    },
}


def a_run(rounds: int = 60, sites: Sequence[str] = SITES) -> list[Event]:
    """Return all events of a run in which about everything has happened."""
    events: list[Event] = [
        SiteJoined(site=site, cases=20 + 13 * i, joined=i + 1, expected=len(sites)) for i, site in enumerate(sites)
    ]
    events.append(PlansAgreed(fingerprint=FINGERPRINT, plans=PLANS))
    share = SiteShare(tensors=100, of_tensors=104, parameters=30_000_000, of_parameters=31_200_000)
    events.append(SharingAgreed(sites=dict.fromkeys(sites, share)))
    events += a_training(rounds, sites)
    events.insert(-4, SitesAwaited(sites=[sites[1]], present=len(sites) - 1, needed=len(sites)))
    events.insert(-4, SiteTakenIn(site=sites[1], round=rounds - 4))
    events.insert(-4, UpdateOutOfLine(site=sites[0], round=rounds - 3, ratio=14.0))
    reports = {
        site: ValidationReport(
            mean_dice=0.91 - i / 50, dice={label: 0.93 - i / 50 - j / 50 for j, label in enumerate(LABELS)}
        )
        for i, site in enumerate(sites)
    }
    events.append(FoldValidated(fold="0", sites=reports))
    difference = PairedDifference(mean=0.03, low=0.01, high=0.05)
    gain = Gain(federated=0.9, personal=0.93, personal_over_federated=difference, cases=12, fewest=12)
    told = GainReport(labels=dict.fromkeys(LABELS, gain), overall=gain, advice="personal", is_certain=True)
    events.append(GainTold(fold="0", sites=dict.fromkeys(sites, told)))
    results = "/data/nnUNet_results/Dataset511_Abdomen/nnUNetTrainer__nnUNetPlans__3d_fullres"
    events.append(ModelExported(folder=results, archive="/data/runs/abdomen model.zip", folds=["0"]))
    evaluated = {
        site: EvaluationReport(
            labels={
                label: _summaries(0.9 - i / 40 - j / 30, None if (i, j) == (1, 2) else 12 + i)
                for j, label in enumerate(LABELS)
            },
            overall=_summaries(0.88 - i / 40, 12 + i),
        )
        for i, site in enumerate(sites[:-1])
    }
    events.append(
        SitesEvaluated(
            fold="0",
            checkpoint="checkpoint_final.pth",
            sites=evaluated,
            left_out={sites[-1]: "it has no labelled test cases"},
        )
    )
    events.append(Finished(seconds=5 * 3600 + 125))
    return events
