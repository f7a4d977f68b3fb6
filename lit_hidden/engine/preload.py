"""What workers have imported: the process that they are forked from imports this file."""

import gc

gc.disable()  # a seventh of the imports' time was spent on looking for garbage
import sklearn.datasets  # noqa: E402, F401

import lit_hidden.engine.train  # noqa: E402, F401

gc.enable()
