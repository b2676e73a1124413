"""Messages of secure aggregation: how sites agree on one-time keys for a sum that nobody can take apart."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from fednnunet.protocol.messages import MOST_CASES, MOST_LABELS, MOST_SITES
from fednnunet.schema import Line, Name, Number, Told, WireMessage

AGREE, JOIN, OPEN, FIGURES = "agree", "join", "open", "figures"
"""The kinds of questions."""

Purpose = Literal["fingerprint", "update", "local", "figures"]
"""What is summed: answers about cases, updates, what stays at the sites until the end of a training, or figures."""

_Bytes32 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
_Bytes64 = Annotated[str, Field(pattern=r"^[0-9a-f]{128}$")]
_Round = Annotated[int, Field(ge=0, le=10**6)]
_Group = Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$", description="digest of the layout of what is summed")]


class SumRequest(WireMessage):
    """Asks a site for a one-time key for a sum.

    For an update, the data beside it are the exponents of the ranges of its blocks, see `FixedPoint`.
    """

    purpose: Purpose
    round: _Round = Field(default=0, description="of an update; 0 for a fingerprint")
    group: _Group = ""
    total: Annotated[int, Field(ge=1, le=MOST_CASES * MOST_SITES)] = Field(
        description="sum of the weights of all sites of the group; for a fingerprint, all cases"
    )
    bits: Literal[16, 32, 64] = Field(default=32, description="of the integers in which an update is written")
    by_cases: bool = Field(default=True, description="whether a site's weight is its number of training cases, or 1")


class SignedKey(WireMessage):
    """A site's one-time key, signed together with what the sum is about."""

    site: Name
    key: _Bytes32 = Field(description="X25519 public key")
    context: _Bytes32 = Field(description="SHA-256 of the context")
    signature: _Bytes64 = Field(description="Ed25519, by the site's long-term key")


class Statement(WireMessage):
    """What a site answers to a `SumRequest`."""

    longest_text: ClassVar[int] = 1 << 18

    signed: SignedKey
    context: Annotated[str, Field(max_length=1 << 17)] = Field(description="canonical JSON of what the sum is about")


class SignedKeys(WireMessage):
    """The one-time keys of all sites of a sum, in the order of their names."""

    longest_text: ClassVar[int] = 1 << 20

    round: _Round = 0
    group: _Group = ""
    keys: list[SignedKey] = Field(min_length=1, max_length=MOST_SITES)


class Joined(WireMessage):
    """A site has made its masks. None: these keys are not from this node, which was started again."""

    salt: _Bytes32 | None = Field(description="SHA-256 of all signed keys")


class OpeningRequest(WireMessage):
    """All parts of a masked update have arrived from all sites: asks for the key that opens their sum."""

    round: _Round
    group: _Group
    salt: _Bytes32


class Opening(WireMessage):
    """The key of a site's opening mask; of no use without those of all other sites of the sum."""

    round: _Round
    key: _Bytes32


class FiguresRequest(WireMessage):
    """Asks for losses and Dice of a round as terms of masked sums; the full validation is the round after the last."""

    longest_text: ClassVar[int] = 1 << 19

    round: _Round
    labels: Annotated[list[Line], Field(max_length=MOST_LABELS)] = Field(description="labels and regions, in order")


class Trained(WireMessage):
    """What a site says of a masked update, which nobody else can see."""

    round: _Round
    norm: Number | None = Field(default=None, ge=0, description="root mean square of the change of its weights")
    optimizer_norm: Number | None = Field(default=None, ge=0, description="and of its optimizer's momentum")
    problem: Told | None = Field(default=None, description="why the update cannot be used")
