"""Runs a Python program as a reader would: in a process of its own, and shows what it printed."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PROGRAM_S_MAX = 50.0  # most of it is six servers starting, on a machine that may be busy


def output_of(*arguments: str) -> str:
    """What `python ARGUMENTS` prints on stdout. Fails with its stderr if it does not end with exit code 0."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT, capture_output=True, text=True, timeout=PROGRAM_S_MAX, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"exit code {done.returncode}:\n{done.stdout}{done.stderr}"
    assert not done.stderr, f"a program of ours says nothing on stderr:\n{done.stderr}"
    return done.stdout
