"""What workers have imported and found out: the process that they are forked from imports this file."""

from contextlib import suppress

with suppress(Exception):  # each worker imports it again, and says in its log what is wrong
    import sklearn.datasets  # noqa: F401

    import lit_hidden.engine.train  # noqa: F401
    from lit_hidden.engine.provenance import installed

    installed()
