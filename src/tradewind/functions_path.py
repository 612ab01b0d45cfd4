"""Where the Redis Functions libraries (Lua) are found, in a wheel and in a checkout alike."""

from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

_CHECKOUT_FUNCTIONS = Path(__file__).resolve().parents[2] / "functions"


def function_library_source(name: str) -> str:
    """The Lua source of the library `name` ("engine" is functions/engine.lua).

    :raises FileNotFoundError: no such library was shipped; the message names the places looked at
    """
    places: list[Traversable] = [resources.files("tradewind") / "functions", _CHECKOUT_FUNCTIONS]
    for place in places:
        library = place / f"{name}.lua"
        if library.is_file():
            return library.read_text(encoding="utf-8")
    looked_at = " and ".join(str(place) for place in places)
    raise FileNotFoundError(f"function library {name!r}: no {name}.lua in {looked_at}")
