import pytest

from fednnunet.errors import FednnUNetError
from fednnunet.folds import parse_folds


@pytest.mark.parametrize(
    ("text", "folds"),
    [("0", (0,)), ("4", (4,)), ("all", (0, 1, 2, 3, 4)), ("fold_all", ("all",))],
)
def test_fold_argument(text: str, folds: tuple[int | str, ...]) -> None:
    assert parse_folds(text) == folds


@pytest.mark.parametrize("text", ["5", "-1", "", "fold_0", "ALL", "01"])
def test_what_is_no_fold_is_refused_with_the_choices(text: str) -> None:
    with pytest.raises(FednnUNetError, match="fold_all"):
        parse_folds(text)
