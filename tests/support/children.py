"""Work in a forked child."""

import os
import sys
import traceback
from collections.abc import Callable


def start_child(work: Callable[[], object]) -> int:
    """Fork; the child does the work and ends with 0, or with 1 when it raises. Returns its process id."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        work()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def exit_code_of(pid: int) -> int:
    """Wait for the child to end."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
