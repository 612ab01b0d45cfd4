"""redis-py's constructor arguments: how each is honoured, and what is refused. None is ignored."""

import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from redis.asyncio.connection import SSLConnection
from redis.commands.policies import AsyncStaticPolicyResolver
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisClusterException
from redis.exceptions import TimeoutError as RedisTimeoutError

from tradewind.client.connect import ConnectionSettings, default_protocol
from tradewind.client.policy import RetryPolicy, Timeouts
from tradewind.client.tls import Tls

CONNECT_TIMEOUT_S = 5.0
# A short stall of a server costs its callers time, but no reconnect, however short they wait.
SILENCE_S_MIN = 2.0

# Tradewind's own arguments: of its clients, and more of those of a cluster.
OWN_ARGUMENTS = (
    "lanes", "in_flight_max", "in_flight_bytes_max", "retry", "slow_command_s", "telemetry",
    "connection_age_s_max",
)  # fmt: skip
OWN_CLUSTER_ARGUMENTS = (*OWN_ARGUMENTS, "read_from", "read_your_writes", "cache")

# Arguments that do what redis-py means by them; where the way is another one, docs/client.md says which.
HONOURED = frozenset(
    {
        "address_remap",
        "client_name",
        "cluster_error_retry_attempts",
        "credential_provider",
        "decode_responses",
        "driver_info",
        "dynamic_startup_nodes",
        "encoding",
        "encoding_errors",
        "event_dispatcher",
        "health_check_interval",
        "host",
        "legacy_responses",
        "lib_name",
        "lib_version",
        "load_balancing_strategy",
        "max_connections",
        "password",
        "port",
        "protocol",
        "read_from_replicas",
        "reinitialize_steps",
        "require_full_coverage",
        "retry",
        "retry_on_error",
        "socket_connect_timeout",
        "socket_keepalive",
        "socket_keepalive_options",
        "socket_read_size",
        "socket_timeout",
        "ssl",
        "ssl_ca_certs",
        "ssl_ca_data",
        "ssl_cert_reqs",
        "ssl_certfile",
        "ssl_check_hostname",
        "ssl_ciphers",
        "ssl_exclude_verify_flags",
        "ssl_include_verify_flags",
        "ssl_keyfile",
        "ssl_min_version",
        "startup_nodes",
        "username",
    }
)


def _asks_for_notifications(config: Any) -> bool:
    return getattr(config, "enabled", False) is True


# Arguments of which some values would break a guarantee: what is refused, and what to do instead.
REFUSED: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "db": (lambda db: bool(int(db or 0)), "a cluster has one database, number 0; leave db out"),
    "path": (bool, "a cluster's nodes are reached by TCP, not by a Unix socket; leave path out"),
    "policy_resolver": (
        lambda resolver: type(resolver) is not AsyncStaticPolicyResolver,
        "commands are routed by the server's own COMMAND table, and a resolver could send a write past the "
        "owner of its key; leave it out, and name nodes with target_nodes=... where a command needs it",
    ),
    "maint_notifications_config": (
        _asks_for_notifications,
        "maintenance notifications are not listened to: slots that move are followed by redirects; leave "
        'maint_notifications_config out, or pass enabled="auto" or False',
    ),
}


def named_arguments(
    constructor: Callable[..., None], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> dict[str, Any]:
    """What the caller has given to redis-py's constructor, by name.

    Raises TypeError for what the constructor does not know, RedisClusterException for what is refused, also
    for an argument that a newer redis-py has and this release does not.
    """
    check_names(constructor, kwargs, OWN_CLUSTER_ARGUMENTS)
    bound = inspect.signature(constructor).bind(None, *args, **kwargs)
    given = dict(list(bound.arguments.items())[1:])
    for name, value in given.items():
        if name in REFUSED:
            is_refused, sentence = REFUSED[name]
            if is_refused(value):
                raise RedisClusterException(f"{name}={value!r}: {sentence}")
        elif name not in HONOURED:
            raise RedisClusterException(
                f"{name} is an argument of a redis-py newer than this release, which cannot honour it; "
                "leave it out"
            )
    return given


def check_names(constructor: Callable[..., None], given: Iterable[str], own: Iterable[str]) -> None:
    """Raises TypeError for a name that neither redis-py's constructor knows nor our `own` are."""
    known = {*inspect.signature(constructor).parameters, *own}
    for name in given:
        if name not in known:
            nearest = difflib.get_close_matches(name, sorted(known), n=1)
            hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
            raise TypeError(f"unexpected keyword argument {name!r}{hint}")


def take_own(arguments: dict[str, Any]) -> dict[str, Any]:
    """Take Tradewind's own out of the arguments of a client, or of what a pool has read from a URL."""
    return {name: arguments.pop(name) for name in OWN_ARGUMENTS if name in arguments}


def retry_policy(given: Mapping[str, Any]) -> RetryPolicy:
    """From `retry`, which is redis-py's Retry or "always", `retry_on_error` and the number of attempts.

    redis-py's default number is not applied: where nobody asks for a bound, tries end with the deadline.
    """
    retry = given.get("retry")
    if isinstance(retry, str):
        if retry != "always":
            raise RedisClusterException(f'retry={retry!r}: pass "always", or a Retry of redis-py, or nothing')
        return RetryPolicy(always=True, errors=_error_replies(given.get("retry_on_error")))
    count = given.get("cluster_error_retry_attempts", -1)
    errors = tuple(given.get("retry_on_error") or ())
    if retry is None:
        return RetryPolicy(tries_max=_tries(count), errors=_error_replies(errors))
    return RetryPolicy(
        tries_max=_tries(retry.get_retries()),
        errors=_error_replies((*retry._supported_errors, *errors)),
        delay_s=retry._backoff.compute,
    )


def _tries(count: int) -> float:
    return float("inf") if count < 0 else count


def _error_replies(classes: Any) -> tuple[type[Exception], ...]:
    """Without those of a connection: that a connection ended is not a reply, and has rules of its own."""
    lost = (RedisConnectionError, RedisTimeoutError, OSError)
    return tuple(kind for kind in classes or () if not issubclass(kind, lost))


def number(name: str, value: Any, *, least: float) -> float:
    """An own option, a number or (from a URL) its text. Raises ValueError with the name and the bound."""
    try:
        chosen = float(value)
    except (TypeError, ValueError):
        chosen = float("nan")
    if not chosen >= least:
        raise ValueError(f"{name}={value!r}: a number of at least {least:g} is needed")
    return chosen


def whole_number(name: str, value: Any) -> int:
    """As `number`, for what is counted: at least 1."""
    return int(number(name, value, least=1))


def _seconds(name: str, value: Any, *, unset: float) -> float:
    """A timeout of redis-py's. Raises ValueError for 0 and less: no call could ever be answered in time."""
    if value is None:
        return unset
    if not (seconds := number(name, value, least=0)):
        raise ValueError(f"{name}={value!r}: more than 0 seconds are needed")
    return seconds


def timeouts(kwargs: Mapping[str, Any], slow_command_s: float | None) -> Timeouts:
    """From redis-py's `socket_timeout` and `socket_connect_timeout`, and our own argument."""
    command_s = _seconds("socket_timeout", kwargs.get("socket_timeout"), unset=float("inf"))
    return Timeouts(
        command_s=command_s,
        connect_s=_connect_s(kwargs),
        silence_s=30.0 if command_s == float("inf") else max(command_s, SILENCE_S_MIN),
        slow_s=float("inf") if slow_command_s is None else number("slow_command_s", slow_command_s, least=0),
    )


def _connect_s(kwargs: Mapping[str, Any]) -> float:
    name = "socket_connect_timeout"
    return _seconds(name, kwargs.get(name), unset=CONNECT_TIMEOUT_S)


def connection_settings(kwargs: Mapping[str, Any], age_s_max: float | None = None) -> ConnectionSettings:
    """`kwargs` are redis-py's connection arguments, as `RedisCluster.get_connection_kwargs()` shows them."""
    if age_s_max is not None:
        age_s_max = number("connection_age_s_max", age_s_max, least=AGE_S_MIN)
    protocol = kwargs.get("protocol")
    options = kwargs.get("socket_keepalive_options")
    library, version = _library(kwargs)
    read_size = kwargs.get("socket_read_size", REDIS_PY_READ_SIZE)
    return ConnectionSettings(
        protocol=default_protocol() if protocol is None else int(protocol),
        username=kwargs.get("username"),
        password=kwargs.get("password"),
        credential_provider=kwargs.get("credential_provider"),
        client_name=kwargs.get("client_name"),
        database=int(kwargs.get("db") or 0),
        library=library,
        library_version=version,
        tls=_tls(kwargs),
        keepalive=bool(kwargs.get("socket_keepalive", True)),
        keepalive_options=options if isinstance(options, Mapping) else None,
        encoding=kwargs.get("encoding", "utf-8") if kwargs.get("decode_responses") else None,
        encoding_errors=kwargs.get("encoding_errors", "strict"),
        connect_s=_connect_s(kwargs),
        age_s_max=float("inf") if age_s_max is None else age_s_max,
        health_check_s=float(kwargs.get("health_check_interval") or 0),
        read_bytes_max=None if read_size == REDIS_PY_READ_SIZE else int(read_size),
    )


# What is for the dialling, which is ours; what a pool or a node of redis-py knows and a connection does not;
# what would send again behind our back; and what changes a connection on the word of a server.
NOT_FOR_CONNECTIONS = frozenset(
    {"host", "port", "path", "socket_connect_timeout", "socket_keepalive", "socket_keepalive_options"}
    | {"max_connections", "connection_class", "response_callbacks", "event_dispatcher"}
    | {"retry", "retry_on_error", "retry_on_timeout"}
    | {"maint_notifications_config", "maint_notifications_pool_handler"}
    | {"oss_cluster_maint_notifications_handler"}
)


def connection_arguments(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """What a connection of redis-py's own class is made with, once it is dialled by us."""
    arguments = {
        name: value
        for name, value in kwargs.items()
        if name not in NOT_FOR_CONNECTIONS and not name.startswith("ssl_")
    }
    library, version = _library(kwargs)
    if "driver_info" in kwargs:
        arguments["driver_info"] = type(kwargs["driver_info"])(library, version) if library else None
    else:
        arguments |= {"lib_name": library, "lib_version": version}
    return arguments


AGE_S_MIN = 2.0  # more often is a storm of connections
REDIS_PY_READ_SIZE = 32768  # its default, which is too little for replies in bulk: the loop reads 256 KiB
REDIS_PY = "redis-py"


def _library(kwargs: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """What CLIENT SETINFO says: redis-py's DriverInfo (`lib_name` and `lib_version` in 7) in our name.

    Libraries that the caller names stay: `redis-py(django-redis_v5.4.0)` is `tradewind(django-redis_v5.4.0)`.
    None for what the caller does not want sent.
    """
    if "driver_info" in kwargs:
        info = kwargs["driver_info"]
        name, version = (info.formatted_name, info.lib_version) if info else (None, None)
    else:
        name, version = kwargs.get("lib_name", REDIS_PY), kwargs.get("lib_version", _redis_py_version())
    if name is not None and name.partition("(")[0] == REDIS_PY:
        name = "tradewind" + name.removeprefix(REDIS_PY)
        version = _version() if version == _redis_py_version() else version
    return name, version


def _redis_py_version() -> str:
    import redis

    return str(redis.__version__)


def _version() -> str:
    from tradewind import __version__  # not at the top: tradewind's package imports this module

    return __version__


def _tls(kwargs: Mapping[str, Any]) -> Tls | None:
    if kwargs.get("connection_class") is not SSLConnection:
        return None
    prefix = "ssl_"
    return Tls({key.removeprefix(prefix): value for key, value in kwargs.items() if key.startswith(prefix)})
