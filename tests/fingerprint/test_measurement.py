import numpy as np
from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import DatasetFingerprintExtractor

from fednnunet.fingerprint.measurement import SiteMeasurement, measure_case
from tests.pooled import Case, generate_federation


def _reader_of(case: Case) -> type:
    class Reader:
        def read_images(self, names: object) -> tuple[np.ndarray, dict[str, object]]:
            return case.images.copy(), {"spacing": case.spacing}

        def read_seg(self, name: object) -> tuple[np.ndarray, dict[str, object]]:
            return case.segmentation.copy(), {}

    return Reader


def test_a_case_is_measured_as_nnunet_analyses_it() -> None:
    nowhere = Case(np.zeros((1, 3, 4, 5), np.float32), np.ones((1, 3, 4, 5), np.float32), (1, 1, 1))
    cases = [case for seed in range(6) for site in generate_federation(seed) for case in site]
    for case in [*cases, nowhere]:
        ours = measure_case(case.images, case.segmentation, case.spacing, 500)
        shape, spacing, samples, _, relative_size = DatasetFingerprintExtractor.analyze_case(
            [], "", _reader_of(case), 500
        )
        assert tuple(ours.shape) == shape
        assert tuple(ours.spacing) == tuple(spacing)
        assert ours.relative_size == relative_size
        for mine, theirs in zip(ours.samples, samples, strict=True):
            np.testing.assert_array_equal(np.repeat(mine.values, mine.counts), np.sort(theirs) + 0.0)


def test_uniting_many_cases_one_by_one_loses_none() -> None:
    rng = np.random.default_rng(0)
    images = rng.normal(size=(40, 1, 1, 200, 200)).astype(np.float32)
    segmentation = np.ones((1, 1, 200, 200), np.float32)
    site = SiteMeasurement.of(measure_case(image, segmentation, (1, 1, 1), 90_000) for image in images)
    (samples,) = site.samples
    assert samples.total == 40 * 90_000
    assert np.isin(samples.values, images).all()
    assert (np.diff(samples.values) > 0).all()
    assert site.is_two_dimensional
