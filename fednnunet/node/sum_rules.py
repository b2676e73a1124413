"""What a site wants of the masked sums in which it takes part: from its own list of sites, and its policy."""

from fednnunet.errors import FednnUNetError
from fednnunet.privacy.policy import Policy, read_policy
from fednnunet.protocol.messages import Hello
from fednnunet.secure_aggregation.attempts import FigureRules, Rules
from fednnunet.security.identity import Identity, read_sites
from fednnunet.settings.node import GateSettings


def rules_of(settings: GateSettings, hello: Hello, identity: Identity | None) -> Rules | None:
    """Return the rules for masked sums; ``None`` if the site takes part in none.

    Parameters
    ----------
    settings
        Name the policy, and the list of sites.
    hello
        The site's introduction.
    identity
        Its key.

    Raises
    ------
    FednnUNetError
        If list, key and policy do not fit together, or the policy demands masked sums and there is no list.
    """
    policy = Policy() if settings.policy is None else read_policy(settings.policy)
    if hello.task == "evaluate":
        return None
    if settings.sites is None:
        if policy.masked.require and hello.is_aggregated:
            raise FednnUNetError(
                "The policy demands masked sums (masked.require): give --sites with this hospital's own list of sites."
            )
        if policy.metrics.masked and hello.is_aggregated:
            raise FednnUNetError(
                "The policy demands masked sums of losses and Dice (metrics.masked): give --sites with this hospital's "
                "own list of sites."
            )
        return None
    rule, sites = policy.masked, read_sites(settings.sites)
    if identity is None:
        raise FednnUNetError("--sites needs --key: with it, this site signs for the masked sums.")
    if not rule.allow:
        raise FednnUNetError("--sites is for masked sums, which the policy forbids (masked.allow): change one of them.")
    if hello.fingerprint == "shared-cases":
        raise FednnUNetError("--fingerprint shared-cases tells each case, --sites only sums: leave one of them out.")
    if not sites.lists(hello.site, identity):
        raise FednnUNetError(
            f"The list of sites {settings.sites} does not have site {hello.site} with the public key of --key: add it, "
            "or give the name on the list with --site."
        )
    if rule.list is not None and _digits(rule.list) != _digits(sites.digest):
        raise FednnUNetError(
            f"The list of sites {settings.sites} has the digest {sites.digest}, the policy demands {rule.list} "
            "(masked.list): check which of them the other hospitals have."
        )
    if len(sites.names) < rule.min_sites:
        raise FednnUNetError(
            f"The list of sites {settings.sites} has {len(sites.names)} sites, the policy demands {rule.min_sites} in "
            "a sum (masked.min_sites): add the others."
        )
    metrics = policy.metrics
    figures = FigureRules(metrics.min_cases, metrics.min_val_iterations) if metrics.masked else None
    return Rules(sites, rule.min_sites, rule.max_absent, rule.max_repeats, figures)


def _digits(digest: str) -> str:
    return "".join(digest.lower().split())
