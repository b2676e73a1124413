import pytest

from fednnunet.errors import FednnUNetError
from fednnunet.node.preprocessing import processes_of

CASCADE = "3d_cascade_fullres"


@pytest.mark.parametrize(
    ("configurations", "counts", "expected"),
    [
        (["2d", "3d_fullres", "3d_lowres"], None, {"2d": 8, "3d_fullres": 4, "3d_lowres": 8}),
        (["2d", "3d_fullres"], [3], {"2d": 3, "3d_fullres": 3}),
        (["2d", "3d_fullres"], [3, 2], {"2d": 3, "3d_fullres": 2}),
        (["2d", CASCADE], [3, 2], {"2d": 3, "3d_lowres": 2, "3d_fullres": 2}),
        (["3d_fullres", CASCADE], [3, 2], {"3d_fullres": 3, "3d_lowres": 2}),
        ([CASCADE], None, {"3d_lowres": 8, "3d_fullres": 4}),
    ],
)
def test_processes_of_each_configuration(
    configurations: list[str], counts: list[int] | None, expected: dict[str, int]
) -> None:
    assert processes_of(configurations, counts) == expected


def test_counts_that_fit_no_configuration_are_refused() -> None:
    with pytest.raises(FednnUNetError, match="-np takes one number, or one for each of 2d, 3d_fullres"):
        processes_of(["2d", "3d_fullres"], [1, 2, 3])
