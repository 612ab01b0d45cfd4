"""What a forked child does with the connections that its parent has: it lets go of them, without closing any.

Parent and child share the sockets and, with epoll, even the list of what the event loop listens to: to close
a connection in the child makes the parent deaf on it. So clients forget there what they hold, and open
connections of their own when they are used.
"""

import os
import weakref
from typing import Protocol


class Holder(Protocol):
    """Something that holds connections."""

    def let_go(self) -> object:
        """Forget them, as if they had never been made; returns what must not be collected, nor closed so."""


_holders: "weakref.WeakSet[Holder]" = weakref.WeakSet()
_left_alone: list[object] = []  # in a child: what is the parent's


def let_go_in_children(holder: Holder) -> None:
    """Call `holder.let_go()` in every child that is forked while the holder lives."""
    _holders.add(holder)


def _in_child() -> None:
    _left_alone.extend([holder.let_go() for holder in list(_holders)])


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
