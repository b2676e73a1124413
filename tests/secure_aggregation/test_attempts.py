"""What a site refuses to join."""

from collections.abc import Callable

import pytest

from fednnunet.errors import FednnUNetError
from fednnunet.protocol.secure_aggregation import SignedKey
from fednnunet.secure_aggregation.attempts import Rules, different_field
from tests.secure_aggregation.sites import attempts, identities, joined, site_list

CONTEXT = {"purpose": "update", "run": "r", "fold": 0, "round": 3}
KEYS = identities(["A", "B", "C", "D"])
OF_SITES = attempts(KEYS, CONTEXT)
SIGNED = [OF_SITES[name].statement.signed for name in "ABCD"]
REPLAYED = attempts(KEYS, {**CONTEXT, "round": 2})["D"].statement.signed
OTHER_RUN = attempts(KEYS, {**CONTEXT, "run": "s"})["D"].statement.signed
STRANGER = attempts(identities(["E"]), CONTEXT)["E"].statement.signed
IMPOSTOR = attempts(identities(["D"]), CONTEXT)["D"].statement.signed
IN_THE_MIDDLE = SIGNED[3].model_copy(update={"key": IMPOSTOR.key})
NEW_OWN = attempts(KEYS, CONTEXT)["A"].statement.signed

Change = Callable[[list[SignedKey]], list[SignedKey]]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda keys: [keys[1], keys[0], *keys[2:]], "not in order"),
        (lambda keys: [*keys[:3], keys[2]], "twice"),
        (lambda keys: keys[:2], "over 2 sites, the policy of this one demands 3"),
        (lambda keys: [*keys, STRANGER], "site E is not on the list"),
        (lambda keys: [*keys[:3], IMPOSTOR], "signature of site D"),
        (lambda keys: [*keys[:3], IN_THE_MIDDLE], "signature of site D"),
        (lambda keys: [*keys[:3], REPLAYED], "site D has agreed to another sum"),
        (lambda keys: [*keys[:3], OTHER_RUN], "site D has agreed to another sum"),
        (lambda keys: [NEW_OWN, *keys[1:]], "another one-time key of this site"),
        (lambda keys: keys[1:], "another one-time key of this site"),
        (lambda keys: keys[:3], "a sum without D, the policy of this site allows 0"),
    ],
)
def test_a_sum_that_is_not_the_agreed_one_is_refused(change: Change, words: str) -> None:
    with pytest.raises(FednnUNetError, match=words):
        OF_SITES["A"].join(change(SIGNED), Rules(site_list(KEYS), max_absent=0))
    with pytest.raises(FednnUNetError, match="takes no part yet"):
        OF_SITES["A"].mask_answer(bytes(8), [8], 1, "a question")


def test_a_sum_is_joined_once_and_opened_for_those_only_who_joined_it() -> None:
    of_sites = attempts(KEYS, CONTEXT)
    signed = [of_sites[name].statement.signed for name in "ABCD"]
    rules = Rules(site_list(KEYS))
    salt = of_sites["A"].join(signed, rules)
    assert of_sites["A"].join(signed, rules) == salt
    with pytest.raises(FednnUNetError, match="other sites for a sum than it did before"):
        of_sites["A"].join(signed[:3], rules)
    with pytest.raises(FednnUNetError, match="takes no part"):
        of_sites["A"].opening("0" * 64)
    assert len(of_sites["A"].opening(salt)) == 32


def test_a_key_without_any_secret_is_refused() -> None:
    keys = identities()
    of_sites = attempts(keys, CONTEXT)
    own = of_sites["B"]
    weak = attempts(keys, CONTEXT)["C"]
    none = bytes(32).hex()
    from fednnunet.secure_aggregation import attempts as module  # the signature of a key that C would not make

    signature = keys["C"].key.sign(module._signed("C", none, weak.statement.signed.context)).hex()
    signed = [of_sites["A"].statement.signed, own.statement.signed]
    signed.append(weak.statement.signed.model_copy(update={"key": none, "signature": signature}))
    with pytest.raises(FednnUNetError, match="one-time key of site C is none"):
        own.join(signed, Rules(site_list(keys)))


def test_the_field_is_named_in_which_two_sums_differ() -> None:
    first, second = joined(identities(), CONTEXT)["A"], joined(identities(), {**CONTEXT, "round": 4})["A"]
    assert different_field(first.statement.context, second.statement.context) == "round"
    assert different_field("no JSON", "nor this") == "its form"


def test_the_digest_of_a_list_depends_on_names_and_keys_only() -> None:
    listed = site_list(KEYS)
    assert len(listed.digest.split()) == 8
    assert listed.digest == site_list(dict(reversed(KEYS.items()))).digest
    assert listed.digest != site_list(identities(["A", "B", "C", "D"])).digest
    assert listed.digest != site_list(dict(list(KEYS.items())[:3])).digest
