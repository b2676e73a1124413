"""Questions and answers arrive as they were sent, and whatever else arrives does no harm."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fednnunet.errors import FednnUNetError
from fednnunet.protocol.conversation import Answer, Question
from fednnunet.protocol.messages import Accepted, FoldRequest, WorkReport

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
ROUND = st.none() | st.integers(0, 10**6)
SCALAR = st.booleans() | st.integers() | st.floats() | TEXT | st.binary(max_size=9)


@given(st.builds(Question, kind=TEXT, body=TEXT, data=st.binary(max_size=9), id=st.none() | TEXT, round=ROUND))
def test_a_question_arrives_as_it_was_sent(question: Question) -> None:
    assert Question.from_config(question.to_config()) == question


@given(
    st.builds(
        Answer,
        body=st.none() | TEXT,
        data=st.binary(max_size=9),
        pending=st.none() | st.builds(WorkReport, done=st.integers(0, 9), total=st.integers(0, 9)),
        failure=st.none() | TEXT,
        withheld=st.none() | TEXT,
        log=st.none() | st.tuples(st.integers(0, 10**9), st.just("ab" * 32)),
    )
)
def test_an_answer_arrives_as_it_was_sent(answer: Answer) -> None:
    assert Answer.from_config(answer.to_config()) == answer


@given(st.dictionaries(st.sampled_from(["ask", "body", "data", "id", "round", "log", "failure"]), SCALAR))
def test_whatever_arrives_is_a_question_and_an_answer(config: dict[str, object]) -> None:
    question, answer = Question.from_config(config), Answer.from_config(config)
    assert isinstance(question.kind, str)
    assert isinstance(question.data, bytes)
    assert question.round is None or type(question.round) is int
    assert answer.failure is None or isinstance(answer.failure, str)


def test_the_key_is_that_of_the_question_and_not_of_its_id_alone() -> None:
    first = Question("fetch", "{}", id="one")
    assert first.key == Question("fetch", "{}", b"data", id="one").key
    others = [Question("start", "{}", id="one"), Question("fetch", "[]", id="one"), Question("fetch", "{}", id="two")]
    assert len({first.key, *(other.key for other in others)}) == 4
    assert Question("fetch{}", "", id="one").key != first.key
    assert Question("fetch").key is None


def test_the_round_is_that_of_the_message_and_no_other() -> None:
    question = Question.of("accept", Accepted(round=3))
    assert (question.round, question.read(Accepted)) == (3, Accepted(round=3))
    assert Question.of("offer", FoldRequest(fold=1)).round is None
    for wrong in (None, 4):
        with pytest.raises(FednnUNetError, match="of another round than its question"):
            Question("accept", question.body, round=wrong).read(Accepted)
    with pytest.raises(FednnUNetError, match="of another round than its question"):
        Question("offer", FoldRequest(fold=1).to_json(), round=1).read(FoldRequest)


def test_data_alone_is_hashed_as_it_is_and_beside_a_body_with_its_name() -> None:
    assert Answer(data=b"12").payload == [b"12"]
    assert Answer("{}", b"12").payload == [b"body", b"{}", b"data", b"12"]
    assert Answer().payload == []
