"""Settings that masked sums cannot do with."""

from pathlib import Path
from typing import Any

import pytest

from fednnunet.errors import FednnUNetError
from fednnunet.settings.checks import check_secure
from fednnunet.settings.coordinator import CoordinatorSettings, ListeningSettings

SITES = Path("sites.toml")


def _settings(**changes: Any) -> CoordinatorSettings:
    return CoordinatorSettings(**{"task": "train", "num_clients": 3, "secure": True, **changes})


@pytest.mark.parametrize("encoding", ["float32", "float16", "int8"])
def test_what_masked_sums_can_do_is_accepted(encoding: str) -> None:
    settings = _settings(encoding=encoding, min_clients=3, max_update_norm=3.0, asym_cohorts=True)
    check_secure(settings, ListeningSettings(sites=SITES), "exact")
    check_secure(settings)


@pytest.mark.parametrize(
    ("changes", "listening", "fingerprint", "named"),
    [
        ({"aggregation": "median"}, None, None, "--aggregation median"),
        ({"aggregation": "trimmed_mean"}, None, None, "--aggregation trimmed_mean"),
        ({"fingerprint": "shared-cases"}, None, None, "--fingerprint shared-cases"),
        ({}, None, "shared-cases", "--fingerprint shared-cases"),
        ({"num_clients": 2}, None, None, "2 sites"),
        ({"num_clients": 1}, None, None, "1 site"),
        ({"min_clients": 2}, None, None, "--min_clients 2"),
        ({}, {"sites": SITES, "insecure": True}, None, "--insecure"),
        ({}, {}, None, "a coordinator without --sites"),
    ],
)
def test_what_masked_sums_cannot_do_is_refused(
    changes: dict[str, Any], listening: dict[str, Any] | None, fingerprint: Any, named: str
) -> None:
    listens = None if listening is None else ListeningSettings(**listening)
    with pytest.raises(FednnUNetError) as caught:
        check_secure(_settings(**changes), listens, fingerprint)
    assert f"does not work with {named}: " in str(caught.value)
    check_secure(_settings(**changes, secure=False), listens, fingerprint)


def test_all_that_does_not_go_together_is_told_in_one_sentence() -> None:
    settings = _settings(aggregation="median", num_clients=2, min_clients=1)
    with pytest.raises(FednnUNetError) as caught:
        check_secure(settings, ListeningSettings(insecure=True), "shared-cases")
    assert str(caught.value) == (
        "--secure sums answers of at least 3 authenticated sites, and so does not work with --aggregation median, "
        "--fingerprint shared-cases, 2 sites, --min_clients 1, --insecure and a coordinator without --sites: change "
        "that, or leave out --secure."
    )
