"""Checks that all sites agree on data, versions and flags, before any work starts."""

from collections.abc import Mapping, Sequence
from typing import Any

from fednnunet.errors import FednnUNetError
from fednnunet.folds import FOLDS_OF_NNUNET
from fednnunet.protocol.messages import TASKS_WITH_NETWORK, Hello
from fednnunet.schema import Message
from fednnunet.security.identity import SiteList
from fednnunet.settings.coordinator import CoordinatorSettings
from fednnunet.wording import counted

_FEWEST_CASES = 3
"""Below this the median of something is always the value of one certain case."""


def check_task(hello: Hello, settings: CoordinatorSettings) -> None:
    """Refuse a site that was started for something other than the coordinator.

    Raises
    ------
    FednnUNetError
        If task, fold, method or kind of fingerprint differ; what the coordinator was not told, it takes from the sites.
    """
    task, fold = settings.task, settings.fold
    if hello.task != task:
        raise FednnUNetError(
            f"Site {hello.site} was started for {hello.task}, the coordinator for {task}: start both for one task."
        )
    if task in TASKS_WITH_NETWORK and fold is not None and hello.fold != fold:
        raise FednnUNetError(
            f"Site {hello.site} was started for fold {hello.fold}, the coordinator for fold {fold}: "
            "start both for one fold."
        )
    if task == "plan_and_preprocess" and settings.asym and hello.method != "AsymFedAvg":
        raise FednnUNetError(f"Site {hello.site} was started without --asym, the coordinator with: start both alike.")
    if task not in TASKS_WITH_NETWORK and settings.fingerprint not in (None, hello.fingerprint):
        raise FednnUNetError(
            f"Site {hello.site} was started with --fingerprint {hello.fingerprint}, the coordinator with "
            f"{settings.fingerprint}: start both alike."
        )


def check_masking(hello: Hello, settings: CoordinatorSettings, listed: SiteList | None) -> None:
    """Refuse a site whose answers and updates would come in another form than the coordinator can sum.

    Parameters
    ----------
    hello
        How the site introduced itself.
    settings
        The coordinator's.
    listed
        Its list of sites, with ``secure``.

    Raises
    ------
    FednnUNetError
        If they would be masked, and should not be, or the other way round, or the site has another list of sites.
    """
    if not hello.is_aggregated or settings.given_plans is not None:
        return
    site, digest = hello.site, hello.sites_digest
    if not settings.secure:
        if digest is not None:
            raise FednnUNetError(f"Site {site} takes part in masked sums only: start the coordinator with --secure.")
        return
    assert listed is not None, "masked sums without a list of sites"
    if digest is None:
        what = "updates" if hello.task == "train" else "answers"
        raise FednnUNetError(
            f"Site {site} sends plain {what}: start its node with --sites and its own list of sites, or the "
            "coordinator without --secure."
        )
    if digest != listed.digest:
        raise FednnUNetError(
            f"Site {site} has a list of sites with the digest {digest}, the coordinator one with {listed.digest}: "
            "compare 'fednnunet sites digest' at both."
        )


def check_agreement(first: Hello, other: Hello) -> None:
    """Refuse two sites that cannot be in one federation.

    Raises
    ------
    FednnUNetError
        Names both sites, the first field in which they differ, both values, and the remedy.
    """
    for package, version in first.versions.items():
        _check(package, version, other.versions.get(package), first, other, "install the same version everywhere")
    is_evaluation = first.task == "evaluate"  # of models that may come from anywhere
    if not is_evaluation:
        _check("method", first.method, other.method, first, other, "give --asym to all or to none, and plan again")
    same_data = "make them equal in both dataset.json"
    ignored = first.labels.get("ignore"), other.labels.get("ignore")
    _check("ignore label", *ignored, first, other, same_data)
    _check("labels", first.labels, other.labels, first, other, same_data)
    _check("region order", first.regions_class_order, other.regions_class_order, first, other, same_data)
    if first.regions_class_order is not None:
        _check("order of labels", list(first.labels), list(other.labels), first, other, same_data)
    _check("channels", first.channels, other.channels, first, other, same_data)
    same_flag = "give the same flag to both"
    _check("fold", first.fold, other.fold, first, other, same_flag)
    if first.fold == "all" and not is_evaluation:
        fewer = "choose one fold, or give all sites the same number of folds in splits_final.json"
        _check("number of folds", first.folds, other.folds, first, other, fewer)
    _check_options(first.training, other.training, first, other, same_flag)
    _check_options(first.evaluation, other.evaluation, first, other, same_flag)
    if first.method == "FFE" and not is_evaluation:
        _check_common_plans(first, other, same_flag)


def _check_common_plans(first: Hello, other: Hello, same_flag: str) -> None:
    """Refuse two sites that cannot have one fingerprint, or that do not have the same plans."""
    _check("image reader", first.image_reader, other.image_reader, first, other, "use one file format everywhere")
    _check("--fingerprint", first.fingerprint, other.fingerprint, first, other, same_flag)
    _check_options(first.planner, other.planner, first, other, same_flag)
    if first.plans_digest != other.plans_digest:
        own = [hello.site for hello in (first, other) if hello.plans_are_own]
        if own:
            raise FednnUNetError(
                f"The plans of site {other.site} differ from those of site {first.site}, and no federation made those "
                f"of site {own[0]}: distribute one file to all sites with plan_and_preprocess --plans FILE at the "
                "coordinator, or let every site plan for itself with plan_and_preprocess --asym."
            )
        changed = [hello.site for hello in (first, other) if not hello.plans_are_as_made]
        why = f" (at site {changed[0]} they were changed after the federation made them)" if changed else ""
        raise FednnUNetError(
            f"The plans of site {other.site} differ from those of site {first.site}{why}: "
            "run plan_and_preprocess with all sites together, which keeps a copy of changed plans, or distribute one "
            "file to all sites with plan_and_preprocess --plans FILE at the coordinator."
        )


def check_federation(hellos: Sequence[Hello], *, has_plans: bool = False) -> list[str]:
    """Refuse a federation that cannot work although its sites agree; return warnings for its users.

    Parameters
    ----------
    hellos
        How the sites introduced themselves.
    has_plans
        Whether plans were given, so that no fingerprint is made.

    Raises
    ------
    FednnUNetError
        If a common fingerprint would be one of fewer than three cases.
    """
    facts = hellos[0]
    if facts.task == "train":
        changed = [hello.site for hello in hellos if not hello.plans_are_as_made]
        return [
            f"The plans of site {site} were changed after its federation made them; training uses them as they are."
            for site in changed
        ]
    if facts.task == "evaluate":
        return _different_models(hellos)
    cases = sum(hello.cases for hello in hellos)
    if facts.method == "FFE" and not has_plans and cases < _FEWEST_CASES:
        raise FednnUNetError(
            f"The federation has {counted(cases, 'case')}, so its fingerprint would reveal single ones: "
            f"at least {_FEWEST_CASES} are required."
        )
    return [
        f"Site {hello.site} has {counted(hello.cases, 'case')}, too few for nnU-Net's five folds: "
        "train with FOLD fold_all, or give this site a splits_final.json."
        for hello in hellos
        if hello.cases < FOLDS_OF_NNUNET and not hello.has_own_splits
    ]


def _different_models(hellos: Sequence[Hello]) -> list[str]:
    """Warn where sites evaluate different networks although their federation has one."""
    common = [hello for hello in hellos if hello.method == "FFE"]
    others = [hello.site for hello in common if hello.plans_digest != common[0].plans_digest]
    if not others:
        return []
    return [
        f"The model of site {others[0]} has other plans than that of site {common[0].site}: each evaluates its own, "
        "and figures over all sites are those of no single model."
    ]


def check_dimensions(two_dimensional: Mapping[str, bool]) -> None:
    """Refuse sites with images of one slice together with sites with volumes.

    Raises
    ------
    FednnUNetError
        Names one site of each kind.
    """
    flat = [site for site, is_flat in two_dimensional.items() if is_flat]
    volumes = [site for site, is_flat in two_dimensional.items() if not is_flat]
    if flat and volumes:
        raise FednnUNetError(f"Site {flat[0]} has 2D images, site {volumes[0]} has 3D images: use only one kind.")


def _check_options(one: Message | None, another: Message | None, first: Hello, other: Hello, same_flag: str) -> None:
    """Refuse two sites whose options differ, or of which one has none; a field's title is the flag that gives it."""
    kind = type(another if one is None else one)
    for name, info in kind.model_fields.items() if issubclass(kind, Message) else ():
        _check(str(info.title), getattr(one, name, None), getattr(another, name, None), first, other, same_flag)


def _check(what: str, value: Any, other_value: Any, first: Hello, other: Hello, remedy: str) -> None:
    if value != other_value:
        raise FednnUNetError(
            f"Site {other.site} has {what} {_shown(other_value)}, site {first.site} has {_shown(value)}: {remedy}."
        )


def _shown(value: Any) -> str:
    return "none" if value is None else str(value)
