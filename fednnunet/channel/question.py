"""When two questions are the same one, asked again."""

import hashlib

from flwr.common import Scalar


def identity(kind: str, config: dict[str, Scalar]) -> str | None:
    """Return a text that is the same for the same question only; ``None`` for one that is never asked again.

    The ``id`` alone would not do: under that of one question a coordinator could ask for the answer to another.

    Parameters
    ----------
    kind
        What is asked for.
    config
        The question.
    """
    if "id" not in config:
        return None
    asked = hashlib.sha256()
    for part in (kind, config["id"], config.get("body", "")):
        text = str(part).encode(errors="replace")
        asked.update(len(text).to_bytes(8, "big") + text)
    return asked.hexdigest()
