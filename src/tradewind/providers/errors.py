"""Errors of providers: what happened, and whether anything was sent."""


class ProviderError(Exception):
    """Root of the errors below."""


class ProviderUnavailable(ProviderError):
    """There is no session with the provider just now. Nothing was sent: the order may be tried elsewhere."""


class ReportRefused(ProviderError):
    """The provider says what cannot be: the order is as it was, and a person must look."""


class SequenceFileBroken(ProviderError):
    """The file with the sequence numbers is none of ours, or both its copies are damaged."""
