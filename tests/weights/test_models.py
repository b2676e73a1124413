"""The way of weights, site -> coordinator -> site, without a network."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fednnunet.errors import FednnUNetError
from fednnunet.weights.aggregation import AGGREGATIONS
from fednnunet.weights.encoding import ENCODINGS, EncodingName
from fednnunet.weights.global_model import GlobalModel, slices
from fednnunet.weights.layout import Layout, TensorSpec
from fednnunet.weights.server_optimizers import server_optimizer
from fednnunet.weights.site_model import SiteModel

SIZE = 700
GROUP = Layout((TensorSpec("a", (300,), "float32"), TensorSpec("b", (20, 20), "float32")))
OTHER = Layout((TensorSpec("c", (10,), "float32"),))


class _Federation:
    """Sites with one group, and what the coordinator does in a round."""

    def __init__(self, encoding: EncodingName, sites: int, optimizer: str = "none") -> None:
        self.sites = [SiteModel(f"site {index}", [GROUP], ENCODINGS[encoding]) for index in range(sites)]
        initial = np.random.default_rng(0).normal(size=SIZE).astype(np.float32)
        self.sites[0].hold(initial)
        for site in self.sites:
            site.take(0, 0, SIZE, 0, self.sites[0].send(0, 0, SIZE, 0))
            site.accept()
        server = server_optimizer(optimizer, SIZE, None)  # type: ignore[arg-type]
        self.model = GlobalModel(initial, ENCODINGS[encoding], AGGREGATIONS["mean"], server)

    def round(self, number: int, updates: list[np.ndarray], weights: list[int], length: int) -> None:
        for site, update in zip(self.sites, updates, strict=True):
            site.hold(update)
        parts = [slice(start, min(start + length, SIZE)) for start in range(0, SIZE, length)]
        for part in (*parts, *parts):  # twice, as when a site is lost meanwhile: the result must be that of once
            received = [self.model.decode(site.send(0, part.start, part.stop, number), part) for site in self.sites]
            self.model.aggregate(part, received, weights)
        for part in parts:
            data = self.model.advance(part, number)
            for site in self.sites:
                site.take(0, part.start, part.stop, number, data)
        for site in self.sites:
            site.accept()


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("optimizer", ["none", "momentum", "adam"])
def test_all_sites_and_the_coordinator_have_the_same_bits_after_each_round(
    encoding: EncodingName, optimizer: str
) -> None:
    rng = np.random.default_rng(1)
    federation = _Federation(encoding, 3, optimizer)
    for number in range(1, 4):
        updates = [site.weights + rng.normal(size=SIZE).astype(np.float32) / 100 for site in federation.sites]
        federation.round(number, updates, [5, 1, 3], length=256)
        for site in federation.sites:
            np.testing.assert_array_equal(site.weights, federation.model.weights)


@given(st.lists(st.integers(1, 500), min_size=1, max_size=5), st.integers(1, SIZE))
def test_in_float32_the_global_model_is_the_weighted_mean_however_it_is_sliced(weights: list[int], length: int) -> None:
    rng = np.random.default_rng(sum(weights))
    updates = [rng.normal(size=SIZE).astype(np.float32) for _ in weights]
    federation = _Federation("float32", len(weights))
    federation.round(1, updates, weights, length)
    exact = sum(weight * update.astype(np.float64) for weight, update in zip(weights, updates, strict=True))
    np.testing.assert_array_equal(federation.model.weights, (exact / sum(weights)).astype(np.float32))


@pytest.mark.parametrize(("encoding", "error"), [("float16", 2e-5), ("int8", 1e-3)])
def test_smaller_encodings_follow_the_exact_average_round_after_round(encoding: EncodingName, error: float) -> None:
    rng = np.random.default_rng(2)
    exact, small = _Federation("float32", 3), _Federation(encoding, 3)
    for number in range(1, 31):
        drifts = [rng.normal(size=SIZE).astype(np.float32) / 100 for _ in range(3)]
        for federation in (exact, small):
            updates = [site.weights + drift for site, drift in zip(federation.sites, drifts, strict=True)]
            federation.round(number, updates, [2, 1, 1], length=512)
    # 30 rounds of steps of 0.01: without making good for rounding, errors of int8 would add up to several times this
    assert np.abs(exact.model.weights - small.model.weights).max() < error


def test_groups_of_a_site_do_not_touch_each_other() -> None:
    site = SiteModel("A", [GROUP, OTHER], ENCODINGS["float32"])
    site.hold(np.arange(SIZE + 10, dtype=np.float32))
    assert site.send(1, 2, 4, 0) == np.array([SIZE + 2, SIZE + 3], np.float32).tobytes()
    site.take(1, 0, 10, 0, np.ones(10, np.float32).tobytes())
    site.accept()
    assert site.weights[:SIZE].max() == 0
    assert (site.weights[SIZE:] == 1).all()


@pytest.mark.parametrize("part", [(2, 0, 1), (-1, 0, 1), (0, 5, 5), (0, -1, 5), (0, 0, SIZE + 1), (1, 0, 11)])
def test_parts_that_there_are_not_are_refused(part: tuple[int, int, int]) -> None:
    site = SiteModel("A", [GROUP, OTHER], ENCODINGS["int8"])
    with pytest.raises(FednnUNetError, match="which does not exist"):
        site.send(*part, 1)
    with pytest.raises(FednnUNetError, match="which does not exist"):
        site.take(*part, 1, b"")


@pytest.mark.parametrize("sites", [1, 3, 64])
def test_slices_cover_a_model_once_and_are_small_for_many_sites(sites: int) -> None:
    parts = list(slices(5_000_000, sites))
    assert [part.start for part in parts[1:]] == [part.stop for part in parts[:-1]]
    assert (parts[0].start, parts[-1].stop) == (0, 5_000_000)
    assert max(part.stop - part.start for part in parts) * sites * 4 <= 24 << 20
    assert list(slices(0, sites)) == []
