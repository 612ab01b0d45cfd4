"""`tradewind api`: the HTTP server in front of a cluster's engine."""

import asyncio
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
) -> int:
    """Serve orders, accounts and events over HTTP until SIGTERM or Ctrl-C. Keys: `tradewind keys create`.

    Any number of API processes may run on one cluster.
    """
    run_loop(_serve(url, ListenOptions(host, port, certificate, private_key)))
    return 0


async def _serve(url: str, options: ListenOptions) -> None:
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    async with client_of(url) as client:
        partitions = await partitions_of(client)
    async with (
        client_of(url, max_connections=partitions + OTHER_CONNECTIONS, **CLIENT_OPTIONS) as client,
        running_api(client, partitions, options),
    ):
        print(f"listening on {options.url}", file=sys.stderr, flush=True)
        await stopped.wait()
        print("stopping", file=sys.stderr, flush=True)
