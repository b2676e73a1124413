"""A site's policy: the rules about outgoing messages, and the file that sets them."""

from pathlib import Path
from typing import Literal

from pydantic import ByteSize, Field, TypeAdapter

from fednnunet.schema import Message
from fednnunet.toml_file import read_toml

Kind = Literal[
    "introduction",
    "contact",
    "fingerprint",
    "cases",
    "plans",
    "layout",
    "model",
    "update",
    "masked",
    "opening",
    "metrics",
    "failure",
]
"""Kind of an outgoing message; `KINDS` describes the content of each."""

KINDS: dict[Kind, str] = {
    "introduction": "name of the site, number of cases, labels, channels, versions and flags",
    "contact": "signs of life and progress",
    "fingerprint": "counts and sums over all cases, for the common fingerprint",
    "cases": "spacing and shape of each case (only with --fingerprint shared-cases)",
    "plans": "a digest of the installed plans",
    "layout": "names and shapes of the network's tensors, number of training cases, epochs",
    "model": "description of the network: plans, names of its tensors, file format; no case data",
    "update": "weights of the network, or their change",
    "masked": "terms of a sum, of which nobody sees a single one: answers about cases, or weights",
    "opening": "a key that opens the sum of masked updates, with those of all other sites",
    "metrics": "losses and Dice, or mean, standard deviation and median of test metrics, per label, over all cases",
    "failure": "one sentence about an error at the site",
}


class Allowance(Message):
    """Whether messages of a kind may leave."""

    allow: bool = True


class Rule(Allowance):
    """Whether, and after whose yes, messages of a kind may leave."""

    confirm: bool = False
    """Whether a person must approve the first one."""


class StatisticsRule(Rule):
    """Whether statistics may leave."""

    min_cases: int = Field(default=1, ge=1)


class MetricsRule(StatisticsRule):
    """Whether losses and metrics may leave."""

    masked: bool = False
    """Whether losses and Dice of a training leave as terms of masked sums only, and no other metrics."""

    min_val_iterations: int = Field(default=1, ge=1)
    """Batches below which a loss, or a pseudo Dice, says too much about each of them."""


class UpdateRule(Rule):
    """Whether, and how many, updates may leave."""

    max_rounds: int | None = Field(default=None, ge=1)


class MaskedRule(Allowance):
    """Whether terms of masked sums may leave, and of which sums."""

    require: bool = False
    """Whether answers about cases, and trained weights, leave as terms of masked sums only."""
    list: str | None = None
    """Digest of the list of sites that this hospital has checked."""
    min_sites: int = Field(default=3, ge=2)
    """Sites of a sum, at least."""
    max_absent: int | None = Field(default=None, ge=0)
    """Sites of the list that may be missing from a sum."""
    max_repeats: int = Field(default=1, ge=0)
    """How often, in a training, updates may be summed among other sites when those of the round were opened before."""


class Policy(Message):
    """The rules of a site; everything not mentioned is allowed.

    Introductions and signs of life cannot be forbidden: a site that wants to send neither does not start a node.
    """

    introduction_confirm: bool = False
    fingerprint: StatisticsRule = StatisticsRule()
    cases: StatisticsRule = StatisticsRule()
    plans: Rule = Rule()
    layout: Rule = Rule()
    model: Rule = Rule()
    update: UpdateRule = UpdateRule()
    masked: MaskedRule = MaskedRule()
    metrics: MetricsRule = MetricsRule()
    failure: Allowance = Allowance()
    max_bytes: ByteSize | None = None

    def rule(self, kind: Kind) -> Rule:
        """Return the rule for messages of a kind."""
        if kind in ("introduction", "contact", "failure"):
            allow = kind != "failure" or self.failure.allow
            return Rule(allow=allow, confirm=kind == "introduction" and self.introduction_confirm)
        if kind in ("masked", "opening"):
            return Rule(allow=self.masked.allow)
        rule: Rule = getattr(self, kind)
        return rule


def read_policy(path: Path) -> Policy:
    """Read a policy file: TOML with the fields of `Policy`.

    Raises
    ------
    FednnUNetError
        If it cannot be read, or has an unknown rule.
    """
    return read_toml(path, TypeAdapter(Policy), "policy", "--policy")


RECOMMENDED = """\
# Rules about messages that leave this site, for client.py --policy. A message that a rule forbids is not sent: the
# coordinator learns the name of the rule, not the content. The audit log records every message that is sent.
#
# confirm = true: a person must approve the first message of its kind, at the terminal of the node or with
# 'fednnunet policy approve'. The node shows a summary, and saves the message as it would be sent.

# Maximum number of bytes that a node sends between its start and its end; "500 MB", "20 GB". Default: no limit.
# max_bytes = "200 GB"

# Whether a person must approve the introduction, which the node sends when it connects: name of the site, number of
# cases, labels, channels, versions and flags.
introduction_confirm = false

# Counts and sums over all cases, for the common fingerprint (extract_fingerprint, plan_and_preprocess).
[fingerprint]
allow = true
confirm = true
min_cases = 5      # a site with fewer cases does not answer: its sums would reveal too much about each

# Spacing and shape of each case, which the coordinator requests with --fingerprint shared-cases only.
[cases]
allow = false
confirm = true
min_cases = 5

# A digest of the installed plans.
[plans]
allow = true

# Names and shapes of the network's tensors, and the number of training cases.
[layout]
allow = true

# Description of the network: plans, names of its tensors, file format of the images; no case data. The coordinator
# needs it to export the trained model in nnU-Net's format. If forbidden, training continues without the export.
[model]
allow = true

# The trained weights, or their change.
[update]
allow = true
confirm = true
max_rounds = 2000  # of all folds together, from the start of the node to its end

# Terms of masked sums, if the node is started with --sites: the coordinator sees the sum over all sites only. The rules
# of [fingerprint] and [update] hold for them as well.
[masked]
allow = true
require = false    # true: answers about cases, and trained weights, leave as terms of masked sums only
# list = "0123 4567 89ab cdef 0123 4567 89ab cdef"  # digest of the list of sites, from 'fednnunet sites digest', once
                                                    # the hospitals have compared it by telephone
min_sites = 3      # minimum number of sites in a sum; with 2, each knows the other's term
max_absent = 1     # sites of the list that may be missing from a sum
max_repeats = 1    # rounds of a training that may be summed again, among other sites, after their sum was opened

# Losses and Dice over all validation cases. If forbidden, training continues without them. In evaluate: mean, standard
# deviation, median and number of cases of each metric, over the test cases of this site.
[metrics]
allow = true
masked = false     # true: losses and Dice of a training leave as terms of masked sums only (needs --sites), and no
                   # other metrics
min_cases = 5      # minimum number of validation or test cases behind each figure; labels with fewer are left out
min_val_iterations = 10  # minimum number of batches behind each loss and Dice of a round; with fewer, set by
                         # --val_iterations_per_epoch and --iterations_per_epoch, they reveal too much about each

# One sentence about an error at the site. If forbidden, the coordinator only learns that there was an error.
[failure]
allow = true
"""
