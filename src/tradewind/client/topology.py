"""The slot map: which node owns which of the 16,384 slots, as plain data.

Source of the reply's form: https://redis.io/docs/latest/commands/cluster-slots/
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

SLOT_COUNT = 16384
AddressRemap = Callable[[tuple[str, int]], tuple[str, int]]


class Endpoint(NamedTuple):
    """Where a node listens."""

    host: str
    port: int

    @property
    def name(self) -> str:
        """`host:port`, as redis-py names nodes."""
        return f"{self.host}:{self.port}"


@dataclass(frozen=True)
class SlotRange:
    """Slots `first` to `last`, both included, and who serves them."""

    first: int
    last: int
    primary: Endpoint
    replicas: tuple[Endpoint, ...] = ()


@dataclass(frozen=True)
class SlotMap:
    """One node's view of the cluster."""

    ranges: tuple[SlotRange, ...]

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
    try:
        return SlotMap(tuple(_range(item, asked, remap) for item in reply))
    except (TypeError, IndexError, ValueError) as error:
        raise ValueError(
            f"{asked.name}: CLUSTER SLOTS answered in a form that is not understood: {error}"
        ) from error


def _range(item: Any, asked: Endpoint, remap: AddressRemap | None) -> SlotRange:
    first, last = int(item[0]), int(item[1])
    if not 0 <= first <= last < SLOT_COUNT:
        raise ValueError(f"slots {first} to {last}")
    primary, *replicas = (_endpoint(node, asked, remap) for node in item[2:])
    return SlotRange(first, last, primary, tuple(replicas))


def _endpoint(node: Any, asked: Endpoint, remap: AddressRemap | None) -> Endpoint:
    return resolve_endpoint(node[0], int(node[1]), asked, remap)


def resolve_endpoint(host: Any, port: int, asked: Endpoint, remap: AddressRemap | None) -> Endpoint:
    """The address to dial for what a node said, in CLUSTER SLOTS or in a redirect."""
    text = host.decode() if isinstance(host, bytes) else host
    endpoint = Endpoint(asked.host if text in (None, "", "?") else str(text), port or asked.port)
    return Endpoint(*remap(endpoint)) if remap is not None else endpoint
