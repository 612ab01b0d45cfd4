"""Errors of the connection layer.

Server errors (`WRONGTYPE`, `OOM`, `NOPERM`...) stay redis-py's own classes. The classes here are for what
only the client can know: that nothing was sent, that nobody can say whether something ran, or that a limit
was reached. Each is also one of redis-py's classes, so that code written for redis-py keeps catching it.

    RedisError
      TradewindError            mixin-like root of everything below
        Overloaded              (TimeoutError)     a limit was reached and did not clear before the deadline
        DeadlineExceeded        (TimeoutError)     a read, or a write that was never sent, ran out of time
        NodeUnavailable         (ConnectionError)  no connection to the node could be made before the deadline
        ClusterNotReady         (ConnectionError)  the cluster's slots could not be learnt
          SlotNotServed         (ClusterDownError) a key's slot had no owner
        OutcomeUnknown          (ConnectionError)  a write was sent, no reply came: it may have run, once
        ClientClosed            (ConnectionError)  the client was closed while the command waited
        SharedConnectionError   (RedisError)       not possible on a connection that others share
"""

from collections.abc import Mapping

from redis.exceptions import ClusterDownError, RedisClusterException, RedisError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

__all__ = [
    "ClientClosed",
    "ClusterNotReady",
    "DeadlineExceeded",
    "NodeUnavailable",
    "OutcomeUnknown",
    "Overloaded",
    "SharedConnectionError",
    "SlotNotServed",
    "TradewindError",
]


class TradewindError(RedisError):
    """Root of the errors that Tradewind itself raises."""

    def __repr__(self) -> str:  # redis-py's says no word of the message
        return f"{type(self).__name__}({str(self)!r})"


class Overloaded(TradewindError, RedisTimeoutError):
    """The node's limit was reached and the command's turn did not come before its deadline. Nothing was sent.

    Caused by more offered work than the node answers; never counted as a failure of the node.
    """


class DeadlineExceeded(TradewindError, RedisTimeoutError):
    """The deadline passed. For a write it is raised only when nothing was sent; else see OutcomeUnknown."""


class NodeUnavailable(TradewindError, RedisConnectionError):
    """No connection to the node that owns the key could be made before the deadline. Nothing was sent."""


class ClusterNotReady(TradewindError, RedisConnectionError, RedisClusterException):
    """The slot map could not be learnt in time; `reasons` has each node's own reason.

    redis-py raises RedisClusterException where its cluster client cannot start.
    """

    def __init__(self, message: str, reasons: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.reasons = dict(reasons or {})


class SlotNotServed(ClusterNotReady, ClusterDownError):
    """The slot of the key had no owner until the deadline. Nothing was sent."""

    def __init__(self, message: str) -> None:
        ClusterDownError.__init__(self, message)  # the constructors of its two bases do not go together
        self.reasons = {}


class OutcomeUnknown(TradewindError, RedisConnectionError):
    """A write was sent and its reply did not come (or, for durable writes, was not replicated in time).

    It has been applied once or not at all, never twice. Only the caller can find out which: ask the server,
    or send the same request again if it is idempotent (a client order id, `SET`, `HSET`...).
    """


class ClientClosed(TradewindError, RedisConnectionError):
    """The client was closed by its owner while the command was waiting, or before it was called."""


class SharedConnectionError(TradewindError):
    """The command changes or depends on the state of its connection, which many callers share here."""
