import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from nnunetv2.preprocessing.resampling.default_resampling import compute_new_shape

from fednnunet.errors import FednnUNetError
from fednnunet.fingerprint.pseudo_cases import Axis, pseudo_cases

SPACING = st.floats(0.05, 1000).map(float)


@given(
    st.lists(st.tuples(SPACING, st.integers(1, 900)), min_size=3, max_size=12),
    st.one_of(st.none(), st.floats(0.01, 2000)),
    st.booleans(),
)
def test_the_planner_cannot_tell_them_from_real_cases(
    cases: list[tuple[float, int]], overwritten: float | None, is_anisotropic: bool
) -> None:
    spacings, shapes = (np.array(column) for column in zip(*cases, strict=True))
    low = float(np.percentile(spacings, 10)) if is_anisotropic else float(np.sort(spacings)[(len(cases) - 1) // 2])
    target = overwritten or (low if is_anisotropic else float(np.median(spacings)))

    def resampled(spacings: np.ndarray, shapes: np.ndarray) -> np.ndarray:
        return np.array([compute_new_shape([n], [s], [target])[0] for s, n in zip(spacings, shapes, strict=True)])

    def middle(values: np.ndarray) -> tuple[float, float]:
        ordered = np.sort(values)
        return ordered[(len(values) - 1) // 2].item(), ordered[len(values) // 2].item()

    assume(resampled(spacings, shapes).max() < 2**31)
    axis = Axis(middle(spacings), middle(shapes), middle(resampled(spacings, shapes)), low, target)
    made_spacings, made_shapes = pseudo_cases(axis)
    assert np.median(made_spacings) == np.median(spacings)
    assert np.percentile(made_spacings, 50) == np.percentile(spacings, 50)
    assert np.median(made_shapes) == np.median(shapes)
    assert np.median(resampled(made_spacings, made_shapes)) == np.median(resampled(spacings, shapes))
    assert np.percentile(made_spacings, 10) == low
    assert made_spacings.min() > 0
    assert made_shapes.min() > 0


def test_statistics_that_no_images_have_are_refused() -> None:
    # half of the cases have voxels of at least 4 mm: no median resampled shape is below that of one such voxel
    with pytest.raises(FednnUNetError, match="has answered wrongly"):
        pseudo_cases(Axis((4.0, 4.0), (10, 10), (2, 2), low_spacing=4.0, target=1.0))
