"""The loop: one thread that owns the model and runs all requests together."""

from __future__ import annotations

import atexit
import math
import os
import threading
import time
import weakref
from collections import deque
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

import torch

from linalign_integrations.engine.prefixes import WORTHWHILE, common
from linalign_integrations.engine.reading import Reading
from linalign_integrations.engine.sampling import choose
from linalign_integrations.engine.teams import release_team
from linalign_integrations.errors import (
    EngineClosed,
    GenerationFailed,
    LinAlignError,
    QueueFull,
    RequestTooLarge,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import Tensor

    from linalign_integrations.engine.answer import Piece
    from linalign_integrations.engine.prefixes import PrefixStore, Tokens
    from linalign_integrations.engine.reading import Known
    from linalign_integrations.engine.request import Request
    from linalign_integrations.engine.rows import Layers, Rows
    from linalign_integrations.engine.sampling import Choice
    from linalign_integrations.engine.solo_rows import SoloRows

# While others wait for their next token, so much of the prompts is read in a step that it takes
# this many usual steps longer; where more wait for their first token than for their next, that
# many times more. Alone, prompts are read in the largest pieces, so that they can be given up.
_PATIENCE = 1.25
_MOST_PATIENCE = 6.0
_LEAST_PIECE = 16
_LARGEST_PIECE = 1024
# The newest measurement of a step's time counts this much, or all where the last one was of another
# number of rows; it holds for up to so many times as many, or as few.
_FRESH = 0.2
_ALIKE = 1.5


class Scheduler:
    """Runs requests: admits them, reads their prompts, draws their tokens, lets them go.

    Each step is one forward pass: the newest token of all that run, and a piece of the prompts that
    are being read. The thread lives only while there is work, so that none is left behind when
    there is not.

    Args:
        new_rows: makes an empty store of rows.
        prefixes: what was read before.
        position_bytes: bytes of one position of one row.
        max_rows: most rows that run together.
        max_bytes: most bytes of keys and values that running requests may come to need.
        max_waiting: most requests that wait.
    """

    def __init__(
        self,
        new_rows: Callable[[], Rows | SoloRows],
        prefixes: PrefixStore,
        *,
        position_bytes: int,
        max_rows: int,
        max_bytes: int,
        max_waiting: int,
    ) -> None:
        self._new_rows = new_rows
        self._prefixes = prefixes
        self._position_bytes = position_bytes
        self._max_rows = max_rows
        self._max_bytes = max_bytes
        self._max_waiting = max_waiting
        self._lock = threading.Lock()
        # One line per user; the user whose turn it is comes first.
        self._lines: dict[str | None, deque[Request]] = {}
        self._closed = False
        self._thread: threading.Thread | None = None
        # From here on only the thread's own.
        self._rows = new_rows()
        # Those that have rows, in the order of these, and what of their prompts is not read yet.
        self._seated: list[Request] = []
        self._readings: dict[Request, Reading] = {}
        # How long a step takes, with how many rows that was, and how much longer by a token read.
        self._step_time = 0.0
        self._step_rows = 0
        self._token_time = 0.0
        _alive.add(self)

    @property
    def _running(self) -> list[Request]:
        """Those whose prompts are read."""
        return [one for one in self._seated if one not in self._readings]

    @property
    def idle(self) -> bool:
        """Whether nothing runs or waits, and no thread or row is in use."""
        with self._lock:
            return self._thread is None and not self._lines and not self._rows.lengths

    def submit(self, request: Request) -> None:
        """Takes a request; its pieces, or the error that ends it, go to ``request.deliver``.

        Raises:
            EngineClosed: the engine was closed.
            QueueFull: too many requests wait already.
            RequestTooLarge: it could not be run even if it were alone.
        """
        self._require_capacity(request)
        release_team()
        with self._lock:
            if self._closed:
                raise _closed()
            waiting = self._count_waiting()
            if waiting >= self._max_waiting and not self._has_rows_for(request):
                full = _full(waiting)
                if (crowded := self._longest_line(request.user)) is None:
                    raise full
                # Whoever fills the queue alone does not shut others out.
                _deliver(crowded.pop(), full)
            if self._thread is None:
                self._thread = threading.Thread(target=self._loop, name="linalign", daemon=True)
                try:
                    self._thread.start()
                except RuntimeError:  # the system has no more threads
                    self._thread = None
                    raise
            self._lines.setdefault(request.user, deque()).append(request)

    def close(self, timeout: float | None = None) -> None:
        """Ends all requests with ``EngineClosed`` and waits until the model is idle.

        Args:
            timeout: most seconds to wait; None for no limit.
        """
        with self._lock:
            self._closed = True
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout)
            if thread.is_alive():
                return
        with self._lock:
            # Whoever still holds an answer of this engine does not hold its model with it.
            if self._new_rows is not _no_rows:
                self._new_rows = _no_rows
                self._rows.release()
                self._prefixes.clear()

    def begin_anew(self) -> None:
        """For a process that was forked off: the thread, and all that it ran, are its parent's."""
        # Whoever held the lock, or was changing what is kept, is not in this process.
        self._lock, self._thread = threading.Lock(), None
        self._prefixes.clear()
        with self._lock:
            self._end_all(_closed if self._closed else _forked)

    def _require_capacity(self, request: Request) -> None:
        if request.rows > self._max_rows:
            raise RequestTooLarge(
                f"the request needs {request.rows} rows, the engine has {self._max_rows}: give "
                "principles equal weights, or load the engine with a larger max_rows"
            )
        size = request.rows * request.positions * self._position_bytes
        if size > self._max_bytes:
            raise RequestTooLarge(
                f"the request may need {size / 2**20:.0f} MiB of keys and values, the engine has "
                f"{self._max_bytes / 2**20:.0f}: lower max_tokens, shorten the prompt, or load "
                "the engine with a larger max_bytes"
            )

    def _count_waiting(self) -> int:
        """How many wait; those whom nobody waits for any more are forgotten."""
        for user, line in list(self._lines.items()):
            kept = [request for request in line if not request.cancelled]
            if kept:
                self._lines[user] = deque(kept)
            else:
                del self._lines[user]
        return sum(map(len, self._lines.values()))

    def _has_rows_for(self, request: Request) -> bool:
        """Whether all that wait, and one more, may begin at the next step."""
        waiting = sum(one.rows for line in self._lines.values() for one in line)
        return len(self._rows.lengths) + waiting + request.rows <= self._max_rows

    def _longest_line(self, user: str | None) -> deque[Request] | None:
        """The longest line, if the user's would still be shorter with one more."""
        longest = max(self._lines.values(), key=len, default=None)
        own = len(self._lines.get(user, ())) + 1
        return longest if longest is not None and len(longest) > own else None

    def _loop(self) -> None:
        while True:
            with self._lock:
                if self._closed:
                    self._end_all(_closed)
                if not (self._lines or self._seated):
                    self._thread = None
                    return
            try:
                with torch.inference_mode():
                    self._turn()
            except BaseException as error:  # noqa: BLE001 - whoever waits must hear of anything
                with self._lock:
                    self._end_all(partial(_loop_failure, error))

    def _end_all(self, make_error: Callable[[], LinAlignError]) -> None:
        """Fails every request there is, each with an error of its own, and starts anew."""
        waiting = [request for line in self._lines.values() for request in line]
        for request in (*self._seated, *waiting):
            _deliver(request, make_error())
        self._lines.clear()
        self._seated.clear()
        self._readings.clear()
        if not self._closed:
            self._rows = self._new_rows()

    def _turn(self) -> None:
        """One step of everything that runs, and a piece of the prompts that are being read."""
        for request in [one for one in self._seated if one.cancelled]:
            self._leave(request, keep=request not in self._readings)
        pieces = self._next_pieces()
        self._reserve()
        # A prompt that must wait for its piece stands still: nothing is drawn for it yet.
        new = {one: pieces.get(one) or [one.next] * one.rows for one in self._seated}
        if new:
            self._step(new)

    def _next_pieces(self) -> dict[Request, list[Sequence[int]]]:
        """What to read of the prompts in this step; requests are admitted while that is little.

        Half is for the one that began first, however long it is, and the rest for the shortest, so
        that nobody's long prompt keeps others from their first token.
        """
        left = self._budget(len(self._readings) + self._count_startable())
        if left <= 0:
            return {}
        begun = list(self._readings.values())
        oldest = begun[0] if begun else None
        reserved = 0 if oldest is None else min(left // 2, oldest.unread)
        left -= reserved
        pieces: dict[Request, list[Sequence[int]]] = {}
        for reading in self._to_read(begun[1:]):
            if left <= 0:
                break
            piece = pieces[reading.request] = reading.next(left)
            left -= sum(map(len, piece))
        if oldest is not None:
            pieces[oldest.request] = oldest.next(reserved + max(0, left))
        return pieces

    def _to_read(self, begun: Sequence[Reading]) -> Iterator[Reading]:
        """Those that are begun and those that can be admitted, the shortest first."""
        for reading in sorted(begun, key=lambda one: one.unread):
            yield from self._admitted(shorter_than=reading.unread)
            yield reading
        yield from self._admitted()

    def _admitted(self, shorter_than: float = math.inf) -> Iterator[Reading]:
        while (request := self._next_request(shorter_than)) is not None:
            if self._seat(request):
                yield self._readings[request]

    def _count_startable(self) -> int:
        """About how many of those that wait there are rows for."""
        with self._lock:
            waiting = self._count_waiting()
            head = next(iter(self._lines.values()))[0] if waiting else None
        # Whoever waits for others to go is not read sooner for being counted.
        if head is None or not self._has_room(head):
            return 0
        return min(waiting, self._max_rows - len(self._rows.lengths))

    def _budget(self, unbegun: int) -> int:
        """About how many tokens of prompts to read in the next step, all rows together.

        Args:
            unbegun: how many requests wait for their first token.
        """
        running = self._running
        if not running:
            return _LARGEST_PIECE
        rows = sum(one.rows for one in running)
        if not self._step_rows / _ALIKE <= rows <= self._step_rows * _ALIKE:
            # While prompts are read in every step, nothing tells what a step takes without them.
            return 0
        if not self._token_time:
            return _LEAST_PIECE
        patience = min(_MOST_PATIENCE, _PATIENCE * max(1.0, unbegun / len(running)))
        budget = int(patience * self._step_time / self._token_time)
        return min(_LARGEST_PIECE, max(_LEAST_PIECE, budget))

    def _next_request(self, shorter_than: float) -> Request | None:
        """The one whose turn it is, if there is room for it and its prompts are that short."""
        if len(self._rows.lengths) >= self._max_rows:
            return None
        with self._lock:
            user, line = next(
                (
                    (user, line)
                    for user, line in self._lines.items()
                    if not self._is_being_read(line[0])
                ),
                (None, None),
            )
            if line is None:
                return None
            request = line[0]
            if not self._has_room(request) or request.prompt_tokens >= shorter_than:
                return None
            line.popleft()
            # Users take turns, so that one with many requests does not starve the rest.
            del self._lines[user]
            if line:
                self._lines[user] = line
        return request

    def _seat(self, request: Request) -> bool:
        """Gives a request rows that hold what is known of its prompts."""
        request.first = len(self._rows.lengths)
        for attempt in (1, 2):
            try:
                reading = self._begin(request)
            except Exception as error:  # noqa: BLE001 - no memory for one request's rows
                again = False
                try:
                    again = self._make_way(request.first) and attempt == 1
                finally:
                    if not again:
                        _deliver(request, _failure(error))
                # Tried again outside, where the error holds nothing any more.
            else:
                self._seated.append(request)
                self._readings[request] = reading
                return True
            if not again:
                break
        return False

    def _begin(self, request: Request) -> Reading:
        known = self._known(request)
        told = self._prefixes.told(request.prompts[0][:-1], request.user)
        reading = Reading(request, self._rows, known)
        request.reused = min(told, reading.begun)
        return reading

    def _make_way(self, first: int) -> bool:
        """Lets go of rows from one on and of what is kept; whether there was anything to let go."""
        spare = bool(self._prefixes.size) or not self._seated
        self._rows.drop(len(self._rows.lengths) - first)
        self._start_anew()
        self._prefixes.clear()
        return spare

    def _has_room(self, request: Request) -> bool:
        rows = len(self._rows.lengths) + request.rows
        positions = max(one.positions for one in (request, *self._seated))
        size = rows * positions * self._position_bytes
        return rows <= self._max_rows and size <= self._max_bytes

    def _is_being_read(self, request: Request) -> bool:
        """Whether somebody's prompt, once it is read, will spare it most of its own."""
        # Asked in each step: nothing is compared again until that prompt is read.
        if request.awaits not in self._readings:
            request.awaits = self._to_await(request)
        return request.awaits is not None

    def _to_await(self, request: Request) -> Request | None:
        if not self._rows.divisible or not self._readings:
            return None
        for ids, (known, _) in zip(request.prompts, self._known(request), strict=True):
            enough = known + max(WORTHWHILE, len(ids) // 2)
            for one, reading in self._readings.items():
                # Whoever has a long way to go makes nobody wait who has a short one.
                soon = reading.unread <= request.prompt_tokens
                if soon and any(common(ids[:-1], other) >= enough for other in one.prompts):
                    return one
        return None

    def _known(self, request: Request) -> list[Known]:
        """Where the longest known start of each prompt can be had, and how long it is.

        The last token always has to be read, since what may follow it is wanted.
        """
        if not self._rows.divisible:
            return [(0, None)] * request.rows
        # A prompt that is still being read may yet turn out to spoil what it wrote.
        rows = [
            (row, ids) for one in self._running for row, ids in enumerate(one.prompts, one.first)
        ]
        return [self._longest_known(ids[:-1], rows) for ids in request.prompts]

    def _longest_known(self, wanted: Tokens, rows: Sequence[tuple[int, Tokens]]) -> Known:
        length, found = self._prefixes.find(wanted)
        source: int | Layers | None = found or None
        for row, ids in rows:
            shared = common(wanted, ids)
            if shared > length:
                length, source = shared, row
        return length, source

    def _step(self, new: dict[Request, list[Sequence[int]]]) -> None:
        """One forward pass over new tokens, for each row of those that have rows."""
        begun = time.perf_counter()
        running = sum(one.rows for one in self._running)
        read = sum(len(ids) for one in self._readings for ids in new[one])
        tokens = [ids for rows in new.values() for ids in rows]
        logits: Tensor | None = None
        with suppress(Exception):
            logits = self._rows.forward(tokens)
        if logits is None:
            # One of them may be the reason. What the pass held is free by now.
            self._step_each(new)
        else:
            self._rows.extend(tokens)
            self._take(logits, new)
        self._learn_speed(time.perf_counter() - begun, running, read)

    def _step_each(self, new: dict[Request, list[Sequence[int]]]) -> None:
        """A step of each request by itself, so that an error ends only the one that causes it."""
        for request, tokens in new.items():
            if not any(tokens):
                continue
            try:
                logits = self._rows.forward(tokens, request.first)
            except Exception as error:  # noqa: BLE001 - now it is this one's
                self._fail(request, _failure(error))
                continue
            self._rows.extend(tokens, request.first)
            self._take(logits, {request: tokens})

    def _learn_speed(self, took: float, rows: int, read: int) -> None:
        """Learns how long a step of rows that run takes, and how much longer by a token read."""
        if read:
            # What a few tokens add may be lost in what steps differ by anyway.
            own = self._step_time if rows else 0.0
            self._token_time = max(took - own, took / 8) / read
        else:
            fresh = _FRESH if rows == self._step_rows else 1.0
            self._step_time += fresh * (took - self._step_time)
            self._step_rows = rows

    def _reserve(self) -> None:
        """Makes room for the step; where there is no memory the longest request must end."""
        while running := self._running:
            need = [
                max(self._rows.lengths[one.first : one.first + one.rows]) + len(one.next)
                for one in running
            ]
            try:
                self._rows.reserve(max(need))
            except Exception as error:  # noqa: BLE001 - whatever it is, somebody has to give way
                if self._prefixes.size:
                    self._prefixes.clear()
                else:
                    self._fail(running[need.index(max(need))], _failure(error))
            else:
                return

    def _take(self, logits: Tensor, new: dict[Request, list[Sequence[int]]]) -> None:
        """Draws the next token of each request that is read to its end, and hands it over."""
        ready: dict[Request, Tensor] = {}
        read = bool(self._readings)
        counts = [sum(map(bool, rows)) for rows in new.values()]
        for (request, tokens), own in zip(new.items(), torch.split(logits, counts), strict=True):
            reading = self._readings.get(request)
            if reading is None:
                ready[request] = own
                continue
            reading.take(tokens, own)
            if reading.done and not self._open(request):
                ready[request] = reading.logits
        if read:
            logits = torch.cat(list(ready.values())) if ready else logits[:0]
        for request, choice in zip(ready, _choose(logits, list(ready)), strict=True):
            if isinstance(choice, LinAlignError):
                self._fail(request, choice)
                continue
            try:
                pieces = request.accept(*choice)
            except Exception as error:  # noqa: BLE001 - a fault of one request's text or grammar
                self._fail(request, _failure(error))
                continue
            self._hand_over(request, pieces)

    def _open(self, request: Request) -> bool:
        """Begins the answer; whether anything is there already, if only an error."""
        del self._readings[request]
        try:
            pieces = request.open()
        except Exception as error:  # noqa: BLE001 - a grammar may be anybody's code
            self._fail(request, _failure(error))
            return True
        if pieces:
            self._hand_over(request, pieces)
        return bool(pieces)

    def _hand_over(self, request: Request, pieces: list[Piece]) -> None:
        try:
            if pieces[-1].finish_reason is not None:
                self._leave(request)
        finally:
            for piece in pieces:
                _deliver(request, piece)

    def _fail(self, request: Request, error: LinAlignError) -> None:
        try:
            self._leave(request, keep=False)
            self._start_anew()
        finally:
            _deliver(request, error)

    def _start_anew(self) -> None:
        """After a fault there may be memory for some layers only, which nobody is to inherit."""
        if not self._seated:
            self._rows = self._new_rows()

    def _leave(self, request: Request, *, keep: bool = True) -> None:
        """Gives a request's rows back; others move into their place."""
        if keep:
            self._keep(request)
        self._readings.pop(request, None)
        # The last one with as many rows takes its place, so that few have to close up.
        at = self._seated.index(request)
        alike = (place for place, one in enumerate(self._seated) if one.rows == request.rows)
        last = max(alike)
        mover = self._seated.pop(last)
        if mover is not request:
            self._seated[at] = mover
            self._move(mover, request.first)
        for one in self._seated[last:]:
            self._move(one, one.first - request.rows)
        self._rows.drop(request.rows)

    def _move(self, request: Request, first: int) -> None:
        for row in range(request.rows):
            self._rows.move(request.first + row, first + row)
        request.first = first

    def _keep(self, request: Request) -> None:
        """Remembers a request's rows for whoever continues from them."""
        if not self._rows.divisible:
            return
        for row, ids in enumerate(request.plan.token_ids, request.first):
            # The newest tokens were drawn, but not read.
            read = [*ids, *request.drawn][: self._rows.lengths[row]]
            if not self._prefixes.holds(read, request.user):
                try:
                    self._prefixes.add(read, self._rows.read(row), request.user)
                except Exception:  # noqa: BLE001 - nobody's answer depends on what is kept
                    # What is kept is for speed only: running requests need the memory more.
                    self._prefixes.clear()


def _choose(logits: Tensor, requests: Sequence[Request]) -> list[Choice | LinAlignError]:
    """``choose``, and where that fails as a whole, for each request by itself."""
    try:
        return choose(logits, requests)
    except Exception as error:  # noqa: BLE001 - one of them may be the reason
        if len(requests) == 1:
            return [_failure(error)]
    each = torch.split(logits, [request.rows for request in requests])
    return [_choose(own, [request])[0] for own, request in zip(each, requests, strict=True)]


def _deliver(request: Request, item: Piece | BaseException) -> None:
    try:
        request.deliver(item)
    except Exception:  # noqa: BLE001 - an event loop that was closed has nobody left who waits
        request.cancelled = True


def _full(waiting: int) -> QueueFull:
    return QueueFull(
        f"{waiting} requests wait already: try again later, or load the engine with a larger "
        "max_waiting",
        waiting=waiting,
    )


def _closed() -> EngineClosed:
    return EngineClosed("the engine was closed: call Engine.load again")


def _forked() -> GenerationFailed:
    return GenerationFailed("the process was forked while it answered: ask again in this one")


def _loop_failure(error: BaseException) -> GenerationFailed:
    failure = GenerationFailed(f"the engine's loop failed: {error!r}; ask again")
    failure.__cause__ = error
    return failure


def _failure(error: Exception) -> LinAlignError:
    """An error of this package for whatever ended one request."""
    if isinstance(error, LinAlignError):
        return error
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or "memory" in str(error):
        failure = GenerationFailed(
            f"no memory for the request to grow: {error}; lower max_tokens, shorten the prompt, "
            "or load the engine with fewer max_rows"
        )
    else:
        failure = GenerationFailed(f"the model failed: {error!r}")
    failure.__cause__ = error
    return failure


def _no_rows() -> Rows | SoloRows:
    raise _closed()


_alive: weakref.WeakSet[Scheduler] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """Lets no thread run into an interpreter that is being taken apart."""
    for scheduler in list(_alive):
        scheduler.close(timeout=10.0)


def _after_fork() -> None:
    for scheduler in list(_alive):
        scheduler.begin_anew()


if hasattr(os, "register_at_fork"):
    # A child that had its parent's team would wait for threads that it does not have.
    os.register_at_fork(before=release_team, after_in_child=_after_fork)
