"""Errors of the API's command line that are for people: one sentence with what happened and what to do."""


class ApiError(Exception):
    """Root of the errors below."""


class KeyRefused(ApiError):
    """A key cannot be made or found as asked: the caller's mistake."""


class ServerRefused(ApiError):
    """The server cannot listen as asked: the address, the certificate or the key."""
