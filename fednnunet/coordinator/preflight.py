"""What must be the same at every site, checked before any work starts."""

from collections.abc import Sequence
from typing import Any

from fednnunet.channel.messages import Hello, Task
from fednnunet.errors import FednnUNetError


def check_task(hello: Hello, task: Task, fold: str | None) -> None:
    """Refuse a site that was started for something other than the coordinator.

    Raises
    ------
    FednnUNetError
        If task or fold differ; without a fold of its own the coordinator takes the sites'.
    """
    if hello.task != task:
        raise FednnUNetError(
            f"Site {hello.site} was started for {hello.task}, the coordinator for {task}: start both for one task."
        )
    if task == "train" and fold is not None and hello.fold != fold:
        raise FednnUNetError(
            f"Site {hello.site} was started for fold {hello.fold}, the coordinator for fold {fold}: "
            "start both for one fold."
        )


def check_name_is_free(hello: Hello, admitted: Sequence[Hello]) -> None:
    """Refuse a second node of one site.

    Raises
    ------
    FednnUNetError
        If a site of that name takes part already.
    """
    if any(other.site == hello.site for other in admitted):
        raise FednnUNetError(f"Site {hello.site} takes part already: start one node per site, with its own dataset.")


def check_agreement(first: Hello, other: Hello) -> None:
    """Refuse two sites that cannot be in one federation.

    Raises
    ------
    FednnUNetError
        Names both sites, the first field in which they differ, both values, and the remedy.
    """
    for package, version in first.versions.items():
        _check(package, version, other.versions.get(package), first, other, "install the same version everywhere")
    same_data = "make them equal in both dataset.json"
    _check("labels", first.labels, other.labels, first, other, same_data)
    _check("region order", first.regions_class_order, other.regions_class_order, first, other, same_data)
    if first.regions_class_order is not None:
        _check("order of labels", list(first.labels), list(other.labels), first, other, same_data)
    _check("channels", first.channels, other.channels, first, other, same_data)
    _check("order of channels", list(first.channels), list(other.channels), first, other, same_data)
    same_flag = "give the same flag to both"
    _check("image reader", first.image_reader, other.image_reader, first, other, "use one file format everywhere")
    _check("fold", first.fold, other.fold, first, other, same_flag)
    if first.planner is not None and other.planner is not None:
        for name, info in type(first.planner).model_fields.items():
            _check(str(info.title), getattr(first.planner, name), getattr(other.planner, name), first, other, same_flag)
    for name, value in first.options.items():
        _check(name, value, other.options.get(name), first, other, same_flag)
    if first.plans_digest != other.plans_digest:
        raise FednnUNetError(
            f"The plans of site {other.site} are not those of site {first.site}: "
            "run plan_and_preprocess with all sites together, then train."
        )


def _check(what: str, value: Any, other_value: Any, first: Hello, other: Hello, remedy: str) -> None:
    if value != other_value:
        raise FednnUNetError(
            f"Site {other.site} has {what} {_shown(other_value)}, site {first.site} has {_shown(value)}: {remedy}."
        )


def _shown(value: Any) -> str:
    return "none" if value is None else str(value)
