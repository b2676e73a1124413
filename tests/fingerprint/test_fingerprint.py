import json

import numpy as np
import pytest

from fednnunet.errors import FednnUNetError
from fednnunet.fingerprint.fingerprint import Fingerprint
from fednnunet.fingerprint.plans import plans_digest


def test_nnunets_json_gives_the_fingerprint_back() -> None:
    rng = np.random.default_rng(1)
    own = Fingerprint(rng.uniform(0.5, 3, (3, 3)), rng.integers(10, 90, (3, 3)), rng.normal(size=(2, 7)), 0.7)
    copy = Fingerprint.from_nnunet(json.loads(json.dumps(own.to_nnunet())))
    for name in ("spacings", "shapes", "intensities"):
        np.testing.assert_array_equal(getattr(copy, name), getattr(own, name))
        assert getattr(copy, name).dtype == getattr(own, name).dtype
    assert copy.relative_size == own.relative_size
    assert copy.cases == 3


@pytest.mark.parametrize(("cases", "shapes"), [(2, 1), (0, 0)])
def test_malformed_fingerprints_are_refused(cases: int, shapes: int) -> None:
    with pytest.raises(FednnUNetError, match="fingerprint"):
        Fingerprint(np.ones((cases, 3)), np.ones((shapes, 3), int), np.ones((1, 7)), 1.0)


def test_plans_digest_ignores_the_name_of_the_dataset_and_nothing_else() -> None:
    plans = {"dataset_name": "A", "plans_name": "nnUNetPlans", "configurations": {"2d": {"batch_size": 2}}}
    assert plans_digest(plans) == plans_digest({**plans, "dataset_name": "B"})
    assert plans_digest(plans) != plans_digest({**plans, "configurations": {"2d": {"batch_size": 3}}})
