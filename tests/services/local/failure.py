"""The one error of this package."""


class Failure(Exception):
    """Something a person must know or do; its text is one line that names the remedy where there is one."""
