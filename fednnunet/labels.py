"""Interprets the ``labels`` of a ``dataset.json`` like nnU-Net's ``LabelManager``, and keeps the user's names.

nnU-Net identifies labels by number and regions by a tuple of numbers. These keys, and never positions in a file, match
its results with names.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from fednnunet.errors import FednnUNetError

BACKGROUND = "background"
IGNORE = "ignore"
"""nnU-Net's name of the label for unlabelled voxels."""

LONGEST_NAME = 200

Key = int | tuple[int, ...]
"""A label, or the labels of a region."""


@dataclass(frozen=True)
class Labels:
    """The labels of a dataset.

    Attributes
    ----------
    keys
        Label or region by name, background and ignore label among them, in the order of ``dataset.json``.
    regions_class_order
        What nnU-Net writes for each region, ``None`` where there are no regions.
    """

    keys: Mapping[str, Key]
    regions_class_order: tuple[int, ...] | None = None

    @property
    def has_regions(self) -> bool:
        """Whether nnU-Net predicts regions, not labels."""
        return _has_regions(self.keys)

    @property
    def ignore(self) -> int | None:
        """The ignore label, if there is one."""
        value = self.keys.get(IGNORE)
        return value if isinstance(value, int) else None

    @property
    def numbers(self) -> frozenset[int]:
        """Values allowed in a segmentation, including the ignore label."""
        return frozenset(number for key in self.keys.values() for number in members(key))

    @cached_property
    def foreground(self) -> dict[str, Key]:
        """Names of predicted and scored classes; nnU-Net's ``foreground_labels`` or ``foreground_regions``."""
        return {name: key for name, key in self.keys.items() if name != IGNORE and set(members(key)) != {0}}

    def by_name(self, by_key: Mapping[str, Any]) -> dict[str, Any]:
        """Convert nnU-Net's results by key, as in its ``summary.json``, to results by name."""
        found = {_numbers_of(key): value for key, value in by_key.items()}
        return {name: found[members(key)] for name, key in self.foreground.items() if members(key) in found}

    @property
    def outputs(self) -> list[tuple[int, ...]]:
        """Classes of nnU-Net's network, in its order: labels by number, regions as listed."""
        keys = [members(key) for key in self.foreground.values()]
        return keys if self.has_regions else sorted(set(keys))

    def from_outputs(self, values: Sequence[Any]) -> dict[str, Any]:
        """Convert nnU-Net's results in the order of `outputs` (``dice_per_class_or_region``) to results by name."""
        if self.has_regions:  # two names may stand for one region, which then has two outputs
            return dict(zip(self.foreground, values, strict=True))
        by_key = dict(zip(self.outputs, values, strict=True))
        return {name: by_key[members(key)] for name, key in self.foreground.items()}

    def to_json(self) -> dict[str, int | list[int]]:
        """Return the ``labels`` of a ``dataset.json`` that mean the same."""
        return {name: key if isinstance(key, int) else list(key) for name, key in self.keys.items()}


def read_labels(content: Mapping[str, Any]) -> Labels:
    """Return the labels of a ``dataset.json``, if nnU-Net can work with them.

    Numbers written as text or as ``1.0`` count as numbers, as they do in nnU-Net where there are no regions.

    Raises
    ------
    FednnUNetError
        Says what is wrong and what to do, to be put behind the name of the file.
    """
    labels, order = content.get("labels"), content.get("regions_class_order")
    if not isinstance(labels, dict) or not labels:
        raise FednnUNetError('has no "labels": map each name to its number, {"background": 0, "tumour": 1}')
    if BACKGROUND not in labels and "0" in labels:
        raise FednnUNetError(
            "maps numbers to names, as nnU-Net 1 did: map names to numbers, "
            '{"background": 0, "tumour": 1}, or convert the dataset with nnUNetv2_convert_old_nnUNet_dataset'
        )
    if BACKGROUND not in labels:
        raise FednnUNetError('has no label "background": add "background": 0 to its labels')
    for name in labels:
        check_name("label", name)
    keys = {name: _key(name, value) for name, value in labels.items()}
    if keys[BACKGROUND] != 0:
        raise FednnUNetError(f'has {labels[BACKGROUND]!r} as label "background": nnU-Net wants 0 there')
    if not _has_regions(keys):
        return _checked(Labels({name: members(key)[0] for name, key in keys.items()}))
    for name, value in labels.items():
        if not all(type(number) is int for number in (value if isinstance(value, list) else [value])):
            raise FednnUNetError(f'writes "{name}" as {value!r}, but has regions: write whole numbers without quotes')
    return _checked(Labels(keys, _order(order, keys)))


def members(key: Key) -> tuple[int, ...]:
    """Return the labels of a region, or the one label."""
    return (key,) if isinstance(key, int) else key


def check_name(what: str, name: str) -> None:
    """Refuse a name that is not one printable line: it would tear tables, logs and messages apart."""
    if len(name) > LONGEST_NAME or not name.isprintable():
        raise FednnUNetError(
            f"has a {what} {name[:40]!r}, which is not a printable line of at most {LONGEST_NAME} characters: rename it"
        )


def _has_regions(keys: Mapping[str, Key]) -> bool:
    return any(isinstance(key, tuple) and len(key) > 1 for key in keys.values())


def _checked(labels: Labels) -> Labels:
    foreground = labels.foreground
    known = sorted({number for name, key in labels.keys.items() if name != IGNORE for number in members(key)})
    if not foreground:
        raise FednnUNetError("has only the label background: add at least one other")
    # with regions, the network has an output for each of them, whatever their numbers are
    gap = next((number for number in range(known[-1]) if number not in known), None)
    if gap is not None and not labels.has_regions:
        raise FednnUNetError(
            f"has no label {gap}, but {known[-1]}: nnU-Net wants the numbers 0, 1, 2 … without a gap, here and in "
            "the segmentations"
        )
    if IGNORE in labels.keys and labels.ignore != known[-1] + 1:
        raise FednnUNetError(
            f'has {labels.keys[IGNORE]} as label "ignore": nnU-Net wants the number after the highest label, '
            f"{known[-1] + 1}"
        )
    return labels


def _order(order: object, keys: Mapping[str, Key]) -> tuple[int, ...]:
    regions = len(Labels(keys).foreground)
    if not isinstance(order, list) or not all(type(number) is int for number in order):
        raise FednnUNetError(
            'has regions, but no "regions_class_order": list the number that is written for each region, outer ones '
            "first"
        )
    if len(order) != regions:
        raise FednnUNetError(
            f'has {regions} regions, but {len(order)} numbers in "regions_class_order": list one for each region'
        )
    return tuple(order)


def _key(name: str, value: object) -> Key:
    if isinstance(value, list):
        if not value:
            raise FednnUNetError(f'has no numbers for the region "{name}": list its labels')
        return tuple(_number(name, item) for item in value)
    return _number(name, value)


def _number(name: str, value: object) -> int:
    is_whole = isinstance(value, int | float) and not isinstance(value, bool) and value == value // 1 and value >= 0
    is_text_of_one = isinstance(value, str) and value.strip().isdecimal()
    if not (is_whole or is_text_of_one) or (name == IGNORE and type(value) is not int):
        raise FednnUNetError(f'has {value!r} as number of "{name}": write a whole number from 0, without quotes')
    return int(value)  # type: ignore[call-overload, no-any-return]


def _numbers_of(key: str) -> tuple[int, ...]:
    """Return the label or region of a key of ``summary.json``: ``"3"`` or ``"(1, 2)"``."""
    return tuple(int(number) for number in key.strip("()").split(",") if number.strip())
