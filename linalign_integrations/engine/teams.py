"""OpenMP's teams of worker threads, of which only one at a time is fast."""

from __future__ import annotations

import ctypes
from contextlib import suppress
from functools import cache
from pathlib import Path

_MAPS = Path("/proc/self/maps")
# omp_pause_soft of OpenMP 5.0: the team goes, what threads keep for themselves stays.
_SOFT = 1


def release_team() -> None:
    """Lets go of the worker threads that torch holds for the calling thread.

    Every thread that computes has a team of its own. Where the teams have more members than the
    machine has processors, GNU's OpenMP sends its workers to sleep after each operator, idle teams
    counted: one operator run earlier in another thread made each step of the engine 1.6 times as
    long on two cores (``docs/speed.md``). A team that is needed again comes back by itself.
    """
    for pause in _pauses():
        pause(_SOFT)


@cache
def _pauses() -> tuple[ctypes._NamedFuncPointer, ...]:
    """``omp_pause_resource_all`` of each GNU OpenMP in this process; none on other systems."""
    try:
        lines = _MAPS.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ()
    names = {line.split(maxsplit=5)[-1] for line in lines if "libgomp" in line}
    pauses = []
    for name in sorted(names):
        # A library that was replaced on the disk meanwhile cannot be asked.
        with suppress(OSError, AttributeError):
            pauses.append(ctypes.CDLL(name).omp_pause_resource_all)
    return tuple(pauses)
