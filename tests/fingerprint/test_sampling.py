import numpy as np
import pytest

from fednnunet.fingerprint.sampling import generator, sample_counts, samples_per_case


@pytest.mark.parametrize("voxels", [1, 7, 1000, 70_000, 3_000_000])
@pytest.mark.parametrize("samples", [1, 1000, 2_500_001])
def test_voxels_are_drawn_as_numpys_choice_draws_them_channel_after_channel(voxels: int, samples: int) -> None:
    ours, reference = generator(), np.random.RandomState(1234)
    for _ in range(2):
        drawn = reference.choice(np.arange(voxels, dtype=np.float32), samples, replace=True).astype(np.int64)
        counts = sample_counts(voxels, samples, ours)
        np.testing.assert_array_equal(counts, np.bincount(drawn, minlength=voxels))


def test_the_samples_of_a_dataset_are_shared_out_over_its_cases() -> None:
    assert [samples_per_case(cases) for cases in (1, 3, 167)] == [100_000_000, 33_333_333, 598_802]
