"""Errors of the engine. Those of EngineError are for people: what happened, and what to do."""

from redis.exceptions import ResponseError


class EngineError(Exception):
    """Root of the errors below."""


class InconsistentEvent(Exception):
    """An event does not fit the account it names: events are missing, doubled, or out of order."""


class PartitionCountFixed(EngineError):
    """The cluster was opened with another number of partitions, and accounts cannot change theirs."""


class SettingsUnreadable(EngineError):
    """The engine's settings in the cluster are not what this version writes."""


class NotOpened(EngineError):
    """No engine has run on the cluster."""


class FunctionsRefused(EngineError, ResponseError):
    """A server does not take the engine's function library: it is too old, or its user may not."""
