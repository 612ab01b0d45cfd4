"""The slot map: which node owns which of the 16,384 slots, as plain data, and where it comes from.

Source of the reply's form: https://redis.io/docs/latest/commands/cluster-slots/
"""

import socket
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from redis.exceptions import AskError, AuthenticationError, ResponseError

from tradewind.client.policy import Verdict, judge

SLOT_COUNT = 16384
AddressRemap = Callable[[tuple[str, int]], tuple[str, int]]


class Endpoint(NamedTuple):
    """Where a node listens. With port 0, `host` is the path of a Unix socket."""

    host: str
    port: int

    @property
    def name(self) -> str:
        """`host:port`, as redis-py names nodes, or the path."""
        return f"{self.host}:{self.port}" if self.port else self.host


@dataclass(frozen=True)
class SlotRange:
    """Slots `first` to `last`, both included, and who serves them."""

    first: int
    last: int
    primary: Endpoint
    replicas: tuple[Endpoint, ...] = ()


@dataclass(frozen=True)
class SlotMap:
    """One node's view of the cluster. `names`: what a node is called that is dialled by another host."""

    ranges: tuple[SlotRange, ...]
    names: Mapping[Endpoint, str] = field(default_factory=dict)

    @property
    def covered(self) -> int:
        """How many slots have a primary."""
        return sum(item.last - item.first + 1 for item in self.ranges)

    def endpoints(self) -> Iterator[tuple[Endpoint, bool]]:
        """Each endpoint once, with whether it is a primary."""
        seen: set[Endpoint] = set()
        for is_primary in (True, False):
            for item in self.ranges:
                for endpoint in (item.primary,) if is_primary else item.replicas:
                    if endpoint not in seen:
                        seen.add(endpoint)
                        yield endpoint, is_primary


def parse_cluster_slots(reply: Iterable[Any], asked: Endpoint, remap: AddressRemap | None = None) -> SlotMap:
    """The map from a raw CLUSTER SLOTS reply.

    A missing, empty or `?` host means the host that was asked. Raises ValueError for a reply of another form.
    """
    names: dict[Endpoint, str] = {}
    try:
        return SlotMap(tuple(_range(item, asked, remap, names) for item in reply), names)
    except (TypeError, IndexError, ValueError) as error:
        raise ValueError(
            f"{asked.name}: CLUSTER SLOTS answered in a form that is not understood: {error}"
        ) from error


def _range(item: Any, asked: Endpoint, remap: AddressRemap | None, names: dict[Endpoint, str]) -> SlotRange:
    first, last = int(item[0]), int(item[1])
    if not 0 <= first <= last < SLOT_COUNT:
        raise ValueError(f"slots {first} to {last}")
    primary, *replicas = (_endpoint(node, asked, remap, names) for node in item[2:])
    return SlotRange(first, last, primary, tuple(replicas))


def _endpoint(node: Any, asked: Endpoint, remap: AddressRemap | None, names: dict[Endpoint, str]) -> Endpoint:
    endpoint = resolve_endpoint(node[0], int(node[1]), asked, remap)
    announced = _text(node[0]).strip("?") or asked.host
    name = _announced_name(node[3] if len(node) > 3 else None) or announced
    if name != endpoint.host:
        names[endpoint] = name
    return endpoint


def _announced_name(metadata: Any) -> str | None:
    """The host name beside an address: in a map (RESP3), or an array of names and values (RESP2)."""
    if isinstance(metadata, Sequence) and not isinstance(metadata, str | bytes):
        metadata = dict(zip(metadata[::2], metadata[1::2], strict=False))
    if not isinstance(metadata, Mapping):
        return None
    return next((_text(value) for key, value in metadata.items() if _text(key) == "hostname"), None)


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value or "")


def resolve_endpoint(host: Any, port: int, asked: Endpoint, remap: AddressRemap | None) -> Endpoint:
    """The address to dial for what a node said, in CLUSTER SLOTS or in a redirect."""
    endpoint = Endpoint(_text(host).strip("?") or asked.host, port or asked.port)
    if remap is not None:
        endpoint = Endpoint(*remap(endpoint))
    if endpoint.host == "localhost":  # redis-py's ClusterNode does it as well: a server has one name
        endpoint = Endpoint(socket.gethostbyname(endpoint.host), endpoint.port)
    return endpoint


class Topology(Protocol):
    """How a slot map is learnt: what is asked, and what the answers mean."""

    question: tuple[str, ...]
    unready: str  # the beginning of the sentence that says that nobody answered
    refusal_will_do: bool  # whether a node that refuses to answer this user has said enough

    def slot_map(self, reply: Any, asked: Endpoint) -> SlotMap:
        """The map from the raw reply of the node at `asked`. Raises ValueError for one of another form."""

    def redirected(self, error: AskError, asked: Endpoint) -> Endpoint:
        """Where a MOVED or ASK of the node at `asked` leads. Raises what the caller must be told instead."""

    def is_final(self, error: BaseException) -> bool:
        """Whether it is of no use to ask again after this error."""


class ClusterTopology:
    """Nodes of a cluster know who owns what, and say so in redirects."""

    question: tuple[str, ...] = ("CLUSTER SLOTS",)
    unready = "no node could tell the slot map"
    refusal_will_do = False

    def __init__(self, address_remap: AddressRemap | None = None) -> None:
        self._address_remap = address_remap

    def slot_map(self, reply: Any, asked: Endpoint) -> SlotMap:
        """See `parse_cluster_slots`."""
        return parse_cluster_slots(reply, asked, self._address_remap)

    def redirected(self, error: AskError, asked: Endpoint) -> Endpoint:
        """The node that is named, under the address by which this client reaches it."""
        return resolve_endpoint(error.host, error.port, asked, self._address_remap)

    def is_final(self, _error: BaseException) -> bool:
        """Never: another node may know better."""
        return False


class OneServer:
    """A single server has all slots, so nobody needs to compute one. It is only asked whether it is there."""

    question: tuple[str, ...] = ("PING",)
    unready = "the server does not serve"
    refusal_will_do = True

    def slot_map(self, _reply: Any, asked: Endpoint) -> SlotMap:
        """Constant."""
        return SlotMap((SlotRange(0, SLOT_COUNT - 1, asked),))

    def redirected(self, error: AskError, asked: Endpoint) -> Endpoint:
        """Nowhere: only a node of a cluster redirects."""
        raise ResponseError(
            f"{asked.name} is a node of a cluster and owns only some of the keys ({type(error).__name__} "
            f"{error}): use tradewind.RedisCluster"
        ) from error

    def is_final(self, error: BaseException) -> bool:
        """A refused password, or a database that does not exist, will be refused again."""
        return isinstance(error, AuthenticationError | ResponseError) and judge(error) is Verdict.FAIL
