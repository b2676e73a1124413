"""Words of sentences that people read."""


def counted(number: int, thing: str) -> str:
    """Return a number with what it counts, as in ``1 case`` and ``2 cases``."""
    return f"{number} {thing}{'' if number == 1 else 's'}"
