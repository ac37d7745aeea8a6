"""The one exception for mistakes that a user can make and mend."""


class InputError(ValueError):
    """A value from outside cannot be used.

    The message says what was wrong, what was expected and what to do, on one line: the command
    line prints it as it is and exits with status 2.
    """

    def __init__(self, message: object) -> None:
        super().__init__(" ".join(str(message).split()))  # an array in it has many lines


class PriorWarning(UserWarning):
    """A noise schedule leaves so much of the signal at t = T that sampling from noise misses it.

    Raised by `minidiff.diffusion.schedules`; the command line prints it once, as one line.
    """
