"""What a worker imports, in the process that workers are forked from; what cannot be imported each says for itself."""

import gc
from contextlib import suppress

gc.disable()  # a tenth of the time that imports take went into looking for garbage among what they make
with suppress(Exception):
    import lit_hidden.engine.train  # noqa: F401
gc.enable()
