"""What workers have imported: the process that they are forked from imports this file."""

import gc
from contextlib import suppress

gc.disable()  # a seventh of the imports' time was spent on looking for garbage
with suppress(Exception):  # a worker imports it again, and its log says what is wrong
    import sklearn.datasets  # noqa: F401

    import lit_hidden.engine.train  # noqa: F401
gc.enable()
