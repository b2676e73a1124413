"""Random numbers of sites that draw from the same generators."""

import random

import numpy as np
import torch

from fednnunet.node.randomness import OwnRandomness, seed_all


def _draw() -> tuple[float, float, float]:
    return random.random(), float(np.random.random()), float(torch.rand(()))


def test_the_same_seed_leads_to_the_same_numbers_of_all_generators() -> None:
    seed_all(5, "A", 0, 1)
    first = _draw()
    seed_all(5, "A", 0, 1)
    assert _draw() == first


def test_each_seed_site_fold_and_round_has_numbers_of_its_own() -> None:
    drawn = []
    for about in ((5, "A", 0, 1), (6, "A", 0, 1), (5, "B", 0, 1), (5, "A", 1, 1), (5, "A", 0, 2), (5, "A", 0, 11)):
        seed_all(*about)
        drawn.append(_draw())
    for generator in zip(*drawn, strict=True):
        assert len(set(generator)) == len(drawn)


def test_a_site_draws_as_if_it_were_alone() -> None:
    seed_all("alone")
    alone = [_draw() for _ in range(3)]
    ours, theirs = OwnRandomness(), OwnRandomness()
    together = []
    with ours.drawn():
        seed_all("alone")
        together.append(_draw())
    for _ in range(2):
        with theirs.drawn():
            _draw()
        with ours.drawn():
            together.append(_draw())
    assert together == alone


def test_sites_without_a_seed_draw_different_numbers() -> None:
    drawn = []
    for site in (OwnRandomness(), OwnRandomness()):
        with site.drawn():
            drawn.append(_draw())
    assert all(one != other for one, other in zip(*drawn, strict=True))
