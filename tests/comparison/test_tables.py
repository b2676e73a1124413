import csv
import json

import pytest

from fednnunet.comparison.costs import Cost
from fednnunet.comparison.methods import METHODS
from fednnunet.comparison.results import ALL_CASES, DICE, HD95, MEAN, OTHERS, WORST, Results
from fednnunet.comparison.tables import markdown, notes, terminal_tables, write_results
from fednnunet.evaluation.metrics import Scores
from fednnunet.report.formats import MISSING
from tests.comparison.shown import shown

A, B, X = "Dataset001_A", "Dataset002_B", "Dataset003_X"


def scores(**dice):
    """Return scores of one label by case; HD95 is ten times what Dice lacks."""
    return {(case, "organ"): Scores(dice=value, hd95=10 * (1 - value)) for case, value in dice.items()}


def results(without=None, **changes):
    found = {
        "local": {A: scores(a1=0.5, a2=0.7), B: scores(b1=0.4), X: scores(x1=0.3)},
        "asym": {A: scores(a1=0.6, a2=0.8), B: scores(b1=0.8), X: scores(x1=0.3)},
        "ffe": {A: scores(a1=0.9, a2=0.7), B: scores(b1=0.7), X: scores(x1=0.5)},
        "centralized": {A: scores(a1=1.0, a2=0.9), B: scores(b1=0.9), X: scores(x1=0.6)},
    }
    models = {name: [one_model(of)] for name, of in found.items() if name != without}
    return Results(**{"sites": [A, B], "externals": [X], "methods": list(METHODS.values()), "models": models} | changes)


def one_model(scores):
    """Return the scores of one model for both sites."""
    return dict.fromkeys((A, B), scores)


def test_the_table_has_means_over_cases_and_over_sites():
    column = results().column
    assert column(A, "dice") == pytest.approx({"local": 0.6, "asym": 0.7, "ffe": 0.8, "centralized": 0.95})
    assert column(X, "hd95") == pytest.approx({"local": 7, "asym": 7, "ffe": 5, "centralized": 4})
    # each site counts the same, and externals do not
    assert column(MEAN, "dice") == pytest.approx({"local": 0.5, "asym": 0.75, "ffe": 0.75, "centralized": 0.925})


def test_only_federated_methods_are_marked_as_best():
    found = results()
    assert found.best(A, DICE) == found.best(A, HD95) == {"ffe"}
    assert found.best(B, DICE) == {"asym"}
    assert found.best(MEAN, DICE) == {"asym", "ffe"}


def test_differences_are_paired_by_case_and_all_sites_cases_count():
    found = results()
    of_a = found.difference(METHODS["ffe"], A, "dice")
    assert of_a is not None
    assert (of_a.mean, of_a.cases) == (pytest.approx(0.2), 2)
    assert of_a.high == pytest.approx(0.2 + 12.706204736 * 0.2)  # s / sqrt(2) of 0.4 and 0.0 is 0.2
    every = found.difference(METHODS["ffe"], ALL_CASES, "hd95")
    assert every is not None
    assert (every.mean, every.cases) == (pytest.approx(-(4 + 0 + 3) / 3), 3)


def test_the_terminal_has_centralized_under_a_line_and_the_best_marked():
    dice, hd95, _, _, differences, _ = (shown(table) for table in terminal_tables(results()))
    rows = [line for line in dice.splitlines() if "│" in line or "─" in line]
    assert [row.split()[1] if "│" in row else "line" for row in rows[:5]] == [
        *("Local", "AsymFedAvg", "FFE"),
        "├" if "│" in rows[3] else "line",
        "Centralized",
    ]
    assert "X (external)" in dice
    assert [cell.strip() for cell in rows[2].strip("│").split("│")] == [
        "FFE",
        "0.800*",
        "0.700",
        "0.500*",
        "0.700*",
        "0.750*",
    ]
    assert "HD95 in mm ↓" in hd95
    cells = [[cell.strip() for cell in line.strip("│").split("│")] for line in differences.splitlines() if "│" in line]
    assert ["FFE", "A", "+0.200", "[-2.341, +2.741]", "2"] in cells
    assert ["FFE", "B", "+0.300", "", "1"] in cells  # no interval for one case


def test_markdown_has_the_same_numbers():
    text = markdown(results())
    assert "| DSC ↑ | A | B | X (external) | worst site | mean over sites |" in text
    assert "| FFE | **0.800** | 0.700 | **0.500** | **0.700** | **0.750** |" in text
    assert "| AsymFedAvg | B | +0.400 (n=1) | -4.00 (n=1) |" in text


def test_files_can_be_read_back(tmp_path):
    write_results(results(seconds={"ffe": 61.24}), tmp_path, {"fold": "0"})
    with (tmp_path / "comparison.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4 * 5 * 2  # methods, sets of cases, and one label beside the mean over labels
    (row,) = (row for row in rows if (row["method"], row["dataset"], row["label"]) == ("ffe", A, "organ"))
    assert (float(row["dice_mean"]), row["dice_cases"], row["kind"]) == (pytest.approx(0.8), "2", "site")
    assert (row["nsd_mean"], row["nsd_cases"]) == ("", "0")
    with (tmp_path / "differences.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["method"] for row in rows} == {"asym", "ffe", "centralized"}
    (row,) = (row for row in rows if list(row.values())[:4] == ["asym", B, "mean", "dice"])
    assert (float(row["mean_difference"]), row["ci95_low"], row["cases"]) == (pytest.approx(0.4), "", "1")
    content = json.loads((tmp_path / "comparison.json").read_text())
    assert content["methods"]["ffe"]["best"]["dice"] == [A, X, WORST, MEAN]
    assert content["methods"]["ffe"]["mean_over_sites"]["dice"] == pytest.approx(0.75)
    assert (content["seconds"], content["fold"]) == ({"ffe": 61.2}, "0")


def test_what_is_missing_is_said():
    found = results("asym", failures={"asym": "nothing is shared"}, untested=[B])
    assert notes(found) == [
        "AsymFedAvg has no results: nothing is shared",
        f"{B} has no labelled test cases, so it has no column.",
    ]
    assert f"| AsymFedAvg | {MISSING} | {MISSING} |" in markdown(found)
    assert found.columns == [A, X]
    assert [method.name for method in found.compared] == ["ffe", "centralized"]


def test_without_local_there_are_no_differences(tmp_path):
    found = results("local")
    assert len(terminal_tables(found)) == 4
    write_results(found, tmp_path, {})
    assert len((tmp_path / "differences.csv").read_text().splitlines()) == 1


def test_models_are_also_judged_where_they_have_not_trained_and_by_their_worst_site():
    models = [
        {
            A: {A: scores(a=0.9), B: scores(b1=0.2, b2=0.4), X: scores(x=0.5)},
            B: {A: scores(a=0.7), B: scores(b1=0.8, b2=0.8), X: scores(x=0.1)},
        },
        {
            A: {A: scores(a=0.9), B: scores(b1=0.4, b2=0.6), X: scores(x=0.5)},
            B: {A: scores(a=0.5), B: scores(b1=0.6, b2=0.8), X: scores(x=0.3)},
        },
    ]
    found = results(models={"local": models}, methods=[METHODS["local"]], seeds=[1, 2])
    local = METHODS["local"]
    assert found.column(WORST, "dice") == pytest.approx({"local": 0.75})
    assert found.column(WORST, "hd95") == pytest.approx({"local": 2.5})
    assert found.elsewhere_row(local, DICE, "others") == pytest.approx([0.4, 0.6, 0.4, 0.5])
    assert found.elsewhere_row(local, HD95, "externals") == pytest.approx([5, 8, 8, 6.5])
    assert found.column(X, "dice") == pytest.approx({"local": 0.35})
    away = found.interval(local, OTHERS, "dice")
    assert away is not None
    assert (away.mean, away.cases, away.seeds) == (pytest.approx((0.6 + 0.3 + 0.5) / 3), 3, 2)
    text = markdown(found)
    assert "| DSC ↑ | A | B | worst | mean |" in text
    assert "| Local | 0.400 | 0.600 | 0.400 | 0.500 |" in text


def test_costs_are_told():
    found = results(costs={"local": Cost(61), "ffe": Cost(3700, 2.25e6, 1e6)})
    assert "| FFE | 1:01:40 | 2.2 | 1.0 |" in markdown(found)
    assert f"| Local | 0:01:01 | {MISSING} | {MISSING} |" in markdown(found)
    assert "Cost of the training" in shown(terminal_tables(found)[-1])
