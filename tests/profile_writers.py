"""Processes that open, write and die: ``python profile_writers.py COMMAND URL TENANT ...``.

They are forked from one that has imported everything, so that they begin at once.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import threading
import time
import traceback
from typing import TYPE_CHECKING

from linalign_integrations import Preferences, open_profiles
from linalign_integrations.errors import ProfileConflict
from linalign_integrations.preferences import stores

if TYPE_CHECKING:
    from collections.abc import Callable

URL, TENANT = sys.argv[2:4]


def forked(work: Callable[[], object]) -> tuple[int, int]:
    """A process and where to read what it says at its end."""
    out, into = os.pipe()
    if child := os.fork():
        os.close(into)
        return child, out
    code = 1
    try:
        os.write(into, json.dumps(work()).encode())
        code = 0
    except BaseException:
        traceback.print_exc()
        raise
    finally:
        sys.stderr.flush()
        os._exit(code)


def said(child: int, out: int) -> object:
    with os.fdopen(out) as reader:
        text = reader.read()
    _, status = os.waitpid(child, 0)
    if status:
        raise SystemExit(f"a process ended with {status}")
    return json.loads(text)


def update(processes: int, updates: int) -> object:
    def work() -> int:
        profiles = open_profiles(URL, tenant=TENANT, keep=2)
        conflicts = 0
        for number in range(updates):
            if number % 5:
                tried = 0

                def grow(now: Preferences) -> Preferences:
                    nonlocal tried
                    tried += 1
                    return Preferences(ratio=now.ratio + 1 if now.model_fields_set else 1)

                profiles.update("ann", grow)
                conflicts += tried - 1
                continue
            while True:  # the same by hand, with the expected version
                try:
                    present = profiles.read("ann")
                    version, ratio = present.version, present.preferences.ratio
                except LookupError:
                    version, ratio = 0, 0.0
                try:
                    profiles.put("ann", Preferences(ratio=ratio + 1), expected_version=version)
                    break
                except ProfileConflict:
                    conflicts += 1
                    time.sleep(random.uniform(0, 0.01))
        return conflicts

    children = [forked(work) for _ in range(processes)]
    return {"conflicts": sum(int(str(said(*child))) for child in children)}


def kill(times: int) -> object:
    def work() -> None:
        profiles = open_profiles(URL, tenant=TENANT, keep=3)
        version = profiles.update("ann", principles=()).version
        os.write(ready, b".")
        while True:
            version += 1
            profiles.put("ann", [f"Version {version}."] * 100, expected_version=version - 1)

    killed = 0
    for _ in range(times):
        heard, ready = os.pipe()
        child, out = forked(work)
        os.read(heard, 1)
        time.sleep(random.uniform(0.001, 0.03))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        killed += os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        for end in (heard, ready, out):
            os.close(end)
    return {"killed": killed}


def open_anew(processes: int) -> object:
    if URL.startswith("sqlite"):
        url = f"{URL}.new"
    elif URL.startswith("postgresql"):
        import psycopg

        url = f"{URL.rpartition('/')[0]}/linalign_{os.getpid()}"
        with psycopg.connect(URL, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE linalign_{os.getpid()}")
    else:
        url = URL

    def work() -> int:
        profiles = open_profiles(url, tenant=TENANT)
        profiles.put(f"user {os.getpid()}", "A.")
        return 1

    children = [forked(work) for _ in range(processes)]
    opened = sum(int(str(said(*child))) for child in children)
    if URL.startswith("postgresql"):
        with psycopg.connect(URL, autocommit=True) as connection:
            connection.execute(f"DROP DATABASE linalign_{os.getpid()} WITH (FORCE)")
    return {"opened": opened}


def fork() -> object:
    profiles = open_profiles(URL, tenant=TENANT, cache_seconds=0)
    for user in ("parent", "child"):
        profiles.put(user, f"I am {user}.")

    def right_answers(user: str) -> int:
        return sum(profiles.get(user).principles[0].text == f"I am {user}." for _ in range(200))

    child = forked(lambda: right_answers("child"))
    return {"parent": right_answers("parent"), "child": said(*child)}


def fork_busy(times: int) -> object:
    profiles = open_profiles(URL, tenant=TENANT)
    ended = threading.Event()

    def write() -> None:
        while not ended.is_set():
            profiles.put("busy", "A.")

    thread = threading.Thread(target=write)
    thread.start()
    try:
        written = [
            said(*forked(lambda at=at: profiles.put(f"child {at}", "B.").version))  # type: ignore[misc]
            for at in range(times)
        ]
    finally:
        ended.set()
        thread.join()
    return {"written": written}


def fork_inside() -> object:
    profiles = open_profiles(URL, tenant=TENANT)
    with stores.connect(URL).alone(["default/ann"]):
        child = forked(lambda: profiles.put("bob", "B.").version)
        return {"written": said(*child)}


open_profiles(URL, tenant=TENANT)  # imports what the forked ones need
COMMANDS = {"update": update, "kill": kill, "open": open_anew, "fork": fork}
COMMANDS |= {"fork_busy": fork_busy, "fork_inside": fork_inside}
print(json.dumps(COMMANDS[sys.argv[1]](*map(int, sys.argv[4:]))))  # noqa: T201
