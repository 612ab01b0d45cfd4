"""Certificates made by the openssl command, and a cluster of Debian's redis-server that speaks only TLS.

The bundled server has no TLS. Where the machine has no redis-server or no openssl, the tests that need them
are skipped and say so; `.ci/run` installs both where it may.
"""

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from redis.exceptions import RedisError

from tests.conftest import EmbeddedCluster
from tests.support.waiting import eventually
from tradewind.embedded.ports import BUS_PORT_OFFSET, HOST, free_ports
from tradewind.embedded.survey import Admin, parse_cluster_nodes

KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
EXTENSIONS = "subjectAltName={names}\nsubjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n"
GOSSIP_S_MAX = 30.0


def redis_server() -> Path:
    """Debian's. Skips the test where it is missing."""
    found = shutil.which("redis-server")
    if found is None:
        pytest.skip("no redis-server: install Debian's (apt install redis-server) to test TLS")
    return Path(found)


def _openssl(*words: str | Path) -> None:
    subprocess.run(["openssl", *map(str, words)], check=True, capture_output=True)


@dataclass(frozen=True)
class Certificate:
    """Files in PEM."""

    certificate: Path
    key: Path

    def replace(self, by: "Certificate") -> None:
        """As an operator renews it: other contents under the same names."""
        shutil.copy(by.certificate, self.certificate)
        shutil.copy(by.key, self.key)


class Authority:
    """One that signs certificates; its own is `file`. Skips the test where there is no openssl command."""

    def __init__(self, folder: Path, name: str) -> None:
        if shutil.which("openssl") is None:
            pytest.skip("no openssl: install it (apt install openssl) to make certificates for the test")
        self._folder = folder
        self._name = name
        self.file = folder / f"{name}.crt"
        usage = ("-addext", "keyUsage=critical,keyCertSign,cRLSign")
        self._key = folder / f"{name}.key"
        _openssl(
            "req", "-x509", *KEY, "-keyout", self._key, "-out", self.file, "-subj", f"/CN={name}", *usage
        )

    def sign(self, name: str, names: str = f"IP:{HOST},DNS:localhost", days: int = 2) -> Certificate:
        """`days=-1` is one that has expired."""
        stem = self._folder / f"{self._name}-{name}"
        request, extensions = stem.with_suffix(".csr"), stem.with_suffix(".cnf")
        extensions.write_text(EXTENSIONS.format(names=names), encoding="utf-8")
        made = Certificate(stem.with_suffix(".crt"), stem.with_suffix(".key"))
        _openssl("req", *KEY, "-keyout", made.key, "-out", request, "-subj", f"/CN={name}")
        _openssl(
            "x509", "-req", "-in", request, "-out", made.certificate, "-CA", self.file, "-CAkey", self._key,
            "-CAcreateserial", "-days", str(days), "-extfile", extensions,
        )  # fmt: skip
        return made


class TlsCluster:
    """Six of Debian's servers that talk TLS to clients and to each other, and ask clients for certificates.

    Formed in the clear and then started again with TLS, one by one. Their plain ports stay open for
    administration; no client is sent there.
    """

    def __init__(self, folder: Path) -> None:
        self.server = redis_server()
        self.authority = Authority(folder, "authority")
        self.trusted = folder / "trusted.crt"
        shutil.copy(self.authority.file, self.trusted)
        self.certificate = self.authority.sign("server")
        self.client_certificate = self.authority.sign("client")
        self.cluster = EmbeddedCluster(
            server=self.server, node_timeout_ms=1000, server_settings={"appendonly": "no"}
        )
        self.ports: list[int] = []  # of TLS, by node

    async def start(self) -> None:
        await self.cluster.start()
        self.ports = free_ports(len(self.cluster.nodes), excluded=[node.port for node in self.cluster.nodes])
        for node, port in zip(self.cluster.nodes, self.ports, strict=True):
            with (node.folder / "server.conf").open("a", encoding="utf-8") as file:
                file.write(self._settings(port, node.port + BUS_PORT_OFFSET))
        for node in self.cluster.nodes:
            await self.cluster.restart(node)
        await eventually(self._is_whole, GOSSIP_S_MAX)

    async def stop(self) -> None:
        await self.cluster.stop()

    def _settings(self, port: int, bus_port: int) -> str:
        return (
            f"tls-port {port}\ncluster-port {bus_port}\ntls-cluster yes\ntls-replication yes\n"
            f"tls-cert-file {self.certificate.certificate}\ntls-key-file {self.certificate.key}\n"
            f"tls-ca-cert-file {self.trusted}\ntls-auth-clients yes\n"
        )

    async def _is_whole(self) -> bool:
        return all([await self._sees_all_well(node.port) for node in self.cluster.nodes])

    async def _sees_all_well(self, port: int) -> bool:
        try:
            async with Admin(port) as admin:
                replication = await admin.ask("INFO", "replication")
                views = parse_cluster_nodes(await admin.ask("CLUSTER", "NODES"))
        except (RedisError, OSError):
            return False
        linked = replication.get("master_link_status", "up") == "up"
        return linked and len(views) == len(self.ports) and all(view.healthy for view in views)

    def options(self, **changed: Any) -> dict[str, Any]:
        """What a client needs to be let in."""
        return {
            "ssl": True,
            "ssl_ca_certs": str(self.trusted),
            "ssl_certfile": str(self.client_certificate.certificate),
            "ssl_keyfile": str(self.client_certificate.key),
            **changed,
        }

    async def renew(self, certificate: Certificate, *trusted: Path) -> None:
        """Another certificate of the servers, and other authorities that they and the clients trust."""
        self.certificate.replace(certificate)
        if trusted:
            self.trusted.write_bytes(b"".join(file.read_bytes() for file in trusted))
        for node in self.cluster.nodes:
            async with Admin(node.port) as admin:
                await admin.ask("CONFIG", "SET", "tls-cert-file", str(self.certificate.certificate))

    async def drop_clients(self) -> None:
        """Every client has to connect anew."""
        for node in self.cluster.nodes:
            async with Admin(node.port) as admin:
                await admin.ask("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")

    async def set_all(self, *settings: object) -> None:
        """CONFIG SET on every node."""
        for node in self.cluster.nodes:
            async with Admin(node.port) as admin:
                await admin.ask("CONFIG", "SET", *map(str, settings))

    async def present(self, certificate: Certificate, authority: Authority) -> None:
        """New connections see this certificate; clients' own are checked by the authority."""
        await self.set_all(
            "tls-cert-file", certificate.certificate, "tls-key-file", certificate.key,
            "tls-ca-cert-file", authority.file,
        )  # fmt: skip

    async def announce_host(self, name: str) -> None:
        """Every node is called so, as all see it; "" for no name."""
        await self.set_all("cluster-announce-hostname", name)

        async def all_see_it() -> bool:
            return await self._hosts_seen() == ({name} if name else {None})

        await eventually(all_see_it, GOSSIP_S_MAX)

    async def _hosts_seen(self) -> set[str | None]:
        hosts: set[str | None] = set()
        for node in self.cluster.nodes:
            async with Admin(node.port) as admin:
                for _, _, *servers in await admin.ask("CLUSTER", "SLOTS"):
                    for _, _, _, metadata in servers:
                        beside = dict(zip(metadata[::2], metadata[1::2], strict=True))
                        hosts.add(beside.get("hostname"))
        return hosts
