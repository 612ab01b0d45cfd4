"""A future for tests without an event loop: the part of asyncio's that the client uses."""

import asyncio
from typing import Any


class Ticket:
    """Resolved once; says so loudly when it is resolved twice."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.state = "waiting"
        self.value: Any = None

    def done(self) -> bool:
        return self.state != "waiting"

    def set_result(self, value: object) -> None:
        if self.state in ("cancelled", "failed"):
            raise asyncio.InvalidStateError(f"{self.name} is {self.state}")
        self._settle("answered", value)

    def set_exception(self, error: BaseException) -> None:
        self._settle("failed", error)

    def cancel(self) -> None:
        self._settle("cancelled", None)

    def _settle(self, state: str, value: Any) -> None:
        assert self.state == "waiting", f"{self.name} is {self.state}, and now {state}"
        self.state, self.value = state, value

    def __repr__(self) -> str:
        return f"<Ticket {self.name} {self.state} {self.value!r}>"
