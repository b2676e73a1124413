"""What stands in tables in files is text, whatever another site has written."""

import csv
import io

import pytest

from fednnunet.table_cells import Markdown, markdown_cell, markdown_table, write_csv

FORMULAS = (
    "=1+1",
    "+cmd|' /C calc'!A0",
    "-2+3",
    "@SUM(A1)",
    "\tx",
    "\r=x",
    "  =1",
    "\uff1d1",
    '=HYPERLINK("http://x")',
)


def _written(*cells: object) -> list[str]:
    file = io.StringIO()
    write_csv(file, [cells])
    (row,) = csv.reader(io.StringIO(file.getvalue(), newline=""))
    return row


@pytest.mark.parametrize("text", FORMULAS)
def test_a_text_that_a_spreadsheet_would_calculate_is_marked_as_text(text: str) -> None:
    assert _written(text) == ["'" + text]


@pytest.mark.parametrize("cell", ["liver", "a=b", "a-b", "-1.5", "+3", "1e-05", "-1e+20", "", "[overall]", "Ä b", "'a"])
def test_other_texts_and_numbers_stay_as_they_are(cell: str) -> None:
    assert _written(cell) == [cell]
    assert _written(-0.25, 7, None) == ["-0.25", "7", ""]


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ("liver_tumour (left)", "liver_tumour (left)"),
        ("a|b", r"a\|b"),
        ("a\\|b", r"a\\\|b"),
        ("a\n\n# b", "a  # b"),
        ("[x](http://e.example)", r"\[x\](http\://e.example)"),
        ("<script>alert(1)</script>", r"\<script\>alert(1)\</script\>"),
        ("&lt;b&gt;", r"\&lt;b\&gt;"),
        ("`x` **y** ~~z~~", r"\`x\` \*\*y\*\* \~\~z\~\~"),
        ("www.e.example", r"www\.e.example"),
        ("a\x1b[2Jb\u202ec", r"a?\[2Jb?c"),
    ],
)
def test_a_text_in_markdown_is_shown_as_it_is_in_one_line(text: str, cell: str) -> None:
    assert markdown_cell(text) == cell


def test_a_row_of_a_table_has_as_many_cells_as_it_was_given_and_what_is_markdown_stays_so() -> None:
    table = markdown_table(["x|y", "z"], [["a|b", Markdown("**c**")], ["*d*", "e"]])
    assert table == [r"| x\|y | z |", "|---|--:|", r"| a\|b | **c** |", r"| \*d\* | e |"]
