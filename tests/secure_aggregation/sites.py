"""Sites with keys, for tests."""

from collections.abc import Sequence

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fednnunet.secure_aggregation.attempts import Attempt, Context, Rules
from fednnunet.security.identity import Identity, SiteList, listed_site

NAMES = ("A", "B", "C")


def identities(names: Sequence[str] = NAMES) -> dict[str, Identity]:
    return {name: Identity(Ed25519PrivateKey.generate()) for name in names}


def site_list(keys: dict[str, Identity]) -> SiteList:
    return SiteList([listed_site(name, identity) for name, identity in keys.items()])


def attempts(keys: dict[str, Identity], context: Context) -> dict[str, Attempt]:
    return {name: Attempt(identity, name, context) for name, identity in keys.items()}


def joined(keys: dict[str, Identity], context: Context, **rules: int) -> dict[str, Attempt]:
    """Attempts of all sites that have joined one sum."""
    of_sites = attempts(keys, context)
    signed = [of_sites[name].statement.signed for name in sorted(of_sites)]
    for attempt in of_sites.values():
        attempt.join(signed, Rules(site_list(keys), **rules))
    return of_sites
