import pytest

from fednnunet.errors import FednnUNetError
from fednnunet.weights.layout import Layout, TensorSpec
from fednnunet.weights.sharing import share


def _layout(**shapes: tuple[int, ...]) -> Layout:
    return Layout(tuple(TensorSpec(name, shape, "float32") for name, shape in shapes.items()))


SITES = {
    "A": _layout(stem=(3, 1), deep=(4, 4), head=(2,)),
    "B": _layout(stem=(3, 1), deep=(4, 4), head=(2,), deeper=(8, 8)),
    "C": _layout(stem=(3, 1), deep=(5, 5), head=(3,), deeper=(8, 8)),
}


def _names(groups: list) -> dict[tuple[str, ...], list[str]]:  # type: ignore[type-arg]
    return {group.sites: [tensor.name for tensor in group.layout.tensors] for group in groups}


def test_only_what_all_sites_have_is_shared_as_in_the_paper() -> None:
    assert _names(share(SITES)) == {("A", "B", "C"): ["stem"]}


def test_with_cohorts_every_group_of_sites_shares_what_it_has_in_common() -> None:
    assert _names(share(SITES, cohorts=True)) == {
        ("A", "B", "C"): ["stem"],
        ("A", "B"): ["deep", "head"],
        ("B", "C"): ["deeper"],
    }


def test_equal_networks_share_everything_either_way() -> None:
    equal = {"A": SITES["A"], "B": SITES["A"]}
    assert share(equal) == share(equal, cohorts=True)
    assert share(equal)[0].layout == SITES["A"]


def test_what_is_kept_local_is_not_shared() -> None:
    equal = {"A": SITES["A"], "B": SITES["A"]}
    assert _names(share(equal, keep_local="^st|head")) == {("A", "B"): ["deep"]}


def test_layers_of_normalization_are_known_by_what_sites_say_of_them_not_by_name() -> None:
    layout = _layout(conv_norm=(3, 1), scale=(3,), head=(2,))
    sites = {"A": layout, "B": layout}
    normalization = {"A": ["scale"], "B": ["scale"]}
    assert _names(share(sites, keep_local="norm", normalization=normalization)) == {("A", "B"): ["conv_norm", "head"]}
    assert _names(share(sites, keep_local="(norm)", normalization=normalization)) == {("A", "B"): ["scale", "head"]}
    # what normalizes at one site is not averaged with what does not at another
    normalization["B"] = ["head"]
    assert _names(share(sites, keep_local="norm", normalization=normalization)) == {("A", "B"): ["conv_norm"]}


def test_networks_without_layers_of_normalization_cannot_keep_them() -> None:
    with pytest.raises(FednnUNetError, match="no normalization layers with weights"):
        share(SITES, keep_local="norm", normalization={"A": [], "B": [], "C": []})


def test_one_site_shares_with_itself() -> None:
    assert _names(share({"A": SITES["A"]}, cohorts=True)) == {("A",): ["stem", "deep", "head"]}


def test_a_dtype_that_differs_is_not_shared() -> None:
    half = Layout((TensorSpec("stem", (3, 1), "float16"),))
    with pytest.raises(FednnUNetError, match="no tensor in common"):
        share({"A": SITES["A"], "B": half})


def test_a_federation_that_would_share_nothing_and_a_broken_expression_are_refused() -> None:
    with pytest.raises(FednnUNetError, match="correct --keep_local"):
        share(SITES, keep_local=".")
    with pytest.raises(FednnUNetError, match="not a regular expression"):
        share(SITES, keep_local="(")


def test_what_optimizers_remember_is_shared_beside_the_weights_and_after_them() -> None:
    momentum = {"stem@momentum_buffer": (3, 1), "head@momentum_buffer": (2,)}
    sites = {"A": _layout(stem=(3, 1), head=(2,), **momentum), "B": _layout(stem=(3, 1), head=(2,), **momentum)}
    assert [[tensor.name for tensor in group.layout.tensors] for group in share(sites)] == [
        ["stem", "head"],
        ["stem@momentum_buffer", "head@momentum_buffer"],
    ]
    # a weight that stays keeps its momentum, however its name ends
    (weights, of_optimizer) = share(sites, keep_local="head$")
    assert [tensor.name for tensor in weights.layout.tensors] == ["stem"]
    assert [tensor.name for tensor in of_optimizer.layout.tensors] == ["stem@momentum_buffer"]
    assert not weights.layout.is_of_optimizer
    assert of_optimizer.layout.is_of_optimizer


def test_sites_that_share_no_weight_share_nothing() -> None:
    sites = {"A": _layout(a=(3,), **{"x@exp_avg": (2,)}), "B": _layout(b=(3,), **{"x@exp_avg": (2,)})}
    with pytest.raises(FednnUNetError, match="no tensor in common"):
        share(sites)
