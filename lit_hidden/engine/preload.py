"""What workers have imported: the process that they are forked from imports this file."""

import atexit
import gc
from contextlib import suppress

gc.disable()  # a tenth of the imports' time was spent on looking for garbage
with suppress(Exception):  # each worker imports it again, and says in its log what is wrong
    import sklearn.datasets  # noqa: F401

    import lit_hidden.engine.train  # noqa: F401
gc.freeze()  # workers need not look through all that again
atexit.register(gc.unfreeze)  # else nanobind calls it a leak
gc.enable()
