"""A wrong --url is one line, and a password in it is not repeated."""

import subprocess
import sys

import pytest

from tradewind.ops.cluster_url import client_of
from tradewind.ops.errors import OptionRefused


@pytest.mark.parametrize(
    "url",
    [
        "foo",
        "",
        "http://h:1",
        "redis://",
        "redis://:secret@h:port",
        "unix:///s",
    ],
)
async def test_what_is_no_clusters_url_is_refused(url: str):
    with pytest.raises(OptionRefused, match="--url ") as caught:
        client_of(url)
    assert "secret" not in str(caught.value)


async def test_an_option_that_no_client_has_is_named():
    with pytest.raises(OptionRefused, match=r"--url has an option .*nonsense"):
        client_of("redis://h:1?nonsense=1")


@pytest.mark.parametrize("command", ["audit", "worker"])
def test_the_commands_say_so_in_one_line(command: str):
    words = [sys.executable, "-m", "tradewind", command, "--url", "foo"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "tradewind: --url is not the address of a cluster: it must be redis://HOST:PORT or rediss://HOST:PORT"
    ]
