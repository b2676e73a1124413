"""Scores of a case against nnU-Net's own losses and plain formulas."""

import numpy as np
import pytest
import torch
from nnunetv2.training.loss.compound_losses import DC_and_BCE_loss, DC_and_CE_loss

from fednnunet.labels import read_labels
from fednnunet.membership.scoring import CaseScore, mean_score, score_logits

SHAPE = (3, 5, 4)
PLAIN = {"background": 0, "organ": 1, "lesion": 2}
REGIONS = {"background": 0, "whole": [1, 2], "core": 2}


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def _logits(rng: np.random.Generator, outputs: int) -> torch.Tensor:
    return torch.from_numpy(rng.normal(0, 2, (outputs, *SHAPE))).half()  # as nnU-Net's predictor gives them


@pytest.mark.parametrize("ignore", [None, 3])
def test_loss_of_labels_is_nnunets_cross_entropy(rng: np.random.Generator, ignore: int | None) -> None:
    labels = read_labels({"labels": PLAIN if ignore is None else {**PLAIN, "ignore": ignore}})
    truth, logits = rng.integers(0, 3 if ignore is None else 4, SHAPE), _logits(rng, 3)
    dice = {"batch_dice": False, "smooth": 0, "do_bg": False, "ddp": False}
    nnunets = DC_and_CE_loss(dice, {}, weight_dice=0, ignore_label=ignore)
    expected = nnunets(logits[None].float(), torch.from_numpy(truth)[None, None].float())
    assert score_logits(logits, truth, truth, labels).loss == pytest.approx(float(expected), rel=1e-6)


@pytest.mark.parametrize("ignore", [None, 3])
def test_loss_of_regions_is_nnunets_mean_over_them(rng: np.random.Generator, ignore: int | None) -> None:
    named = REGIONS if ignore is None else {**REGIONS, "ignore": ignore}
    labels = read_labels({"labels": named, "regions_class_order": [1, 2]})
    truth, logits = rng.integers(0, 3 if ignore is None else 4, SHAPE), _logits(rng, 2)
    targets = [np.isin(truth, [1, 2]), truth == 2, *([truth == 3] if ignore is not None else [])]
    dice = {"batch_dice": False, "do_bg": True, "smooth": 0, "ddp": False}
    nnunets = DC_and_BCE_loss({}, dice, weight_dice=0, use_ignore_label=ignore is not None)
    expected = float(nnunets(logits[None].float(), torch.from_numpy(np.stack(targets))[None].float()))
    if ignore is not None:
        expected /= 2  # nnU-Net sums over regions where it masks voxels
    assert score_logits(logits, truth, truth, labels).loss == pytest.approx(expected, rel=1e-6)


def test_cropped_voxels_are_background(rng: np.random.Generator) -> None:
    labels, logits, truth = read_labels({"labels": PLAIN}), _logits(rng, 3), rng.integers(-1, 3, SHAPE)
    prediction = rng.integers(0, 3, SHAPE)
    expected = score_logits(logits, prediction, np.maximum(truth, 0), labels)
    assert score_logits(logits, prediction, truth, labels) == expected


def test_dice_is_the_mean_over_labels_that_are_there_and_leaves_out_ignored_voxels() -> None:
    labels = read_labels({"labels": {**PLAIN, "ignore": 3}})
    truth, prediction, logits = np.array([[[1, 1, 0, 3]]]), np.array([[[1, 0, 0, 2]]]), torch.zeros(3, 1, 1, 4)
    assert score_logits(logits, prediction, truth, labels).dice == pytest.approx(2 / 3)  # no lesion that counts
    assert score_logits(logits, prediction, truth, labels).loss == pytest.approx(np.log(3))


def test_a_case_that_says_nothing_has_no_scores() -> None:
    labels = read_labels({"labels": {**PLAIN, "ignore": 3}})
    truth = np.full((1, 1, 2), 3)
    assert score_logits(torch.zeros(3, 1, 1, 2), truth, truth, labels) == CaseScore(None, None)
    assert mean_score([CaseScore(1.0, None), CaseScore(2.0, 0.5)]) == CaseScore(1.5, None)
    assert CaseScore(None, None).dice_loss is None
