"""Worker processes under their parent. The fleet runs in a process of its own, as it does in use."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO

import pytest

from tests.embedded.helpers import alive, wait_until

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="forks")

PROGRAM = """
import os, signal, sys, time
from tradewind.engine import fleet

fleet.RESTART_AFTER_S, fleet.STOP_S_MAX = 0.05, {stop_s_max}

def child(index, parent):
    {on_term}
    signal.signal(signal.SIGUSR1, lambda *_: parent.replace_me())
    signal.signal(signal.SIGUSR2, lambda *_: parent.joined())
    os.write(1, f"{{index}} {{os.getpid()}}\\n".encode())
    while True:
        time.sleep(0.01)

sys.exit(fleet.Fleet({count}, child, stop_on_eof={stop_on_eof}).run())
"""
OBEDIENT = "signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))"
DEAF = "signal.signal(signal.SIGTERM, signal.SIG_IGN)"


@contextmanager
def fleet(
    count: int, on_term: str = OBEDIENT, *, stop_s_max: float = 30, stop_on_eof: bool = False
) -> Iterator[tuple["subprocess.Popen[str]", Callable[[], tuple[int, int]]]]:
    """The parent's process, and a way to read the next child that began: its index and process id."""
    text = PROGRAM.format(count=count, on_term=on_term, stop_s_max=stop_s_max, stop_on_eof=stop_on_eof)
    with subprocess.Popen(
        [sys.executable, "-c", text], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        output: IO[str] | None = process.stdout
        assert output is not None

        def next_child() -> tuple[int, int]:
            index, pid = output.readline().split()
            return int(index), int(pid)

        try:
            yield process, next_child
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_children_end_with_a_parent_that_is_told_to_stop(number: int):
    with fleet(3) as (process, next_child):
        children = dict(next_child() for _ in range(3))
        assert sorted(children) == [0, 1, 2]
        process.send_signal(number)
        assert process.wait(30) == 0
        assert not any(map(alive, children.values()))


def test_children_end_when_standard_input_ends():
    with fleet(2, stop_on_eof=True) as (process, next_child):
        children = dict(next_child() for _ in range(2))
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(30) == 0
        assert not any(map(alive, children.values()))


def test_a_child_that_dies_is_started_again_under_its_index():
    with fleet(3) as (process, next_child):
        children = dict(next_child() for _ in range(3))
        for index in (1, 1, 2):
            os.kill(children[index], signal.SIGKILL)
            again, pid = next_child()
            assert again == index
            assert pid != children[index]
            children[index] = pid
        process.terminate()
        assert process.wait(30) == 0
        wait_until(lambda: not any(map(alive, children.values())), "the children end")


def test_a_child_that_does_not_listen_is_killed_and_the_exit_code_tells():
    with fleet(2, DEAF, stop_s_max=0.2) as (process, next_child):
        children = dict(next_child() for _ in range(2))
        process.terminate()
        assert process.wait(30) == 1
        assert not any(map(alive, children.values()))


def test_a_child_that_asks_for_it_is_replaced_and_stops_only_once_the_new_one_has_joined():
    with fleet(2) as (process, next_child):
        children = dict(next_child() for _ in range(2))
        os.kill(children[1], signal.SIGUSR1)
        index, new = next_child()
        assert index == 1
        assert alive(children[1])
        os.kill(new, signal.SIGUSR2)
        wait_until(lambda: not alive(children[1]), "the old child ends")
        assert alive(new)
        process.terminate()
        assert process.wait(30) == 0
        assert not alive(new)


def test_a_new_child_that_dies_before_it_has_joined_leaves_the_old_one_in_its_place():
    with fleet(2) as (process, next_child):
        children = dict(next_child() for _ in range(2))
        os.kill(children[0], signal.SIGUSR1)
        _, new = next_child()
        os.kill(new, signal.SIGKILL)
        wait_until(lambda: not alive(new), "the new child ends")
        assert alive(children[0])
        os.kill(children[0], signal.SIGUSR1)
        index, newer = next_child()
        assert index == 0
        os.kill(newer, signal.SIGUSR2)
        wait_until(lambda: not alive(children[0]), "the old child ends")
        process.terminate()
        assert process.wait(30) == 0
