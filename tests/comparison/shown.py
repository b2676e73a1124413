import io

from rich.console import Console, RenderableType


def shown(what: RenderableType) -> str:
    """Return what a wide terminal shows, without colours."""
    output = io.StringIO()
    Console(file=output, width=200).print(what)
    return output.getvalue()
