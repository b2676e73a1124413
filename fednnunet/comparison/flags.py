"""The flags of a comparison: those of the tasks that it runs, by what they are for."""

from collections.abc import Iterable

from fednnunet.settings.flag import Flag
from fednnunet.settings.flags import (
    AVERAGING_FLAGS,
    FINGERPRINT,
    OWN_MODEL_FLAGS,
    RECOVERY_FLAGS,
    ROUND_TIMEOUT,
    SCHEDULE_FLAGS,
    client_flags,
    server_flags,
)
from fednnunet.settings.nnunet_flags import PLAN_AND_PREPROCESS_FLAGS, TRAIN_FLAGS


def _named(flags: Iterable[Flag], *names: str) -> tuple[Flag, ...]:
    return tuple(flag for flag in flags if flag.name in names)


def _without(flags: Iterable[Flag], *names: str) -> tuple[Flag, ...]:
    return tuple(flag for flag in flags if flag.name not in names)


PLANNING_FLAGS = _without(PLAN_AND_PREPROCESS_FLAGS, "-d", "-c", "--no_pp", "--verbose", "--no_pbar")
COMMON_PLANS_FLAGS = (FINGERPRINT,)
"""Of planning, but not where every site plans for itself."""
ANY_TRAINING_FLAGS = (
    *_named(TRAIN_FLAGS, "-tr", "-p", "-device"),
    *SCHEDULE_FLAGS,
    *_named(RECOVERY_FLAGS, "--save_every"),
)
COHORT_FLAGS = _named(AVERAGING_FLAGS, "--asym_cohorts")
FEDERATED_TRAINING_FLAGS = (
    *_without(AVERAGING_FLAGS, "--asym_cohorts"),
    *_named(RECOVERY_FLAGS, "--min_clients", "--give_up_after"),
    ROUND_TIMEOUT,
)
"""Of trainings in which several sites take part."""
PERSONALIZE = _named(OWN_MODEL_FLAGS, "--personalize")[0]
"""For how many epochs the models of the method `personal` are trained on."""
TESTING_FLAGS = (
    *_named(server_flags("evaluate"), "--nsd_tolerance"),
    *_named(client_flags("evaluate"), "-step_size", "--disable_tta", "--checkpoint"),
)
"""Of evaluations; they may change when a comparison is continued."""

SETTLED_FLAGS = (*PLANNING_FLAGS, *COMMON_PLANS_FLAGS, *ANY_TRAINING_FLAGS, *FEDERATED_TRAINING_FLAGS, *COHORT_FLAGS)
"""Flags that cannot change when a comparison continues."""
