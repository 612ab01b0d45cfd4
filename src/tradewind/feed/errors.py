"""What can be wrong with a feed, each as one printable line."""

from __future__ import annotations

from os import PathLike, fspath

TEXT_SHOWN_MAX = 60
"""Characters of a bad line that an error shows."""


class FeedError(ValueError):
    """A feed was asked for something it cannot do: the caller's mistake, told in one line."""


class TickFileError(FeedError):
    """A tick file cannot be used. `str()` is one line: `FILE:LINE: what is wrong: the text (shortened)`.

    `line` counts from 1 and is None where the whole file is meant; `text` is the offending line, or empty.
    """

    def __init__(self, path: str | PathLike[str], line: int | None, why: str, text: str = "") -> None:
        self.path = fspath(path)
        self.line = line
        self.why = why
        self.text = text
        super().__init__(self._message())

    def __reduce__(self) -> tuple[type[TickFileError], tuple[str, int | None, str, str]]:
        # Files are validated in another thread or process: the error must survive the way back.
        return type(self), (self.path, self.line, self.why, self.text)

    def _message(self) -> str:
        place = printable(self.path) if self.line is None else f"{printable(self.path)}:{self.line}"
        return f"{place}: {self.why}" + (f": {shortened(self.text)}" if self.text else "")


def printable(text: str) -> str:
    """`text` with control characters and undecodable bytes escaped, so that it stays on one line."""
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text
    )


def shortened(text: str) -> str:
    """`text` printable and cut to TEXT_SHOWN_MAX characters."""
    shown = printable(text[: TEXT_SHOWN_MAX + 1])
    return shown if len(shown) <= TEXT_SHOWN_MAX else shown[:TEXT_SHOWN_MAX] + "..."
