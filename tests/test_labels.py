"""What nnU-Net's LabelManager makes of labels, and by which name its results are told."""

import itertools

import pytest
from nnunetv2.evaluation.evaluate_predictions import label_or_region_to_key
from nnunetv2.utilities.label_handling.label_handling import LabelManager

from fednnunet.errors import FednnUNetError
from fednnunet.labels import members, read_labels

TWELVE = {"background": 0, **{f"organ{number:02d}": number for number in (12, 3, 1, 2, 11, 10, 9, 4, 5, 6, 7, 8)}}
ACCEPTED = [
    ({"background": 0, "a": 1}, None),
    (TWELVE, None),
    ({"background": "0", "a": "1", "b": 2.0}, None),
    ({"background": 0, "a": [1], "b": [2]}, None),
    ({"background": 0, "a": 2, "b": 1, "ignore": 3}, None),
    ({"background": 0, "core": [3], "whole": [1, 2, 3], "tumour": [2, 3]}, [1, 2, 3]),
    ({"core": 3, "background": 0, "whole": [3, 1, 2], "ignore": 4}, [3, 1]),
    ({"background": 0, "whole": [1, 3], "core": 3}, [1, 3]),
    ({"overall": 1, "background": 0, "mean": 2, "site": 3}, None),
]


@pytest.mark.parametrize(("labels", "order"), ACCEPTED)
def test_labels_mean_what_they_mean_to_nnunet(labels, order):
    ours = read_labels({"labels": labels, "regions_class_order": order})
    manager = LabelManager(labels, order)
    assert ours.has_regions == manager.has_regions
    assert ours.ignore == manager.ignore_label
    keys = manager.foreground_regions if manager.has_regions else manager.foreground_labels
    assert ours.outputs == [tuple(map(int, key)) if isinstance(key, tuple) else (int(key),) for key in keys]
    assert ours.numbers == {*map(int, manager.all_labels), *({ours.ignore} - {None})}


@pytest.mark.parametrize(("labels", "order"), ACCEPTED)
def test_results_are_matched_by_nnunets_key_whatever_their_order_is(labels, order):
    ours = read_labels({"labels": labels, "regions_class_order": order})
    manager = LabelManager(labels, order)
    keys = manager.foreground_regions if manager.has_regions else manager.foreground_labels
    summary = {label_or_region_to_key(key): f"result of {_members(key)}" for key in keys}
    expected = {name: f"result of {members(key)}" for name, key in ours.foreground.items()}
    for order_of_file in (sorted(summary), sorted(summary, reverse=True)):
        assert ours.by_name({key: summary[key] for key in order_of_file}) == expected
    assert ours.from_outputs([f"result of {_members(key)}" for key in keys]) == expected


def _members(key):
    return tuple(map(int, key)) if isinstance(key, tuple) else (int(key),)


def test_two_names_of_one_region_or_label_both_get_its_result():
    regions = read_labels({"labels": {"background": 0, "w": [1, 2], "v": [1, 2]}, "regions_class_order": [1, 2]})
    assert regions.from_outputs([0.5, 0.25]) == {"w": 0.5, "v": 0.25}
    assert regions.by_name({"(1, 2)": 0.5}) == {"w": 0.5, "v": 0.5}
    labels = read_labels({"labels": {"background": 0, "w": 1, "v": 1}})
    assert labels.from_outputs([0.5]) == labels.by_name({"1": 0.5}) == {"w": 0.5, "v": 0.5}


@pytest.mark.parametrize(
    ("labels", "order", "what"),
    [
        (None, None, 'has no "labels"'),
        ([], None, 'has no "labels"'),
        ({"0": "background", "1": "a"}, None, "as nnU-Net 1 did"),
        ({"a": 1}, None, 'no label "background"'),
        ({"background": 1, "a": 0}, None, 'has 1 as label "background"'),
        ({"background": [0], "a": [1, 2]}, [1], "background"),
        ({"background": 0}, None, "only the label background"),
        ({"background": 0, "a": 1, "b": 3}, None, "has no label 2, but 3"),
        ({"background": 0, "a": 2, "ignore": 1}, None, "no label 1"),
        ({"background": 0, "a": 1, "ignore": 3}, None, "after the highest label, 2"),
        ({"background": 0, "a": 1, "ignore": "2"}, None, "'2' as number of \"ignore\""),
        ({"background": 0, "w": [1, 2], "a": 1}, None, "regions_class_order"),
        ({"background": 0, "w": [1, 2], "a": 1}, [1], "has 2 regions, but 1"),
        ({"background": 0, "w": ["1", "2"], "a": 1}, [1, 2], "without quotes"),
        ({"background": 0, "w": []}, [], "no numbers for the region"),
        ({"background": 0, "a": 1.5}, None, "1.5"),
        ({"background": 0, "a": True}, None, "True"),
        ({"background": 0, "a": -1}, None, "-1"),
        ({"background": 0, "a": float("nan")}, None, "nan"),
        ({"background": 0, "a": None}, None, "None"),
        ({"background": 0, "a": {"x": 1}}, None, "whole number"),
    ],
)
def test_labels_with_which_nnunet_cannot_work_are_refused(labels, order, what):
    content = {"labels": labels, "regions_class_order": order}
    with pytest.raises(FednnUNetError, match=what.replace("(", r"\(")):
        read_labels(content if labels is not None else {})


def test_all_orders_of_regions_come_by_name():
    regions = {"core": [3], "whole": [1, 2, 3], "tumour": [2, 3]}
    for names in itertools.permutations(regions):
        labels = read_labels(
            {"labels": {"background": 0, **{name: regions[name] for name in names}}, "regions_class_order": [1, 2, 3]}
        )
        assert labels.from_outputs([len(regions[name]) for name in names]) == {n: len(m) for n, m in regions.items()}
