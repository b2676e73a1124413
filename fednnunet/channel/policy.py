"""What a site lets out: the rules that its policy file sets, and the file itself."""

from pathlib import Path
from typing import Literal

from pydantic import ByteSize, Field, TypeAdapter

from fednnunet.channel.toml_file import read_toml
from fednnunet.message import Message

Kind = Literal[
    "introduction", "contact", "fingerprint", "cases", "plans", "layout", "model", "update", "metrics", "failure"
]
"""What a message that leaves a site is; `KINDS` tells what each one holds."""

KINDS: dict[Kind, str] = {
    "introduction": "name of the site, number of its cases, labels, channels, versions and flags",
    "contact": "signs of life: nothing but how far the node is",
    "fingerprint": "counts and sums over all cases, from which the common fingerprint is made",
    "cases": "spacing and shape of each case (only with --fingerprint shared-cases)",
    "plans": "a digest of the plans that the site has installed",
    "layout": "names and shapes of the network's tensors, number of training cases, epochs",
    "model": "how the network is built: plans, names of its tensors, file format; nothing of a case",
    "update": "weights of the network, or what training has changed in them",
    "metrics": "losses and Dice, or mean, deviation and median of test metrics, per label, over all cases",
    "failure": "one sentence about what went wrong at the site",
}


class Allowance(Message):
    """Whether messages of a kind may leave."""

    allow: bool = True


class Rule(Allowance):
    """Whether, and after whose yes, messages of a kind may leave."""

    confirm: bool = False
    """Whether a person has to agree to the first one."""


class StatisticsRule(Rule):
    """Whether statistics may leave."""

    min_cases: int = Field(default=1, ge=1)


class MetricsRule(StatisticsRule):
    """Whether losses and metrics may leave."""

    min_val_iterations: int = Field(default=1, ge=1)
    """Batches below which a loss, or a pseudo Dice, says too much about each of them."""


class UpdateRule(Rule):
    """Whether, and how many, updates may leave."""

    max_rounds: int | None = Field(default=None, ge=1)


class Policy(Message):
    """The rules of a site; what is not mentioned is allowed.

    Introductions and signs of life cannot be forbidden: a site that wants to send neither does not start a node.
    """

    introduction_confirm: bool = False
    fingerprint: StatisticsRule = StatisticsRule()
    cases: StatisticsRule = StatisticsRule()
    plans: Rule = Rule()
    layout: Rule = Rule()
    model: Rule = Rule()
    update: UpdateRule = UpdateRule()
    metrics: MetricsRule = MetricsRule()
    failure: Allowance = Allowance()
    max_bytes: ByteSize | None = None

    def rule(self, kind: Kind) -> Rule:
        """Return the rule for messages of a kind."""
        if kind in ("introduction", "contact", "failure"):
            allow = kind != "failure" or self.failure.allow
            return Rule(allow=allow, confirm=kind == "introduction" and self.introduction_confirm)
        rule: Rule = getattr(self, kind)
        return rule


def read_policy(path: Path) -> Policy:
    """Read a policy file: TOML with the fields of `Policy`.

    Raises
    ------
    FednnUNetError
        If it cannot be read, or has a rule that there is not.
    """
    return read_toml(path, TypeAdapter(Policy), "policy", "--policy")


RECOMMENDED = """\
# What may leave this site, for client.py --policy. A message that a rule here does not allow is not sent: the
# coordinator learns which rule has stopped it, not what was in it. Whatever is sent stands in the audit log.
#
# confirm = true: the first message of its kind waits for a person's yes, at the terminal of the node or with
# 'fednnunet policy approve'. It is shown as a summary, and saved as it would be sent.

# Bytes that a node may send from its start to its end; "500 MB", "20 GB". Without the line there is no limit.
# max_bytes = "200 GB"

# Whether a person looks at what the site says of itself when it connects: its name, the number of its cases, labels,
# channels, versions and flags.
introduction_confirm = false

# Counts and sums over all cases, from which the common fingerprint is made (extract_fingerprint, plan_and_preprocess).
[fingerprint]
allow = true
confirm = true
min_cases = 5      # a site with fewer cases does not answer: its sums would tell too much about each

# Spacing and shape of each case, which the coordinator asks for with --fingerprint shared-cases only.
[cases]
allow = false
confirm = true
min_cases = 5

# A digest of the plans that the site has installed.
[plans]
allow = true

# Names and shapes of the network's tensors, and the number of training cases.
[layout]
allow = true

# How the network is built: plans, names of its tensors, file format of the images; nothing of a case. With it, the
# coordinator writes the trained model as nnU-Net does. Where it is not allowed, training goes on without that.
[model]
allow = true

# The trained weights, or what training has changed in them.
[update]
allow = true
confirm = true
max_rounds = 2000  # of all folds together, from the start of the node to its end

# Losses and Dice over all validation cases. Where they are not allowed, training goes on without them. In evaluate:
# mean, standard deviation, median and number of cases of each metric, over the test cases of this site.
[metrics]
allow = true
min_cases = 5      # validation or test cases behind each figure; a label that fewer have is not told of
min_val_iterations = 10  # batches behind each loss and Dice of a round; fewer, which --val_iterations_per_epoch and
                         # --iterations_per_epoch ask for, say too much about each

# One sentence about what went wrong at the site. Where it is not allowed, the coordinator learns that something did.
[failure]
allow = true
"""
