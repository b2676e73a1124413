"""The random numbers of a site: Python's, NumPy's and torch's generators, which nnU-Net draws from."""

import contextlib
import hashlib
import os
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch


def seed_all(*about: object) -> None:
    """Seed all generators from `about`, such as a number, a site and a round."""
    digest = hashlib.sha256("\n".join(map(str, about)).encode()).digest()
    random.seed(digest)
    np.random.seed(np.frombuffer(digest, np.uint32))
    torch.manual_seed(int.from_bytes(digest[:8], "big") >> 1)  # those of all devices


class OwnRandomness:
    """Random numbers that a site has for itself although others draw from the same generators meanwhile."""

    def __init__(self) -> None:
        seed_all(os.urandom(32).hex())
        self._state = _state()

    @contextlib.contextmanager
    def drawn(self) -> Iterator[None]:
        """Continue the generators from the end of the last such block."""
        _restore(self._state)
        try:
            yield
        finally:
            self._state = _state()


def _state() -> tuple[Any, ...]:
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None  # type: ignore[no-untyped-call]
    mps = torch.mps.get_rng_state() if torch.backends.mps.is_available() else None
    return random.getstate(), np.random.get_state(), torch.get_rng_state(), cuda, mps


def _restore(state: tuple[Any, ...]) -> None:
    python, numpy, cpu, cuda, mps = state
    random.setstate(python)
    np.random.set_state(numpy)
    torch.set_rng_state(cpu)
    if cuda is not None:
        torch.cuda.set_rng_state_all(cuda)
    if mps is not None:
        torch.mps.set_rng_state(mps)
