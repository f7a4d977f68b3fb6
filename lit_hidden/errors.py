"""What the user can mend."""


class UserError(Exception):
    """An error that the command line tells in one message, without a traceback."""

    status = 1  # of the command
