import numpy as np
import pytest
from matplotlib.image import imread

from fednnunet.report.pictures import Example, save_picture


@pytest.mark.parametrize("shape", [(20, 24), (6, 20, 24)])
def test_a_picture_has_one_row_for_each_example(tmp_path, shape):
    rng = np.random.default_rng(0)
    truth = np.zeros(shape, np.uint8)
    truth[..., 5:10, 5:12] = 1
    truth[..., 7:9, 7:9] = 2
    example = Example("Dice 0.9", rng.normal(size=shape), truth, np.zeros_like(truth), (2.0,) * len(shape))
    heights = []
    for count in (1, 3):
        path = tmp_path / f"{count}.png"
        save_picture(path, "HospitalA", [example] * count)
        picture = imread(path)
        assert picture.std() > 0.05
        heights.append(picture.shape[0])
    assert heights[1] > 2 * heights[0]
