"""A fingerprint from masked answers has the bits of one from plain answers, and nothing but sums can be read."""

import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fednnunet.coordinator.answer_sums import MaskedSums
from fednnunet.coordinator.registry import ClientRegistry
from fednnunet.coordinator.site import Site
from fednnunet.errors import FednnUNetError, SiteFailure
from fednnunet.events.events import FingerprintFound
from fednnunet.fingerprint.integers import to_integers, widths_of
from fednnunet.fingerprint.measurement import SiteMeasurement
from fednnunet.fingerprint.plausibility import AnswersOfSite
from fednnunet.fingerprint.questions import COUNTS, DigitsQuestion, Follow, MomentsQuestion, Quantity
from fednnunet.fingerprint.sampling import samples_per_case
from fednnunet.protocol.conversation import HELLO, TRAIN, Answer, Question
from fednnunet.protocol.messages import Measure, Query
from fednnunet.protocol.secure_aggregation import AGREE, JOIN, Joined, SignedKey, SignedKeys, Statement, SumRequest
from fednnunet.schema import Message
from fednnunet.secure_aggregation.attempts import Rules
from fednnunet.secure_aggregation.integers import from_bytes, to_bytes
from fednnunet.security.identity import Challenge, SiteList
from tests.coordinator.planning_nodes import RUN, PlanningNode, fingerprint_stage, given_measurements, random_site
from tests.coordinator.training_federation import Events
from tests.secure_aggregation.sites import identities, site_list

LARGEST = np.finfo(np.float32).max
Nodes = dict[str, PlanningNode]
_ids = itertools.count()


def _plain(measurements: dict[str, SiteMeasurement]) -> Nodes:
    return {name: PlanningNode(name, measurement) for name, measurement in measurements.items()}


def _masking(measurements: dict[str, SiteMeasurement], **rules: int) -> tuple[Nodes, SiteList]:
    keys = identities(list(measurements))
    listed = site_list(keys)
    nodes = {
        name: PlanningNode(name, measurement, keys[name], Rules(listed, **rules))
        for name, measurement in measurements.items()
    }
    return nodes, listed


def _sites(number: int, **how: Any) -> dict[str, SiteMeasurement]:
    return {f"S{index:02d}": random_site(index, 1 + index % 4, **how) for index in range(number)}


def _extremes() -> dict[str, SiteMeasurement]:
    """Sites with the largest intensities, negative and subnormal ones, and one without foreground."""
    values = [
        np.full(150, LARGEST, np.float32),
        np.array([-LARGEST, -1.5, -0.0, 1e-45, LARGEST], np.float32),
        np.array([], np.float32),
        np.array([-1024, -1000, -3, -3, -1], np.float32),
    ]
    return {f"S{index}": random_site(index, 2, channels=2, values=of_site) for index, of_site in enumerate(values)}


@pytest.mark.parametrize(
    "measurements",
    [
        _sites(3),
        _sites(8, channels=3),
        _sites(32),
        _sites(4, flat=True, channels=2),
        _extremes(),
    ],
    ids=["3 sites", "8 sites, 3 channels", "32 sites", "2D", "extremes"],
)
def test_the_installed_fingerprint_has_the_bits_of_the_plain_one_and_no_answer_can_be_read(
    measurements: dict[str, SiteMeasurement], tmp_path: Path
) -> None:
    plain = _plain(measurements)
    nodes, listed = _masking(measurements)
    expected = fingerprint_stage(tmp_path / "plain", plain, None)
    events = Events()
    assert json.dumps(fingerprint_stage(tmp_path / "masked", nodes, listed, sink=events)) == json.dumps(expected)
    (found,) = (event for event in events.seen if isinstance(event, FingerprintFound))
    assert found.answered_bytes == {name: sum(map(len, node.answers)) for name, node in nodes.items()}
    for name, node in nodes.items():
        assert len(node.answers) == len(plain[name].answers) >= 25
        told = b"".join(node.answers)
        for query, masked in node.answered:
            _assert_noise(query, node.measurement, masked, told)
        assert sum(map(len, node.answers)) < sum(map(len, plain[name].answers))


def _assert_noise(query: Query, site: SiteMeasurement, masked: bytes, told: bytes) -> None:
    """Assert that none of the integers of an answer stands in the masked one, and the plain one nowhere."""
    widths = widths_of(query.question, len(site.samples))
    integers = to_integers(query.question, site.answer(query.question))
    assert to_bytes(integers, widths) not in told
    assert site.answer(query.question).astype(COUNTS).tobytes() not in told
    assert not any(one == other for one, other in zip(from_bytes(masked, widths), integers, strict=True))


class Federation:
    """Three sites that were asked by hand, as a coordinator does it, or one that wants to know more."""

    def __init__(self, nodes: Nodes, listed: SiteList) -> None:
        self.nodes = nodes
        self.listed = listed
        self.cases = sum(len(node.measurement.shapes) for node in nodes.values())

    def ask(self, name: str, kind: str, body: Message | None) -> Answer:
        """Ask, and ask again until there is an answer."""
        question = Question.of(kind, body, id=str(next(_ids))).to_config()
        while (answer := Answer.from_config(self.nodes[name].told(question))).pending is not None:
            pass
        return answer

    def prepare(self) -> None:
        """Let all sites introduce themselves, and measure."""
        for name in self.nodes:
            self.ask(name, HELLO, Challenge.draw(RUN))
            self.ask(name, "measure", Measure(cases=self.cases))

    def agree(self) -> list[SignedKey]:
        """Let all sites agree, and return their one-time keys."""
        request = SumRequest(purpose="fingerprint", total=self.cases)
        return [self.ask(name, AGREE, request).read(Statement).signed for name in sorted(self.nodes)]

    def join(self) -> list[SignedKey]:
        """Let all sites agree and join."""
        keys = self.agree()
        salts = {self.ask(name, JOIN, SignedKeys(keys=keys)).read(Joined).salt for name in self.nodes}
        assert len(salts) == 1
        assert None not in salts
        return keys

    def count(self, name: str, question: MomentsQuestion | DigitsQuestion) -> Answer:
        return self.ask(name, TRAIN, Query(question=question))

    def sums(self) -> MaskedSums:
        return MaskedSums(AnswersOfSite(self.cases, 1, samples_per_case(self.cases)), 1)

    def as_sites(self, answers: dict[str, Answer]) -> dict[Site, Answer]:
        """Return answers as the coordinator has them."""
        return {Site(self.nodes[name].client.hello, self.nodes[name], 1): answer for name, answer in answers.items()}

    def answers(self, question: MomentsQuestion | DigitsQuestion) -> dict[Site, Answer]:
        """Return what all sites answer to a question."""
        return self.as_sites({name: self.count(name, question) for name in self.nodes})


Make = Callable[..., Federation]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Make a federation of three sites which have measured."""
    made: list[Federation] = []
    nodes: Nodes = {}

    def federation(**rules: int) -> Federation:
        of_sites, listed = _masking(_sites(3), **rules)
        nodes.update(of_sites)
        made.append(Federation(of_sites, listed))
        made[-1].prepare()
        return made[-1]

    with given_measurements(nodes, tmp_path):
        yield federation
    for node in (node for each in made for node in each.nodes.values()):
        node.client.close()


def _first_digits(prefix: int = 0, bits: int = 0) -> DigitsQuestion:
    names = (("intensity", 1), ("spacing", 3), ("shape", 3), ("relative_size", 1))
    quantities = [Quantity(name, component) for name, number in names for component in range(number)]  # type: ignore[arg-type]
    return DigitsQuestion(follow=[Follow(quantity=quantity, bits=bits, prefixes=[prefix]) for quantity in quantities])


def test_a_site_that_is_asked_another_question_than_the_others_spoils_the_sum_and_tells_nothing(make: Make) -> None:
    federation, usual = make(), _first_digits()
    federation.join()
    sums = federation.sums()
    for question in (MomentsQuestion(), usual):
        sums.total(question, federation.answers(question))
    one, another = _first_digits(12, 4), _first_digits(3, 4)
    answers = {name: federation.count(name, another if name == "S01" else one) for name in federation.nodes}
    assert not any(answer.failure for answer in answers.values())  # a node cannot know what the sum makes due
    with pytest.raises(FednnUNetError, match="masks do not cancel") as failure:
        sums.total(one, federation.as_sites(answers))
    assert not isinstance(failure.value, SiteFailure)
    for name, question in (("S00", one), ("S01", another)):
        told = answers[name].data
        _assert_noise(Query(question=question), federation.nodes[name].measurement, told, told)


def test_an_answer_that_was_masked_in_another_run_does_not_cancel(make: Make) -> None:
    federation, others = make(), make()
    for each in (federation, others):
        each.join()
    answers = {name: federation.count(name, MomentsQuestion()) for name in federation.nodes}
    answers["S02"] = others.count("S02", MomentsQuestion())
    with pytest.raises(FednnUNetError, match="masks do not cancel"):
        federation.sums().total(MomentsQuestion(), federation.as_sites(answers))


def test_a_repeated_question_is_answered_with_the_same_bytes(make: Make) -> None:
    federation = make()
    federation.join()
    first, again = (federation.count("S01", MomentsQuestion()).data for _ in range(2))
    assert first == again
    spaced = Query(question=MomentsQuestion()).to_json().replace(":", ": ")
    question = Question(TRAIN, spaced, id="spaced")
    assert Answer.from_config(federation.nodes["S01"].told(question.to_config())).data == first
    digits = federation.count("S01", _first_digits()).data
    assert federation.count("S01", _first_digits()).data == digits


def test_a_sum_of_something_else_or_over_another_number_of_cases_is_refused(make: Make) -> None:
    federation = make()
    told = SumRequest(purpose="fingerprint", total=federation.cases + 1)
    assert "sums over 7 cases, but has said that there are 6" in str(federation.ask("S00", AGREE, told).failure)
    update = SumRequest(purpose="update", total=federation.cases)
    assert "a sum of updates from a node for extract_fingerprint" in str(federation.ask("S01", AGREE, update).failure)
    federation = make()
    federation.ask("S01", "measure", Measure(cases=federation.cases + 1))
    keys = [
        federation.ask(name, AGREE, SumRequest(purpose="fingerprint", total=federation.cases + (name == "S01")))
        for name in sorted(federation.nodes)
    ]
    signed = SignedKeys(keys=[statement.read(Statement).signed for statement in keys])
    assert "site S01 has agreed to another sum" in str(federation.ask("S00", JOIN, signed).failure)
    assert "site S00 has agreed to another sum" in str(federation.ask("S01", JOIN, signed).failure)


def test_before_it_answers_a_site_agrees_as_often_as_it_is_asked_and_forgets_what_came_before(make: Make) -> None:
    federation = make()
    forgotten, keys = federation.agree(), federation.agree()
    assert not {key.key for key in forgotten} & {key.key for key in keys}
    assert federation.ask("S00", JOIN, SignedKeys(keys=forgotten)).read(Joined).salt is None
    assert federation.ask("S00", JOIN, SignedKeys(keys=keys)).read(Joined).salt is not None
    federation.ask("S00", "measure", Measure(cases=federation.cases))
    assert federation.ask("S00", JOIN, SignedKeys(keys=keys)).read(Joined).salt is None
    assert "gives masked ones only" in str(federation.count("S00", MomentsQuestion()).failure)


def test_after_its_first_answer_a_site_agrees_to_no_other_sum(make: Make) -> None:
    federation = make()
    keys = federation.join()
    first = federation.count("S00", MomentsQuestion())
    request = SumRequest(purpose="fingerprint", total=federation.cases)
    assert "restart the node for another fingerprint" in str(federation.ask("S00", AGREE, request).failure)
    assert federation.ask("S00", JOIN, SignedKeys(keys=keys)).read(Joined).salt is not None
    assert federation.count("S00", MomentsQuestion()).data == first.data
    assert "names other sites" in str(federation.ask("S00", JOIN, SignedKeys(keys=keys[:2])).failure)


def test_a_site_that_masks_answers_gives_no_plain_one(make: Make) -> None:
    federation = make()
    federation.agree()
    for name in federation.nodes:
        answer = federation.count(name, MomentsQuestion())
        assert "start the coordinator with --secure" in str(answer.failure)
        assert not answer.data
    assert "is not shared here" in str(federation.ask("S00", "cases", None).failure)


def test_fewer_sites_than_the_policy_of_one_demands_are_refused(make: Make) -> None:
    federation = make(min_sites=4)
    keys = SignedKeys(keys=federation.agree())
    assert "the policy of this one demands 4" in str(federation.ask("S00", JOIN, keys).failure)


def test_a_node_that_was_started_again_does_not_know_its_old_key(make: Make) -> None:
    federation = make()
    keys = federation.join()
    federation.nodes["S01"].client.close()
    federation.nodes["S01"].start()
    assert federation.ask("S01", JOIN, SignedKeys(keys=keys)).read(Joined).salt is None
    assert "before the node has measured them" in str(federation.count("S01", MomentsQuestion()).failure)


def test_a_node_without_a_list_of_sites_takes_part_in_no_masked_sum(tmp_path: Path) -> None:
    measurements = _sites(3)
    with pytest.raises(SiteFailure, match="start its node with --key and --sites"):
        fingerprint_stage(tmp_path, _plain(measurements), site_list(identities(list(measurements))), proves=False)


def test_shared_cases_and_masked_sums_exclude_each_other(make: Make) -> None:
    federation = make()
    federation.nodes["S00"].client.close()
    federation.nodes["S00"].start(fingerprint="shared-cases")
    refused = federation.ask("S00", "measure", Measure(cases=federation.cases))
    assert "--fingerprint shared-cases" in str(refused.failure)


def test_a_site_with_another_list_is_named_with_what_it_differs_in(tmp_path: Path) -> None:
    nodes, listed = _masking(_sites(3))
    keys = identities(["S00", "S01", "S02", "another"])
    nodes["S02"].client.close()
    nodes["S02"].restart_with(rules=Rules(site_list(keys)))
    with pytest.raises(SiteFailure, match="they differ in list") as failure:
        fingerprint_stage(tmp_path, nodes, listed)
    assert failure.value.site == "S02"


@pytest.mark.parametrize("is_masked", [False, True])
def test_the_task_fails_if_a_node_is_started_again_between_two_questions(is_masked: bool, tmp_path: Path) -> None:
    nodes, listed = _masking(_sites(3)) if is_masked else (_plain(_sites(3)), None)

    def restart(registry: ClientRegistry) -> None:
        if len(nodes["S01"].answers) == 2:
            nodes["S01"].client.close()
            nodes["S01"].start(instance="another")
            registry.admit(nodes["S01"], nodes["S01"].client.hello)

    with pytest.raises(SiteFailure, match="its node was restarted"):
        fingerprint_stage(tmp_path, nodes, listed, restart)


def test_an_answer_that_is_lost_with_its_connection_is_given_again_over_the_next_one(tmp_path: Path) -> None:
    measurements = _sites(3)
    nodes, listed = _masking(measurements)
    nodes["S01"].loses = {1, 3, 20}
    found = fingerprint_stage(tmp_path / "masked", nodes, listed)
    assert found == fingerprint_stage(tmp_path / "plain", _plain(measurements), None)
    told = nodes["S01"].answers
    assert [index for index in range(len(told) - 1) if told[index] == told[index + 1]] == [0, 3, 21]


def test_an_impossible_answer_is_seen_in_the_sum_and_one_of_another_length_is_its_sites(make: Make) -> None:
    federation = make()
    federation.join()
    answers = federation.answers(MomentsQuestion())
    liar = list(answers)[1]
    voxels = from_bytes(answers[liar].data[:8], [8])[0] - 10**6
    lie = to_bytes([voxels], [8]) + answers[liar].data[8:]
    with pytest.raises(FednnUNetError, match="or a site's answer is impossible"):
        federation.sums().total(MomentsQuestion(), answers | {liar: Answer(data=lie)})
    with pytest.raises(SiteFailure, match="129 bytes instead of 128") as failure:
        federation.sums().total(MomentsQuestion(), answers | {liar: Answer(data=lie + b"0")})
    assert failure.value.site == "S01"
    federation.sums().total(MomentsQuestion(), answers)
