"""`tradewind api`: the HTTP server in front of a cluster's engine."""

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from tradewind.api.backend import CLIENT_OPTIONS
from tradewind.api.server import LOOPBACK, ListenOptions, running_api
from tradewind.engine.opening import partitions_of
from tradewind.ops.cluster_url import client_of
from tradewind.ops.loop import run_loop
from tradewind.ops.worker_command import URL_VARIABLE

OTHER_CONNECTIONS = 16  # on each node, besides one for each partition whose events are streamed


def api(
    *,
    url: Annotated[
        str, Parameter(env_var=URL_VARIABLE, help="The cluster, as redis://HOST:PORT.")
    ] = "redis://127.0.0.1:6379",
    host: Annotated[str, Parameter(help="Address to listen on.")] = LOOPBACK,
    port: Annotated[int, Parameter(help="Port to listen on.")] = 8080,
    certificate: Annotated[Path | None, Parameter(help="PEM file: answer by HTTPS only.")] = None,
    private_key: Annotated[Path | None, Parameter(help="PEM file: the certificate's key.")] = None,
    stop_on_eof: Annotated[
        bool, Parameter(negative="", help="End when standard input ends: with who started it.")
    ] = False,
) -> int:
    """Serve orders, accounts and events over HTTP until SIGTERM or Ctrl-C. Keys: `tradewind keys create`.

    Any number of API processes may run on one cluster.
    """
    run_loop(_serve(url, ListenOptions(host, port, certificate, private_key), stop_on_eof))
    return 0


async def _serve(url: str, options: ListenOptions, stop_on_eof: bool) -> None:
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    if stop_on_eof:
        asyncio.get_running_loop().add_reader(sys.stdin.fileno(), _on_input, stopped)
    async with client_of(url) as client:
        partitions = await partitions_of(client)
    async with (
        client_of(url, max_connections=partitions + OTHER_CONNECTIONS, **CLIENT_OPTIONS) as client,
        running_api(client, partitions, options),
    ):
        print(f"listening on {options.url}", file=sys.stderr, flush=True)
        await stopped.wait()


def _on_input(stopped: asyncio.Event) -> None:
    """Nothing is expected but the end."""
    if not os.read(sys.stdin.fileno(), 4096):
        asyncio.get_running_loop().remove_reader(sys.stdin.fileno())
        stopped.set()
