"""What goes wrong in a simulated world: each fault begins at a time and is over after another."""

import random
from collections.abc import Callable

from tests.simulation.scripted_cluster import ScriptedCluster
from tests.simulation.server import ScriptedServer
from tests.simulation.wire import NEVER_S

TRICKLE_BYTES_MAX = 7


class Faults:
    """Draws faults and lets them happen. `end` repairs everything."""

    def __init__(self, cluster: ScriptedCluster, dice: random.Random, stall: Callable[[float], None]) -> None:
        self._cluster, self._dice, self._stall = cluster, dice, stall
        self._over = False
        self.end_s = NEVER_S
        kinds = (
            self._reset, self._crash, self._lose_host, self._freeze, self._silence, self._migrate,
            self._migrate, self._plain_failover, self._refuse, self._slow, self._garbage, self._trickle,
            self._latency, self._no_replicas, self._stall_process, self._narrow_window, self._push,
            self._lose_replies,
        )  # fmt: skip
        self._kinds = dice.sample(kinds, k=dice.choice((1, 4, len(kinds))))

    def begin(self, server: ScriptedServer, duration_s: float) -> None:
        """Some fault at this server now, for so long, or until all faults end."""
        if not self._over:
            self._dice.choice(self._kinds)(server, min(duration_s, self.end_s - self._now_s()))

    def end(self) -> None:
        """Nothing is wrong any more; news travels."""
        self._over = True
        cluster = self._cluster
        cluster.ledger.note("fault: all are over")
        for server in cluster.servers:
            weather = server.weather
            weather.latency_s_min, weather.latency_s_max = 0.0001, 0.001
            weather.chunk_bytes_max = weather.window_bytes = 65536
            if weather.silent_until_s == NEVER_S:
                self._host_is_back(server)
            server.slow_share = server.garbage_share = server.lost_share = 0.0
            server.replicas_answer = 1
            server.cluster_down_until_s = server.readonly_until_s = server.no_memory_until_s = 0.0
            server.busy_until_s = server.full_until_s = server.loading_until_s = 0.0
            if server.down and (server in cluster.owners or self._dice.random() < 0.5):
                cluster.start(server, 0.0)  # one whose place was taken may stay away for ever

    def _note(self, server: ScriptedServer, what: str, duration_s: float) -> None:
        self._cluster.ledger.note("fault at %s: %s for %.2f s", server, what, duration_s)

    def _now_s(self) -> float:
        return self._cluster.outside.now_s

    def _later(self, delay_s: float, happen: Callable[[], None]) -> None:
        self._cluster.outside.after(delay_s, lambda: None if self._over else happen())

    # -- the kinds -------------------------------------------------------------------------------------------

    def _reset(self, server: ScriptedServer, _duration_s: float) -> None:
        share = self._dice.choice((0.5, 1.0))
        self._note(server, f"{share:.0%} of the connections are reset", 0)
        server.reset_all(share)

    def _crash(self, server: ScriptedServer, duration_s: float) -> None:
        self._note(server, "crash", duration_s)
        server.stop()
        if self._dice.random() < 0.7:
            self._later(self._dice.uniform(0.2, 1.5), lambda: self._replace(server))
        self._later(duration_s, lambda: self._start(server))

    def _start(self, server: ScriptedServer) -> None:
        if server.down:
            loading_s = self._dice.choice((0.0, 0.5))
            self._cluster.ledger.note("fault at %s: starts, loading for %.1f s", server, loading_s)
            self._cluster.start(server, loading_s)

    def _replace(self, server: ScriptedServer) -> None:
        self._cluster.fail_over(server)

    def _lose_host(self, server: ScriptedServer, duration_s: float) -> None:
        """No packet comes back, and what was sent is lost; then the host is back without its connections."""
        self._note(server, "host lost", duration_s)
        server.weather.silent_until_s = NEVER_S
        if self._dice.random() < 0.7:
            self._later(self._dice.uniform(0.2, 1.5), lambda: self._replace(server))
        self._later(duration_s, lambda: self._host_is_back(server))

    def _host_is_back(self, server: ScriptedServer) -> None:
        server.weather.silent_until_s = 0.0
        self._cluster.tell_news(server)
        for session in list(server.sessions):
            session.closed()
            session.link.server_end = None  # the next bytes are answered with a reset

    def _freeze(self, server: ScriptedServer, duration_s: float) -> None:
        self._note(server, "the process stands still", duration_s)
        server.freeze(self._now_s() + duration_s)
        if duration_s > 0.5 and self._dice.random() < 0.6:
            self._later(self._dice.uniform(0.3, duration_s), lambda: self._replace(server))

    def _silence(self, server: ScriptedServer, duration_s: float) -> None:
        self._note(server, "the network holds everything back", duration_s)
        server.weather.silent_until_s = max(server.weather.silent_until_s, self._now_s() + duration_s)

    def _migrate(self, _server: ScriptedServer, duration_s: float) -> None:
        index = self._dice.randrange(len(self._cluster.owners))
        source = self._cluster.owners[index]
        targets = [owner for owner in self._cluster.owners if owner is not source]
        if targets:
            self._cluster.begin_migration(index, self._dice.choice(targets), duration_s)

    def _plain_failover(self, server: ScriptedServer, _duration_s: float) -> None:
        self._replace(server)

    def _refuse(self, server: ScriptedServer, duration_s: float) -> None:
        kinds = ("loading", "busy", "cluster_down", "readonly", "full", "no_memory")
        kind = self._dice.choice(kinds)
        self._note(server, kind, duration_s)
        setattr(server, f"{kind}_until_s", self._now_s() + duration_s)
        if kind == "full":
            server.reset_all(0.7)

    def _slow(self, server: ScriptedServer, duration_s: float) -> None:
        self._note(server, "slow commands", duration_s)
        server.slow_share = 0.1
        self._later(duration_s, lambda: setattr(server, "slow_share", 0.0))

    def _garbage(self, server: ScriptedServer, duration_s: float) -> None:
        self._note(server, "garbage in replies", duration_s)
        server.garbage_share = 0.1
        self._later(duration_s, lambda: setattr(server, "garbage_share", 0.0))

    def _lose_replies(self, server: ScriptedServer, duration_s: float) -> None:
        self._note(server, "connections end before their replies", duration_s)
        server.lost_share = 0.2
        self._later(duration_s, lambda: setattr(server, "lost_share", 0.0))

    def _push(self, server: ScriptedServer, duration_s: float) -> None:
        self._note(server, "push messages between replies", duration_s)
        server.push_share = 0.5
        self._later(duration_s, lambda: setattr(server, "push_share", 0.0))

    def _trickle(self, server: ScriptedServer, duration_s: float) -> None:
        self._note(server, "a few bytes at a time", duration_s)
        server.weather.chunk_bytes_max = TRICKLE_BYTES_MAX
        self._later(min(duration_s, 0.5), lambda: setattr(server.weather, "chunk_bytes_max", 65536))

    def _latency(self, server: ScriptedServer, duration_s: float) -> None:
        weather = server.weather
        self._note(server, "long and uneven latency", duration_s)
        weather.latency_s_min, weather.latency_s_max = 0.01, self._dice.choice((0.05, 0.2, 0.6))
        self._later(duration_s, lambda: self._calm(server))

    def _calm(self, server: ScriptedServer) -> None:
        server.weather.latency_s_min, server.weather.latency_s_max = 0.0001, 0.001

    def _no_replicas(self, server: ScriptedServer, duration_s: float) -> None:
        self._note(server, "its replica does not answer", duration_s)
        server.replicas_answer = 0
        self._later(duration_s, lambda: setattr(server, "replicas_answer", 1))

    def _narrow_window(self, server: ScriptedServer, duration_s: float) -> None:
        self._note(server, "a narrow window", duration_s)
        server.weather.window_bytes = 512
        self._later(duration_s, lambda: setattr(server.weather, "window_bytes", 65536))

    def _stall_process(self, _server: ScriptedServer, duration_s: float) -> None:
        seconds = min(duration_s, self._dice.choice((0.05, 0.3, 1.5)))
        self._cluster.ledger.note("fault: the client's process stands still for %.2f s", seconds)
        self._stall(seconds)
