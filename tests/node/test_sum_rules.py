"""What a site wants of masked sums, from its own list of sites and its policy."""

from pathlib import Path
from typing import Any

import pytest

from fednnunet.cli.arguments import parse_client
from fednnunet.errors import FednnUNetError
from fednnunet.node.dataset import SiteDataset
from fednnunet.node.planning import PlanningClient
from fednnunet.node.sum_rules import rules_of
from fednnunet.protocol.conversation import Question
from fednnunet.protocol.messages import Hello
from fednnunet.secure_aggregation.attempts import Rules
from fednnunet.security.identity import Challenge, Identity, entry, listed_site, read_sites
from fednnunet.settings.node import GateSettings, PlanningSettings
from tests.secure_aggregation.sites import identities, site_list

KEYS = identities(("A", "B", "C"))
OTHER = identities(("A",))["A"]


def _hello(**changes: Any) -> Hello:
    facts: dict[str, Any] = {"site": "A", "task": "train", "method": "FFE", "cases": 9}
    return Hello.model_validate({**facts, "versions": {}, "labels": {}, "channels": {}, **changes})


def _list(folder: Path, *names: str) -> Path:
    path = folder / "sites.toml"
    path.write_text("\n".join(entry(listed_site(name, KEYS[name])) for name in names or KEYS))
    return path


def _policy(folder: Path, text: str) -> Path:
    path = folder / "policy.toml"
    path.write_text(text)
    return path


def test_without_a_list_of_sites_a_site_takes_part_in_no_masked_sum(tmp_path: Path) -> None:
    assert rules_of(GateSettings(), _hello(), KEYS["A"]) is None
    assert rules_of(GateSettings(policy=_policy(tmp_path, "[masked]\nallow = false")), _hello(), None) is None


def test_the_policy_sets_the_limits_of_a_sum(tmp_path: Path) -> None:
    sites = _list(tmp_path)
    assert _without_list(rules_of(GateSettings(sites=sites), _hello(), KEYS["A"])) == (3, None, 1)
    digest = read_sites(sites).digest
    for spelling in (digest, digest.upper(), digest.replace(" ", "")):
        text = f'[masked]\nrequire = true\nlist = "{spelling}"\nmin_sites = 2\nmax_absent = 1\nmax_repeats = 0'
        rules = rules_of(GateSettings(policy=_policy(tmp_path, text), sites=sites), _hello(), KEYS["A"])
        assert _without_list(rules) == (2, 1, 0)
        assert rules is not None
        assert rules.sites.digest == digest


def _without_list(rules: Rules | None) -> tuple[int, int | None, int]:
    assert rules is not None
    return rules.min_sites, rules.max_absent, rules.max_repeats


@pytest.mark.parametrize(
    ("key", "policy", "changes", "told"),
    [
        (None, "", {}, "--sites needs --key"),
        (OTHER, "", {}, "does not have site A with the public key of --key"),
        (KEYS["B"], "", {}, "does not have site A with the public key of --key"),
        (KEYS["A"], "", {"site": "D"}, "does not have site D"),
        (KEYS["A"], "[masked]\nallow = false", {}, r"the policy forbids \(masked.allow\)"),
        (KEYS["A"], '[masked]\nlist = "0123"', {}, r"digest DIGEST, the policy demands 0123 \(masked.list\)"),
        (KEYS["A"], "[masked]\nmin_sites = 4", {}, r"has 3 sites, the policy demands 4 in a sum \(masked.min_sites\)"),
        (
            KEYS["A"],
            "",
            {"task": "plan_and_preprocess", "fingerprint": "shared-cases"},
            "--fingerprint shared-cases tells each case",
        ),
    ],
)
def test_what_does_not_fit_together_is_told_in_one_sentence(
    tmp_path: Path, key: Identity | None, policy: str, changes: dict[str, Any], told: str
) -> None:
    sites = _list(tmp_path)
    settings = GateSettings(policy=_policy(tmp_path, policy), sites=sites)
    with pytest.raises(FednnUNetError, match=told.replace("DIGEST", read_sites(sites).digest)) as caught:
        rules_of(settings, _hello(**changes), key)
    assert str(caught.value).count(". ") == 0


@pytest.mark.parametrize(
    ("changes", "needs"),
    [
        ({}, True),
        ({"task": "extract_fingerprint"}, True),
        ({"task": "plan_and_preprocess"}, True),
        ({"task": "plan_and_preprocess", "method": "AsymFedAvg"}, False),
        ({"method": "AsymFedAvg"}, True),
        ({"task": "evaluate"}, False),
        ({"training": {"trainer": "nnUNetTrainer", "configuration": "2d", "validation_only": True}}, False),
    ],
)
def test_a_policy_that_demands_masked_sums_needs_a_list_where_something_is_summed(
    tmp_path: Path, changes: dict[str, Any], needs: bool
) -> None:
    settings = GateSettings(policy=_policy(tmp_path, "[masked]\nrequire = true"))
    if not needs:
        assert rules_of(settings, _hello(**changes), KEYS["A"]) is None
        return
    with pytest.raises(FednnUNetError, match=r"The policy demands masked sums \(masked.require\): give --sites"):
        rules_of(settings, _hello(**changes), KEYS["A"])


def test_a_node_with_rules_introduces_itself_with_the_digest_of_its_list() -> None:
    settings = parse_client(["plan_and_preprocess", "1"]).node
    assert isinstance(settings, PlanningSettings)
    listed = site_list(KEYS)
    for rules, digest in ((None, None), (Rules(listed), listed.digest)):
        client = PlanningClient(settings, SiteDataset("Dataset001_A"), _hello(), identity=KEYS["A"], rules=rules)
        introduced = client.answer(Question.of("hello", Challenge.draw("ab" * 16)))
        assert Hello.from_json(introduced.body or "").sites_digest == digest


def test_an_evaluation_is_no_sum(tmp_path: Path) -> None:
    assert rules_of(GateSettings(sites=_list(tmp_path)), _hello(task="evaluate"), KEYS["A"]) is None
