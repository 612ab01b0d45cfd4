"""What a forked child does with the connections that its parent has: it lets go of them, without closing any.

Parent and child share the sockets and, with epoll, even the list of what the event loop listens to: to close
a connection in the child makes the parent deaf on it. So clients forget there what they hold, and open
connections of their own when they are used. The child's copies of the sockets are exchanged for /dev/null, so
that a connection which the parent closes is closed for the server as well, however long the child lives.
"""

import asyncio
import os
import socket
import weakref
from contextlib import suppress
from typing import Protocol


class Holder(Protocol):
    """Something that holds connections."""

    def let_go(self) -> object:
        """Forget them, as if they had never been made; returns what must not be collected, nor closed so."""


_holders: "weakref.WeakSet[Holder]" = weakref.WeakSet()
_transports: weakref.WeakSet[asyncio.BaseTransport] = weakref.WeakSet()
_left_alone: list[object] = []  # in a child: what is the parent's


def let_go_in_children(holder: Holder) -> None:
    """Call `holder.let_go()` in every child that is forked while the holder lives."""
    _holders.add(holder)


def drop_socket_in_children(transport: asyncio.BaseTransport) -> None:
    """Have every child that is forked while the connection is open give up its copy of the socket."""
    _transports.add(transport)


def _in_child() -> None:
    for holder in list(_holders):
        with suppress(Exception):  # one that fails keeps no other from letting go
            _left_alone.append(holder.let_go())
    transports = list(_transports)
    _left_alone.extend(transports)
    _transports.clear()
    null = os.open(os.devnull, os.O_RDWR)
    for transport in transports:
        if not transport.is_closing():  # the number of one that is closed may be somebody else's by now
            with suppress(Exception):
                _exchange(transport.get_extra_info("socket"), null)
    os.close(null)


def _exchange(sock: socket.socket | None, null: int) -> None:
    if sock is not None and sock.fileno() >= 0:
        os.dup2(null, sock.fileno(), inheritable=False)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
