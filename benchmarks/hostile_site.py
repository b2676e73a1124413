"""A listed site that answers nonsense: ``python benchmarks/hostile_site.py SEED train DATASET …``, as ``client.py``.

Its node is a real one, up to the first update; from then on, what it says is replaced at random. "Pending" is said for
ever, so that the coordinator has to go on without the answer.
"""

import json
import random
import sys
from collections.abc import Callable

import numpy as np
from flwr.common import NDArrays, Scalar

from fednnunet.channel.identity import Challenge
from fednnunet.channel.long_lived import joining
from fednnunet.channel.messages import WorkReport
from fednnunet.cli.commands import client_main

Reply = dict[str, Scalar]

_HONEST_ROUNDS = 1
_HONEST = 0.7
"""How many of the answers are left as they are: a site that is always hostile is soon left out of everything."""
_TEXTS = ("=cmd|' /C calc'!A0", "[red]|\n# x\x1b[2J", "</script><script>alert(1)</script>", "x" * 100_000, "\u202e")


class HostileNode:
    """Stands between a node and its channel, as `joining.Node`.

    Parameters
    ----------
    node
        An honest one.
    seed
        Of what it says.
    """

    def __init__(self, node: joining.Node, seed: int) -> None:
        self._node = node
        self._random = random.Random(seed)
        self._rounds = 0
        self._is_pending: str | None = None

    @property
    def has_left(self) -> bool:
        """Whether the honest node has."""
        return self._node.has_left

    def introduce(self, challenge: Challenge, certificate: bytes) -> Reply:
        """Prove who it is, as it should."""
        return self._node.introduce(challenge, certificate)

    def get_properties(self, config: Reply) -> Reply:
        """Answer a question, or hand over other weights."""
        kind = str(config.get("ask"))
        reply = self._node.get_properties(config)
        return self._spoiled(kind, reply) if kind in ("fetch", "hand", "finish") else reply

    def fit(self, parameters: NDArrays, config: Reply) -> tuple[NDArrays, int, Reply]:
        """Train, and lie about the number of cases."""
        arrays, weight, reply = self._node.fit(parameters, config)
        self._rounds += "pending" not in reply
        reply = self._spoiled("fit", reply)
        return arrays, (self._random.choice([weight, 0, -1, 2**31 - 1]) if self._is_hostile() else weight), reply

    def evaluate(self, parameters: NDArrays, config: Reply) -> tuple[float, int, Reply]:
        """Validate, and tell absurd figures."""
        loss, weight, reply = self._node.evaluate(parameters, config)
        return loss, weight, self._spoiled("evaluate", reply)

    def _is_hostile(self) -> bool:
        return self._rounds > _HONEST_ROUNDS and self._random.random() > _HONEST

    def _spoiled(self, kind: str, reply: Reply) -> Reply:
        if self._is_pending == kind:
            return {"pending": WorkReport(done=0, total=1).to_json()}
        if "pending" in reply or not self._is_hostile():
            return reply
        nonsense: dict[str, Callable[[], Reply]] = {
            "pending for ever": lambda: self._pend(kind),
            "malformed": lambda: {**reply, "body": self._random.choice(["", "[" * 9999, "{}", '{"round": 1e999}'])},
            "a failure that is long, or steers a terminal": lambda: {"failure": self._random.choice(_TEXTS)},
            "figures beyond their meaning": lambda: {**reply, "body": _absurd(str(reply.get("body", "{}")))},
        }
        data = reply.get("data")
        if isinstance(data, bytes):
            count = len(data) // 4
            nonsense |= {
                "NaN": lambda: {**reply, "data": b"\xff" * len(data)},
                "huge": lambda: {**reply, "data": np.full(count, 3e38, np.float32).tobytes() + data[4 * count :]},
                "half": lambda: {**reply, "data": data[: len(data) // 2]},
                "random bytes": lambda: {**reply, "data": self._random.randbytes(len(data))},
            }
        what = self._random.choice(list(nonsense))
        print(f"nonsense: {what} ({kind})", flush=True)
        return nonsense[what]()

    def _pend(self, kind: str) -> Reply:
        self._is_pending = kind
        return {"pending": WorkReport(done=0, total=1).to_json()}


def _absurd(body: str) -> str:
    """Return a message with other figures and names."""
    content = json.loads(body)
    for name, value in list(content.items()):
        if isinstance(value, float):
            content[name] = 1e300
        elif isinstance(value, dict):
            content[name] = {text[:150]: 1e200 for text in _TEXTS}
    return json.dumps(content)


def main() -> int:
    """Take part as a hostile site, and return the exit status."""
    seed, *words = sys.argv[1:]
    join = joining.join

    def join_as_hostile(endpoint: joining.Endpoint, node: joining.Node, *rest: float | None) -> None:
        join(endpoint, HostileNode(node, int(seed)), *rest)  # type: ignore[arg-type]

    joining.join = join_as_hostile  # type: ignore[assignment]
    return client_main(words)


if __name__ == "__main__":
    sys.exit(main())
