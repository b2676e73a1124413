"""Lets sites agree on one-time keys for a masked sum; the coordinator relays what they have signed."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from fednnunet.coordinator.asking import for_all
from fednnunet.coordinator.site import Site, blamed_on
from fednnunet.errors import FednnUNetError, SiteFailure
from fednnunet.protocol.conversation import Question
from fednnunet.protocol.secure_aggregation import (
    AGREE,
    JOIN,
    OPEN,
    Joined,
    Opening,
    OpeningRequest,
    SignedKey,
    SignedKeys,
    Statement,
    SumRequest,
)
from fednnunet.secure_aggregation.attempts import Context, check_signature, context_text, different_field, salt_of
from fednnunet.security.identity import SiteList


class ForgottenKey(SiteFailure):
    """A site cannot join a sum with a one-time key that it has told: its node was started again."""


@dataclass(frozen=True)
class AgreedSum:
    """A sum that all of its sites have joined.

    Attributes
    ----------
    keys
        The sites' one-time keys, as they were relayed.
    salt
        Names the sum.
    """

    keys: SignedKeys
    salt: str


def agree_on_sum(
    sites: Sequence[Site], listed: SiteList, request: SumRequest, context: Context, data: bytes = b""
) -> AgreedSum:
    """Let sites agree on a sum.

    Parameters
    ----------
    sites
        Who takes part, in the order of their names.
    listed
        The coordinator's list of sites: a site with another key is named, before others refuse the sum.
    request
        What is summed.
    context
        What all of them shall have agreed to.
    data
        Goes with the request.

    Raises
    ------
    SiteFailure
        If a site cannot be reached, means another sum, or refuses this one.
    """
    text = context_text(context)
    statements = for_all(sites, lambda site: site.answer(Question.of(AGREE, request, data)).read(Statement))
    for site, statement in zip(sites, statements, strict=True):
        with blamed_on(site):
            _check(site, statement, text, listed)
    keys = SignedKeys(round=request.round, group=request.group, keys=[statement.signed for statement in statements])
    return join_sum(sites, keys)


def join_sum(sites: Sequence[Site], keys: SignedKeys) -> AgreedSum:
    """Tell all sites of a sum the one-time keys of all.

    Raises
    ------
    ForgottenKey
        If a site does not know its own any more, or has told what is summed before, for other sites.
    SiteFailure
        If a site cannot be reached, or refuses the sum.
    """
    salt = salt_of(keys.keys)
    joined = for_all(sites, lambda site: site.ask(JOIN, keys, Joined))
    for site, answer in zip(sites, joined, strict=True):
        if answer.salt is None:
            raise ForgottenKey(site.name, "it does not go on with the one-time key that it has told")
        if answer.salt != salt:
            raise SiteFailure(site.name, "it has joined another sum than the other sites")
    return AgreedSum(keys, salt)


def open_sum(sites: Sequence[Site], agreed: AgreedSum) -> list[bytes]:
    """Return the opening keys of all sites, which have sent all parts of their updates.

    Raises
    ------
    SiteFailure
        If a site does not tell its own.
    """
    request = OpeningRequest(round=agreed.keys.round, group=agreed.keys.group, salt=agreed.salt)
    return [bytes.fromhex(opening.key) for opening in for_all(sites, lambda site: site.ask(OPEN, request, Opening))]


def _check(site: Site, statement: Statement, context: str, listed: SiteList) -> None:
    signed: SignedKey = statement.signed
    if signed.site != site.name:
        raise FednnUNetError(f"it speaks for site {signed.site}")
    check_signature(signed, listed)
    if statement.context != context or signed.context != hashlib.sha256(context.encode()).hexdigest():
        field = different_field(statement.context, context)
        raise FednnUNetError(f"it means another sum than the other sites: they differ in {field}")
