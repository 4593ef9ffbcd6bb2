"""The loop: one thread that owns the model and runs all requests together."""

from __future__ import annotations

import atexit
import threading
import time
import weakref
from collections import deque
from functools import partial
from typing import TYPE_CHECKING

import torch

from linalign_integrations.engine.prefixes import as_tokens, common
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
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from linalign_integrations.engine.answer import Piece
    from linalign_integrations.engine.prefixes import PrefixStore
    from linalign_integrations.engine.reading import Known
    from linalign_integrations.engine.request import Request
    from linalign_integrations.engine.rows import Layers, Rows
    from linalign_integrations.engine.sampling import Choice
    from linalign_integrations.engine.solo_rows import SoloRows

# While others wait for their next token, a prompt is read in pieces that take about this many of
# their steps; alone, in pieces of so many tokens, so that it can still be given up.
_PATIENCE = 2.0
_LEAST_PIECE = 16
_LARGEST_PIECE = 1024
# The newest measurement of a step's time counts this much.
_FRESH = 0.2


class Scheduler:
    """Runs requests: admits them, reads their prompts, steps them together, lets them go.

    The thread lives only while there is work, so that none is left behind when there is not.
    Rows of running requests come first, each request's side by side; behind them are those of the
    request whose prompts are being read.

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
        self._running: list[Request] = []
        self._reading: Reading | None = None
        self._step_time = 0.0
        self._token_time = 0.0
        _alive.add(self)

    @property
    def _running_rows(self) -> int:
        """How many rows running requests have; those of the request being read come after them."""
        return sum(one.rows for one in self._running)

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
            if waiting >= self._max_waiting:
                raise QueueFull(
                    f"{waiting} requests wait already: try again later, or load the engine with "
                    "a larger max_waiting",
                    waiting=waiting,
                )
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

    def _loop(self) -> None:
        while True:
            with self._lock:
                if self._closed:
                    self._end_all(_closed)
                if not (self._lines or self._running or self._reading):
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
        reading = [self._reading.request] if self._reading else []
        for request in (*self._running, *reading, *waiting):
            _deliver(request, make_error())
        self._lines.clear()
        self._running.clear()
        self._reading = None
        if not self._closed:
            self._rows = self._new_rows()

    def _turn(self) -> None:
        """A piece of the prompts that are being read, and a step of everything that runs."""
        for request in [one for one in self._running if one.cancelled]:
            self._leave(request)
        if self._reading and self._reading.request.cancelled:
            self._stop_reading()
        if self._reading is None:
            self._admit()
        if self._reading:
            self._read(self._reading)
        if self._running:
            self._advance()

    def _admit(self) -> None:
        """Begins to read the next request's prompts, if there is room for it."""
        with self._lock:
            self._count_waiting()
            if not self._lines:
                return
            user, line = next(iter(self._lines.items()))
            request = line[0]
            if not self._has_room(request):
                return
            line.popleft()
            # Users take turns, so that one with many requests does not starve the rest.
            del self._lines[user]
            if line:
                self._lines[user] = line
        try:
            known = [self._known(ids) for ids in request.plan.token_ids]
            told = self._prefixes.told(request.plan.token_ids[0][:-1], request.user)
            self._reading = Reading(request, self._rows, known)
            request.reused = min(told, self._reading.begun)
        except Exception as error:  # noqa: BLE001 - no memory for one request's rows
            _deliver(request, _failure(error))
            self._stop_reading()

    def _has_room(self, request: Request) -> bool:
        rows = self._running_rows + request.rows
        positions = max(one.positions for one in (request, *self._running))
        size = rows * positions * self._position_bytes
        return rows <= self._max_rows and size <= self._max_bytes

    def _known(self, token_ids: Sequence[int]) -> Known:
        """Where the longest known start of a prompt can be had, and how long it is.

        The last token always has to be read, since what may follow it is wanted.
        """
        if not self._rows.divisible:
            return 0, None
        wanted = as_tokens(token_ids[:-1])
        length, found = self._prefixes.find(token_ids[:-1])
        source: int | Layers | None = found or None
        for request in self._running:
            for row, ids in enumerate(request.plan.token_ids, request.first):
                shared = common(wanted, as_tokens(ids))
                if shared > length:
                    length, source = shared, row
        return length, source

    def _read(self, reading: Reading) -> None:
        request = reading.request
        budget = _LARGEST_PIECE
        if self._running and self._step_time:
            # The first piece, whose speed is not known yet, is small.
            time_left = _PATIENCE * self._step_time
            budget = int(time_left / self._token_time) if self._token_time else _LEAST_PIECE
        begun = time.perf_counter()
        try:
            count = reading.advance(min(_LARGEST_PIECE, max(_LEAST_PIECE, budget)))
        except Exception as error:  # noqa: BLE001 - a prompt that cannot be read ends one request
            _deliver(request, _failure(error))
            self._stop_reading()
            return
        if count:
            self._token_time = (time.perf_counter() - begun) / count
        if not reading.done:
            return
        self._reading = None
        request.first = self._running_rows
        self._running.append(request)
        try:
            pieces = request.open()
        except Exception as error:  # noqa: BLE001 - a grammar may be anybody's code
            self._fail(request, _failure(error))
            return
        if pieces:
            self._hand_over(request, pieces)
        else:
            self._take(reading.logits, [request])

    def _advance(self) -> None:
        """One step of all running requests."""
        self._reserve()
        self._read_forced()
        if not self._running:
            return
        requests = list(self._running)
        new = [request.next[-1:] for request in requests for _ in range(request.rows)]
        begun = time.perf_counter()
        try:
            logits = self._rows.forward(new)
        except Exception:  # noqa: BLE001 - one of them may be the reason
            self._advance_each(requests)
            return
        self._rows.extend(new)
        self._take(logits, requests)
        took = time.perf_counter() - begun
        fresh = _FRESH if self._step_time else 1.0
        self._step_time += fresh * (took - self._step_time)

    def _advance_each(self, requests: list[Request]) -> None:
        """A step of each request by itself, so that an error ends only the one that causes it."""
        for request in requests:
            new = [request.next[-1:]] * request.rows
            try:
                logits = self._rows.forward(new, request.first)
            except Exception as error:  # noqa: BLE001 - now it is this one's
                self._fail(request, _failure(error))
                continue
            self._rows.extend(new, request.first)
            self._take(logits, [request])

    def _read_forced(self) -> None:
        """Reads all but the last of the tokens that grammars forced, a request at a time."""
        for request in [one for one in self._running if len(one.next) > 1]:
            new = [request.next[:-1]] * request.rows
            try:
                self._rows.forward(new, request.first)
            except Exception as error:  # noqa: BLE001 - it is this request's pass alone
                self._fail(request, _failure(error))
                continue
            self._rows.extend(new, request.first)
            del request.next[:-1]

    def _reserve(self) -> None:
        """Makes room for the step; where there is no memory the longest request must end."""
        while self._running:
            need = [
                max(self._rows.lengths[one.first : one.first + one.rows]) + len(one.next)
                for one in self._running
            ]
            try:
                self._rows.reserve(max(need))
            except Exception as error:  # noqa: BLE001 - whatever it is, somebody has to give way
                self._fail(self._running[need.index(max(need))], _failure(error))
            else:
                return

    def _take(self, logits: Tensor, requests: list[Request]) -> None:
        """Draws the next token of each request and hands it over."""
        for request, choice in zip(requests, _choose(logits, requests), strict=True):
            if isinstance(choice, LinAlignError):
                self._fail(request, choice)
                continue
            try:
                pieces = request.accept(*choice)
            except Exception as error:  # noqa: BLE001 - a fault of one request's text or grammar
                self._fail(request, _failure(error))
                continue
            self._hand_over(request, pieces)

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
        finally:
            _deliver(request, error)

    def _leave(self, request: Request, *, keep: bool = True) -> None:
        """Gives a request's rows back; those behind them move up."""
        if keep:
            self._keep(request)
        at = self._running.index(request)
        behind = self._running[at + 1 :]
        if behind and behind[-1].rows == request.rows:
            # One request moves instead of all that are behind.
            mover = behind[-1]
            self._move(mover.first, request.first, mover.rows)
            mover.first = request.first
            self._running[at] = self._running.pop()
        else:
            del self._running[at]
            for one in behind:
                self._move(one.first, one.first - request.rows, one.rows)
                one.first -= request.rows
        first = self._running_rows
        behind_them = len(self._rows.lengths) - first - request.rows
        self._move(first + request.rows, first, behind_them)
        self._rows.drop(request.rows)

    def _move(self, source: int, target: int, count: int) -> None:
        for row in range(count):
            self._rows.move(source + row, target + row)

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
                except (MemoryError, RuntimeError):
                    # What is kept is for speed only: running requests need the memory more.
                    self._prefixes.clear()

    def _stop_reading(self) -> None:
        self._reading = None
        self._drop_behind_running()

    def _drop_behind_running(self) -> None:
        first = self._running_rows
        self._rows.drop(len(self._rows.lengths) - first)
        if not self._running:
            # There may have been memory for some layers only.
            self._rows = self._new_rows()


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


def _closed() -> EngineClosed:
    return EngineClosed("the engine was closed: call Engine.load again")


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
