"""The one exception for mistakes that a user can make and mend."""


class InputError(ValueError):
    """A value from outside cannot be used.

    The message says what was wrong, what was expected and what to do, on one line: the command
    line prints it as it is and exits with status 2.
    """
