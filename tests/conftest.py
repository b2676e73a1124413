"""What holds for all tests."""

import signal

from hypothesis import settings

# machines differ in speed, and may be busy: no example is wrong because it was slow
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")

# a shell lets what it starts in the background ignore SIGINT, and so would all processes that tests start and interrupt
signal.signal(signal.SIGINT, signal.default_int_handler)
