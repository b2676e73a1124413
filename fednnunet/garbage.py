"""Where Python need not look for garbage: while modules are imported, and when a process ends.

torch and nnU-Net are thousands of modules. Python would go through all that they define again and again while they are
imported, and once more at the end: a third of the processor's time that a node takes to start and to end.
"""

import atexit
import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """Look for no garbage meanwhile; what is there afterwards is not looked at again."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_enabled:
            gc.enable()


def leave_garbage_at_exit() -> None:
    """End this process without a last look for garbage."""
    atexit.unregister(gc.freeze)
    atexit.register(gc.freeze)
