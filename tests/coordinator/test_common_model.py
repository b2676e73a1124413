"""What is believed of what a site says of the common model, and what is not."""

import copy
import logging
from typing import Any

import pytest
from flwr.common import Scalar

from fednnunet.coordinator.common_model import CommonModel, ask_for_model, common_model, why_there_is_none
from fednnunet.coordinator.site import Site
from fednnunet.errors import FednnUNetError
from fednnunet.fingerprint.plans import plans_digest
from fednnunet.protocol.messages import TrainingOptions
from fednnunet.weights.layout import Layout, Listing, TensorSpec
from fednnunet.weights.packing import listing_of
from tests.coordinator.example_model import LAYOUT, STATE, description, hello
from tests.coordinator.fake_node import FakeNode
from tests.fingerprint.example_plans import FINGERPRINT, PLANS


def test_the_model_is_what_one_site_describes_and_all_have_said() -> None:
    hellos = [hello("A", cases=7, regions_class_order=[2, 1]), hello("B", cases=5)]
    model = common_model(description(image_reader="SimpleITKIO"), hellos, LAYOUT)
    assert model.folder == "nnUNetTrainer__nnUNetPlans__2d"
    assert model.cases == 12
    assert model.dataset == {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, "tumour": 1},
        "file_ending": ".nii.gz",
        "regions_class_order": [2, 1],
        "overwrite_image_reader_writer": "SimpleITKIO",
    }
    assert CommonModel.from_json(model.to_json()) == model


HOSTILE = ("", ".", "..", "../../etc", "a/b", "a\\b", ".hidden", "a b", "a:b", "é", "x" * 81, "a\0", "a\n")


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("where", ["trainer", "configuration", "plans_name", "image_reader"])
def test_no_name_becomes_that_of_a_folder_that_could_lead_elsewhere(name: str, where: str) -> None:
    facts, changes = hello(), {}
    training = TrainingOptions(trainer="nnUNetTrainer", configuration="2d")
    assert facts.training == training
    plans: dict[str, Any] = copy.deepcopy({**PLANS, "dataset_name": "Federation"})
    if where in ("trainer", "configuration"):
        training = training.model_copy(update={where: name})
        plans["configurations"][name] = plans["configurations"]["2d"]
    elif where == "plans_name":
        plans["plans_name"] = name
    else:
        changes[where] = name
    told = description().model_copy(update={"plans": plans, **changes})
    believed = facts.model_copy(update={"plans_digest": plans_digest(plans), "training": training})
    with pytest.raises(FednnUNetError):
        common_model(told, [believed], LAYOUT)


@pytest.mark.parametrize("ending", ["", "nii", ".", "..", "./../a", ".a/b", ".a b", "." + "a" * 40])
def test_what_is_no_file_ending_is_refused(ending: str) -> None:
    with pytest.raises(FednnUNetError, match="file ending"):
        common_model(description(file_ending=ending), [hello()], LAYOUT)


def test_plans_on_which_the_sites_have_not_agreed_are_refused() -> None:
    other = {**PLANS, "dataset_name": "Federation", "image_reader_writer": "NibabelIO"}
    with pytest.raises(FednnUNetError, match="not those on which the sites have agreed"):
        common_model(description(plans=other), [hello()], LAYOUT)


def test_plans_that_would_run_other_code_are_refused_even_if_all_sites_have_them() -> None:
    plans: dict[str, Any] = copy.deepcopy(PLANS)
    plans["configurations"]["2d"]["architecture"]["network_class_name"] = "os.system"
    agreed = hello(plans_digest=plans_digest(plans))
    with pytest.raises(FednnUNetError, match=r"^it sends plans: .* that nnU-Net's planners do not make"):
        common_model(description(plans=plans), [agreed], LAYOUT)


def test_a_fingerprint_that_is_none_is_refused() -> None:
    with pytest.raises(FednnUNetError, match="fingerprint"):
        common_model(description(fingerprint={**FINGERPRINT, "cases": ["Smith"]}), [hello()], LAYOUT)


def test_a_configuration_that_the_plans_do_not_have_is_refused() -> None:
    agreed = hello(training=TrainingOptions(trainer="nnUNetTrainer", configuration="3d"))
    with pytest.raises(FednnUNetError, match="no configuration 3d"):
        common_model(description(), [agreed], LAYOUT)


def _without_first(entries: list[Any]) -> list[Any]:
    return entries[1:]


def _twice(entries: list[Any]) -> list[Any]:
    return [*entries, entries[0]]


def _of_nothing(entries: list[Any]) -> list[Any]:
    return [*entries, Listing("more", "nothing")]


def _exchanged(entries: list[Any]) -> list[Any]:
    first, second = (tensor.name for tensor in LAYOUT.tensors[:2])
    other = {first: Listing(first, second), second: Listing(second, first)}
    return [other.get(entry.name, entry) for entry in entries]


def _index(entries: list[Any]) -> list[Any]:
    return [*entries, TensorSpec("relative_position_index", (4,), "int64")]


def _huge_counter(entries: list[Any]) -> list[Any]:
    return [*entries, TensorSpec("a.num_batches_tracked", (1 << 33,), "int64")]


def _code(entries: list[Any]) -> list[Any]:
    return [*entries, TensorSpec("a.num_batches_tracked", (), "load")]


@pytest.mark.parametrize(
    "damage", [_without_first, _twice, _of_nothing, _exchanged, _index, _huge_counter, _code], ids=lambda f: f.__name__
)
def test_a_state_dict_that_is_not_the_averaged_one_is_refused(damage: Any) -> None:
    common_model(description(), [hello()], LAYOUT)
    with pytest.raises(FednnUNetError):
        common_model(description(entries=damage(listing_of(STATE))), [hello()], LAYOUT)


def test_weights_of_a_type_that_cannot_be_written_are_refused() -> None:
    layout = Layout(tuple(TensorSpec(tensor.name, tensor.shape, "load") for tensor in LAYOUT.tensors))
    with pytest.raises(FednnUNetError, match="of type load"):
        common_model(description(), [hello()], layout)


def test_sites_have_no_common_model_if_each_has_planned_for_itself_or_keeps_a_part() -> None:
    assert why_there_is_none([hello()], 1, None) is None
    assert why_there_is_none([hello(method="AsymFedAvg")], 1, None) == "each site planned for itself"
    assert why_there_is_none([hello()], 2, None) == "each site planned for itself"
    assert "--keep_local 'seg' leaves a part" in str(why_there_is_none([hello()], 1, "seg"))
    assert why_there_is_none([hello()], 1, "norm") is None
    assert "--keep_local '(norm)' leaves a part" in str(why_there_is_none([hello()], 1, "(norm)"))


class _Describer(FakeNode):
    describes = True

    def __init__(self, site: str, reply: dict[str, Scalar]) -> None:
        super().__init__(cid=site)
        self.reply = reply
        self.asked = 0

    def respond(self, kind: str, body: str, data: bytes) -> dict[str, Scalar]:
        assert kind == "describe"
        self.asked += 1
        return self.reply


def _sites(*nodes: _Describer) -> list[Site]:
    return [Site(hello(node.cid), node, contact_timeout=60) for node in nodes]


WITHHELD: dict[str, Scalar] = {
    "failure": "the site's policy does not allow this message (rule model.allow): ask the site"
}


def test_the_first_site_that_tells_is_believed_and_the_others_are_not_asked(caplog: pytest.LogCaptureFixture) -> None:
    told: dict[str, Scalar] = {"body": description().to_json()}
    nodes = [_Describer("A", WITHHELD), _Describer("B", told), _Describer("C", told)]
    assert ask_for_model(_sites(*nodes), [hello()] * 3, LAYOUT) == common_model(description(), [hello()] * 3, LAYOUT)
    assert [node.asked for node in nodes] == [1, 1, 0]
    assert caplog.messages == []


def test_if_no_site_tells_that_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert (
            ask_for_model(_sites(_Describer("A", WITHHELD), _Describer("B", {"body": "{}"})), [hello()], LAYOUT) is None
        )
    (said,) = caplog.messages
    assert "site A: the site's policy does not allow this message (rule model.allow)" in said
    assert "site B: A ModelDescription message is malformed" in said
