"""Errors of the tools that are for people: one sentence with what happened and what to do."""


class OpsError(Exception):
    """Root of the errors below."""


class OptionRefused(OpsError):
    """Options that do not go together, or a value out of range: the caller's mistake."""


class StartFailed(OpsError):
    """A part of the system did not come up in time."""


class FleetEnded(OpsError):
    """The worker processes ended although nobody told them to."""


class RolloutFailed(OpsError):
    """A worker was not replaced in time; those before it were, and all go on."""


class JournalUnreadable(OpsError):
    """A journal file is missing, or has a line that is not a journal's."""


class JournalUnwritable(OpsError):
    """The journal cannot take what callers were told: without it the audit could not find what is lost."""


class OrderFailed(OpsError):
    """Offering an order met an error that is no outcome: a defect, of the load or of the client."""


class StillChanging(OpsError):
    """A partition changes faster than the audit can look at it."""
