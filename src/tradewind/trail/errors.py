"""Errors of exporting and trimming that are for people: what happened, and what to do."""


class TrailError(Exception):
    """Root of the errors below."""


class EventsMissing(TrailError):
    """Events that should be there are not: trimmed before this target had them, or lost."""


class AccountUnknown(TrailError):
    """No event and no checkpoint names the account."""


class StatementTooLong(TrailError):
    """More events would have to be read for a statement than the caller allows."""


class TargetRefused(TrailError):
    """The target is not one of this cluster, is not what it says, or somebody else writes to it."""


class TargetUnavailable(TrailError):
    """The target could not be reached or written to just now. Nothing is lost: start the export again."""


class CheckpointBroken(TrailError):
    """The accounts that stand for trimmed events cannot be read: `tradewind audit --archive` needs none."""


class TrimRefused(TrailError):
    """Events that may not be trimmed yet, or not without being asked for by name. Nothing was changed."""
