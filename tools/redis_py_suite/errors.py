"""What ends a run before it has a result."""


class CannotRun(Exception):
    """The tests or the servers they need are not there; the message says what to do."""
