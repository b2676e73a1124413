"""What holds for all tests."""

from hypothesis import settings

# machines differ in speed, and may be busy: no example is wrong because it was slow
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")
