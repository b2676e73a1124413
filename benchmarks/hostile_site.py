"""A listed site that answers nonsense: ``python benchmarks/hostile_site.py SEED train DATASET …``, as ``client.py``.

Its node is a real one, up to the first update; from then on, what it says is replaced at random. "Pending" is said for
ever, so that the coordinator has to go on without the answer.
"""

import json
import random
import sys
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from fednnunet.cli.commands import client_main
from fednnunet.node.site_client import SiteClient
from fednnunet.protocol.conversation import TRAIN, VALIDATE, Answer, Question
from fednnunet.protocol.messages import WorkReport
from fednnunet.transport.long_lived import joining

_SPOILED = {"fetch", "hand", TRAIN, VALIDATE, "finish"}

_HONEST_ROUNDS = 1
_HONEST = 0.7
"""How many of the answers are left as they are: a site that is always hostile is soon left out of everything."""
_TEXTS = ("=cmd|' /C calc'!A0", "[red]|\n# x\x1b[2J", "</script><script>alert(1)</script>", "x" * 100_000, "\u202e")


class HostileNode(SiteClient):
    """Stands between a node, with its gate, and the channel.

    Parameters
    ----------
    node
        An honest one.
    seed
        Of what it says.
    """

    def __init__(self, node: SiteClient, seed: int) -> None:
        self._node = node
        self._random = random.Random(seed)
        self._rounds = 0
        self._is_pending: str | None = None
        self.hello, self.certificate, self.gate = node.hello, node.certificate, self

    @property
    def has_left(self) -> bool:
        """Whether the honest node has."""
        return self._node.has_left

    def answer(self, question: Question) -> Answer:
        """Answer a question, prove who it is, or lie."""
        answer = self._node.gate.answer(question)
        self._rounds += question.kind == TRAIN and answer.pending is None
        return self._spoiled(question.kind, answer) if question.kind in _SPOILED else answer

    def _is_hostile(self) -> bool:
        return self._rounds > _HONEST_ROUNDS and self._random.random() > _HONEST

    def _spoiled(self, kind: str, answer: Answer) -> Answer:
        if self._is_pending == kind:
            return Answer(pending=WorkReport(done=0, total=1))
        if answer.pending is not None or not self._is_hostile():
            return answer
        nonsense: dict[str, Callable[[], Answer]] = {
            "pending for ever": lambda: self._pend(kind),
            "malformed": lambda: replace(answer, body=self._random.choice(["", "[" * 9999, "{}", '{"round": 1e999}'])),
            "a failure that is long, or steers a terminal": lambda: Answer(failure=self._random.choice(_TEXTS)),
            "figures beyond their meaning": lambda: replace(answer, body=_absurd(answer.body or "{}")),
        }
        data = answer.data
        if data:
            count = len(data) // 4
            huge = np.full(count, 3e38, np.float32).tobytes() + data[4 * count :]
            nonsense |= {
                "NaN": lambda: replace(answer, data=b"\xff" * len(data)),
                "huge": lambda: replace(answer, data=huge),
                "half": lambda: replace(answer, data=data[: len(data) // 2]),
                "random bytes": lambda: replace(answer, data=self._random.randbytes(len(data))),
            }
        what = self._random.choice(list(nonsense))
        print(f"nonsense: {what} ({kind})", flush=True)
        return nonsense[what]()

    def _pend(self, kind: str) -> Answer:
        self._is_pending = kind
        return Answer(pending=WorkReport(done=0, total=1))


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

    def join_as_hostile(endpoint: joining.Endpoint, node: SiteClient, *rest: float | None) -> None:
        join(endpoint, HostileNode(node, int(seed)), *rest)  # type: ignore[arg-type]

    joining.join = join_as_hostile  # type: ignore[assignment]
    return client_main(words)


if __name__ == "__main__":
    sys.exit(main())
