import pytest

from fednnunet.errors import FednnUNetError
from fednnunet.folds import check_fold, parse_folds, spelled


@pytest.mark.parametrize(
    ("text", "number", "folds"),
    [
        ("0", 5, (0,)),
        ("6", 7, (6,)),
        ("all", 5, (0, 1, 2, 3, 4)),
        ("all", 3, (0, 1, 2)),
        ("all", 1, (0,)),
        ("fold_all", 3, ("all",)),
    ],
)
def test_fold_argument(text: str, number: int, folds: tuple[int | str, ...]) -> None:
    assert parse_folds(text, number) == folds


@pytest.mark.parametrize("text", ["-1", "", "fold_0", "ALL", "01", "1000", "1.0", "²"])
def test_what_is_no_fold_is_refused_with_the_choices(text: str) -> None:
    with pytest.raises(FednnUNetError, match="fold_all"):
        check_fold(text)


def test_a_fold_that_the_split_does_not_have_is_refused() -> None:
    with pytest.raises(FednnUNetError, match="Invalid fold 3: the split has the folds 0 to 2"):
        parse_folds("3", 3)


def test_titles_name_the_folds_that_there_are() -> None:
    assert [spelled("all", 7), spelled("all", None), spelled("2", 7), spelled("fold_all", None)] == [
        "folds 0-6 together",
        "all folds together",
        "fold 2",
        "fold all",
    ]
