"""Where events go, as a user names it: a folder, or the URL of a PostgreSQL database."""

from pathlib import Path

from tradewind.trail.errors import TargetRefused
from tradewind.trail.target import Target

POSTGRES_SCHEMES = ("postgresql://", "postgres://")
EXTRA = "exporting needs an extra: pip install 'tradewind[export]'"


def is_database(place: str) -> bool:
    return place.startswith(POSTGRES_SCHEMES)


def target_of(place: str, *, name: str | None = None, events_per_piece: int | None = None) -> Target:
    """The target at `place`, not opened yet.

    :raises TargetRefused: it is neither a folder nor a database, or what it needs is not installed
    """
    options = {} if events_per_piece is None else {"events": events_per_piece}
    try:
        if is_database(place):
            from tradewind.trail.postgres import PostgresTarget

            return PostgresTarget(place, name=name, **options)
        if "://" in place:
            raise TargetRefused(
                f"no events go to {place.partition(':')[0]}: name a folder, or postgresql://..."
            )
        from tradewind.trail.parquet import ParquetTarget

        return ParquetTarget(Path(place), name=name, **options)
    except ModuleNotFoundError as error:
        raise TargetRefused(f"{error}: {EXTRA}") from error
