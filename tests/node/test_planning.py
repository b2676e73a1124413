"""What a node answers while a federation looks for its common fingerprint: one run of the protocol, and no more."""

import itertools
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from flwr.common import NDArrays

from fednnunet.fingerprint.measurement import SiteMeasurement
from fednnunet.fingerprint.protocol import exact_fingerprint, shared_cases_fingerprint
from fednnunet.fingerprint.questions import COUNTS, DigitsQuestion, MomentsQuestion
from fednnunet.node.dataset import SiteDataset
from fednnunet.node.planning import PlanningClient
from fednnunet.protocol.conversation import Answer, Config, Question
from fednnunet.protocol.messages import FingerprintMode, Hello, Measure, Measured, Query, SharedCases
from fednnunet.schema import Message
from fednnunet.settings.node import PlanningSettings
from tests.pooled import generate_federation, measure

SITE = generate_federation(6)[1]
CASES, CHANNELS = len(SITE), len(SITE[0].images)
_ids = itertools.count()
Asked = MomentsQuestion | DigitsQuestion
MakeNode = Callable[[FingerprintMode | None], PlanningClient]


@pytest.fixture
def make_node(monkeypatch: pytest.MonkeyPatch) -> Iterator[MakeNode]:
    """Make nodes of a site whose cases are in memory, and of which few voxels are sampled."""
    nodes: list[PlanningClient] = []

    def measure_in_memory(arguments: object, dataset: object, hello: Hello, samples: int, _: object) -> SiteMeasurement:
        return measure(SITE, samples // 1_000_000)

    def make(mode: FingerprintMode | None) -> PlanningClient:
        channels = {str(channel): "CT" for channel in range(CHANNELS)}
        hello = Hello(
            site="A",
            task="extract_fingerprint",
            method="FFE" if mode else "AsymFedAvg",
            cases=CASES,
            versions={},
            labels={"background": 0, "x": 1},
            channels=channels,
            fingerprint=mode,
        )
        settings = PlanningSettings(task="plan_and_preprocess", dataset="1")
        nodes.append(PlanningClient(settings, SiteDataset("Dataset001_A"), hello))
        return nodes[-1]

    monkeypatch.setattr("fednnunet.node.planning.measure", measure_in_memory)
    yield make
    for node in nodes:
        node.close()


def _told(node: PlanningClient, kind: str, body: Message | None) -> Answer:
    """Ask until the answer is there, and return it."""
    question = Question.of(kind, body, id=str(next(_ids)))
    while (answer := node.answer(question)).pending is not None:
        pass
    return answer


def _tell(node: PlanningClient, kind: str, body: Message | None = None) -> Config:
    """Ask a question."""
    return _told(node, kind, body).to_config()


def _answer(node: PlanningClient, question: Asked) -> NDArrays | str:
    """Return the answer to a question of the protocol, or why there is none."""
    answer = _told(node, "fit", Query(question=question))
    return answer.failure if answer.failure is not None else [np.frombuffer(answer.data, COUNTS)]


def _questions(node: PlanningClient, cases: int) -> list[Asked]:
    """Return the first few questions of an honest run of the protocol; the site is alone in it."""
    samples = int(1e8 // cases) // 1_000_000
    site = measure(SITE, samples)
    if node.hello.fingerprint == "exact":
        protocol = exact_fingerprint(cases, CHANNELS, samples, lambda fingerprint: fingerprint.spacings[0])
    else:
        protocol = shared_cases_fingerprint(site.spacings, site.shapes.astype(np.int64), CHANNELS, samples)
    questions: list[Asked] = [next(protocol)]
    while len(questions) < 5:
        questions.append(protocol.send(site.answer(questions[-1])))
    return questions


@pytest.mark.parametrize("mode", ["exact", "shared-cases"])
def test_a_node_answers_each_question_in_its_turn_and_again_if_it_is_repeated(
    mode: FingerprintMode, make_node: MakeNode
) -> None:
    node = make_node(mode)
    assert Measured.from_json(str(_tell(node, "measure", Measure(cases=CASES))["body"])).is_two_dimensional is False
    site = measure(SITE, int(1e8 // CASES) // 1_000_000)
    for question in _questions(node, CASES):
        for _ in range(2):
            answered = _answer(node, question)
            assert not isinstance(answered, str), answered
            np.testing.assert_array_equal(answered[0], site.answer(question))


def test_a_question_out_of_turn_gets_no_number_and_ends_the_answers(make_node: MakeNode) -> None:
    node = make_node("exact")
    _tell(node, "measure", Measure(cases=CASES))
    moments, first, second, third, _ = _questions(node, CASES)
    for question in (moments, first):
        assert not isinstance(_answer(node, question), str)
    for question in (third, second):
        assert "which the protocol does not allow now" in str(_answer(node, question))
    assert "which the protocol does not allow now" in str(node.failure)


def test_the_mode_of_the_site_decides_what_is_answered(make_node: MakeNode) -> None:
    node = make_node("shared-cases")
    _tell(node, "measure", Measure(cases=CASES))
    moments, first, *_ = _questions(make_node("exact"), CASES)
    assert not isinstance(_answer(node, moments), str)
    assert "which the protocol does not allow now" in str(_answer(node, first))


def test_another_measurement_is_made_as_long_as_nothing_was_asked_about_the_first(make_node: MakeNode) -> None:
    node = make_node("exact")
    for cases in (CASES, CASES, 2 * CASES):
        assert "body" in _tell(node, "measure", Measure(cases=cases))
    answered = _answer(node, MomentsQuestion())
    assert not isinstance(answered, str), answered
    sampled_last = measure(SITE, int(1e8 // (2 * CASES)) // 1_000_000)
    np.testing.assert_array_equal(answered[0], sampled_last.answer(MomentsQuestion()))
    for cases in (2 * CASES, CASES):
        failure = str(_tell(node, "measure", Measure(cases=cases))["failure"])
        assert "restart the node for another fingerprint" in failure


def test_a_federation_has_no_fewer_cases_than_one_of_its_sites(make_node: MakeNode) -> None:
    node = make_node("exact")
    failure = str(_tell(node, "measure", Measure(cases=CASES - 1))["failure"])
    assert f"has {CASES - 1} cases, but this site alone has {CASES}" in failure
    assert "before the node has measured them" in str(_answer(node, MomentsQuestion()))


def test_a_site_that_plans_alone_answers_nothing_about_its_cases(make_node: MakeNode) -> None:
    node = make_node(None)
    assert "this site plans for itself" in str(_tell(node, "measure", Measure(cases=CASES))["failure"])
    assert "before the node has measured them" in str(_answer(node, MomentsQuestion()))
    assert "is not shared here" in str(_tell(node, "cases")["failure"])


def test_shared_cases_are_told_as_often_as_they_are_asked_for(make_node: MakeNode) -> None:
    node = make_node("shared-cases")
    _tell(node, "measure", Measure(cases=CASES))
    first, second = (SharedCases.from_json(str(_tell(node, "cases")["body"])) for _ in range(2))
    assert first == second
    assert first.spacings == [case.spacing for case in SITE]
    assert "is not shared here" in str(_tell(make_node("exact"), "cases")["failure"])
