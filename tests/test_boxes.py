import numpy as np

from fednnunet.boxes import bounding_box


def test_the_box_is_the_smallest_around_all_that_is_true() -> None:
    mask = np.zeros((4, 5, 6), bool)
    mask[1, 2, 3] = mask[3, 2, 5] = True
    assert bounding_box(mask) == (slice(1, 4), slice(2, 3), slice(3, 6))


def test_without_anything_true_the_box_is_the_whole_image() -> None:
    image = np.zeros((2, 3))
    assert image[bounding_box(image != 0)].shape == image.shape
