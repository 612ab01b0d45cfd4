"""Where the engine keeps things: accounts to partitions, partitions to keys.

All keys of a partition carry its hash tag, so they share one slot and can change together. The number of
partitions is fixed when a cluster is first opened: an account's partition never changes.
"""

import zlib

PARTITIONS_DEFAULT = 64
PARTITIONS_MAX = 4096

SETTINGS_KEY = "tw:{engine}:settings"
WORKERS_KEY = "tw:{engine}:workers"
LAST_QUOTES_KEY = "tw:{engine}:quotes"
HOUSE_KEY = "tw:{engine}:states"
GROUPS_KEY = "tw:{engine}:groups"
FLEET_CHANNEL = "tw:{engine}:fleet"
"""Partitions were given back, or a worker is to be replaced: see `FREE` and `replace_message`."""

HOUSE_CHANNEL = "tw:{engine}:house"

DAY_MS = 86_400_000


FREE = b"free"


def replace_message(worker: str) -> bytes:
    """Asks the worker of this name to have itself replaced."""
    return b"replace " + worker.encode()


def partition_of(account: str, partitions: int) -> int:
    """CRC32 of the account id, modulo the number of partitions."""
    return zlib.crc32(account.encode()) % partitions


class PartitionKeys:
    """The names of one partition's keys and channels."""

    def __init__(self, partition: int) -> None:
        prefix = f"tw:{{p{partition}}}"
        self.partition = partition
        self.owner = f"{prefix}:owner"
        self.cursor = f"{prefix}:cursor"
        self.commands = f"{prefix}:commands"
        self.events = f"{prefix}:events"
        self.poison = f"{prefix}:poison"
        self.accounts = f"{prefix}:accounts"
        self.exports = f"{prefix}:exports"
        self.checkpoint = f"{prefix}:checkpoint"
        self.checkpoint_made = f"{prefix}:checkpoint:made"
        self.quotes_channel = f"{prefix}:quotes"
        self._prefix = prefix

    def account(self, account_id: str) -> str:
        """The hash of one account."""
        return f"{self._prefix}:account:{account_id}"

    def ids(self, day: int) -> str:
        """The hash of answers by client order id, for one day since the epoch (UTC)."""
        return f"{self._prefix}:ids:{day}"

    def results_channel(self, reply_to: str) -> str:
        """Where the process `reply_to` listens for answers of this partition."""
        return f"{self._prefix}:results:{reply_to}"
