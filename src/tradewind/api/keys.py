"""API keys: made and revoked by the command line, kept hashed in the cluster, looked up in memory.

A token is `tw_<id>_<secret>`, the secret 256 random bits. The cluster has its SHA-256 alone: a random secret
of that length cannot be guessed from it, so no slow hash is needed. The token itself is shown once, when it
is made, and never logged.
"""

import hashlib
import hmac
import re
import secrets
from typing import Final, Literal, TypeAlias

import msgspec

from tradewind import RedisCluster, clock
from tradewind.api.errors import KeyRefused

API_KEYS_KEY: Final = "tw:{engine}:api_keys"
KEYS_MAX: Final = 1_000
RATE_PER_S_DEFAULT: Final = 5_000
RATE_PER_S_MAX: Final = 1_000_000
EVERY_ACCOUNT: Final = "*"

Scope: TypeAlias = Literal["read", "trade", "admin"]
SCOPES: Final[tuple[Scope, ...]] = ("read", "trade", "admin")

_ACCOUNT_PATTERN: Final = re.compile(r"^[A-Za-z0-9_.\-]{0,64}\*?\Z")
_TOKEN: Final = re.compile(r"^tw_([0-9a-f]{16})_[0-9a-f]{64}\Z")


class ApiKey(msgspec.Struct, frozen=True, kw_only=True):
    """What a key may do. `accounts` are ids, or beginnings of ids that end in `*`.

    `rate_per_s`: orders and other requests a second, of this key in one API process.
    """

    id: str
    name: str
    digest: str
    scopes: tuple[Scope, ...]
    accounts: tuple[str, ...]
    rate_per_s: int
    created_at_ms: int

    def may(self, scope: Scope) -> bool:
        return scope in self.scopes

    def reaches(self, account: str) -> bool:
        """Whether the account is one of its own."""
        return EVERY_ACCOUNT in self.accounts or any(
            account.startswith(one[:-1]) if one.endswith(EVERY_ACCOUNT) else account == one
            for one in self.accounts
        )


_decode: Final = msgspec.json.Decoder(ApiKey).decode
_encode: Final = msgspec.json.Encoder().encode


def make_key(name: str, scopes: list[str], accounts: list[str], rate_per_s: int) -> tuple[ApiKey, str]:
    """A new key and its token, which is in no other place from here on.

    :raises KeyRefused: a scope that there is not, an account pattern that matches none, a rate out of range
    """
    known = tuple(scope for scope in SCOPES if scope in scopes)
    if not known or set(scopes) - set(SCOPES):
        raise KeyRefused(f"scopes {','.join(scopes) or '(none)'}: they must be of {', '.join(SCOPES)}")
    for account in accounts:
        if not account or not _ACCOUNT_PATTERN.match(account):
            raise KeyRefused(
                f"account {account!r}: it must be an account id, or the beginning of ids and `*`"
            )
    if not 1 <= rate_per_s <= RATE_PER_S_MAX:
        raise KeyRefused(f"rate {rate_per_s}: it must be between 1 and {RATE_PER_S_MAX} a second")
    if not name or len(name) > 64 or not name.isprintable():
        raise KeyRefused("the name must be 1 to 64 printable characters")
    id = secrets.token_hex(8)
    token = f"tw_{id}_{secrets.token_hex(32)}"
    key = ApiKey(
        id=id,
        name=name,
        digest=_digest(token),
        scopes=known,
        accounts=tuple(accounts),
        rate_per_s=rate_per_s,
        created_at_ms=clock.now_ms(),
    )
    return key, token


def matching(keys: dict[str, ApiKey], token: str) -> ApiKey | None:
    """The key of a token, or None. Takes the same time for every secret under an id."""
    found = _TOKEN.match(token)
    key = keys.get(found[1]) if found else None
    if key is None or not hmac.compare_digest(key.digest, _digest(token)):
        return None
    return key


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


async def store_key(client: RedisCluster, key: ApiKey) -> None:
    """Durable: a replica has it when this returns. May run twice.

    :raises KeyRefused: there are KEYS_MAX keys
    """
    if len(await load_keys(client)) >= KEYS_MAX:
        raise KeyRefused(f"there are {KEYS_MAX} keys: revoke some first")
    durable = client.durable(replicas=1, idempotent=True)
    await durable.execute_command("HSET", API_KEYS_KEY, key.id, _encode(key))


async def revoke_key(client: RedisCluster, id: str) -> None:
    """Durable. API processes hear of it within a second. May run twice.

    :raises KeyRefused: there is no such key
    """
    if id not in await load_keys(client):
        raise KeyRefused(f"there is no key {id}: `tradewind keys list` has them")
    await client.durable(replicas=1, idempotent=True).execute_command("HDEL", API_KEYS_KEY, id)


async def load_keys(client: RedisCluster) -> dict[str, ApiKey]:
    """All keys by their ids. A field that is no key of this version counts as none."""
    fields = await client.execute_command("HVALS", API_KEYS_KEY)
    keys = {}
    for value in fields:
        try:
            key = _decode(value)
        except msgspec.MsgspecError:
            continue
        keys[key.id] = key
    return keys
