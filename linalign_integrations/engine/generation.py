"""An answer as it comes, for those who wait for it in a thread and for those who await it."""

from __future__ import annotations

import asyncio
import math
import queue
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING

from linalign_integrations.engine.answer import Piece
from linalign_integrations.errors import GenerationTimeout, InvalidArgument

if TYPE_CHECKING:
    from linalign_integrations.engine.request import Delivery, Request
    from linalign_integrations.engine.scheduler import Scheduler


class _Waiting:
    """What both kinds of waiting share: a request that is begun once and may be given up."""

    # None while it is being made. One whose time limit is refused never has any.
    _request: Request | None = None

    def __init__(self, scheduler: Scheduler, timeout: float | None) -> None:
        is_number = isinstance(timeout, (int, float))
        if timeout is not None and not (is_number and 0 < timeout < math.inf):
            raise InvalidArgument(
                f"timeout= is a number of seconds above 0, or None for no limit, not {timeout!r}"
            )
        self._scheduler = scheduler
        self._timeout = timeout
        self._deadline: float | None = None
        self._started = self._done = False

    def _start(self) -> None:
        self._started = True
        if self._timeout is not None:
            self._deadline = time.monotonic() + self._timeout

    def _submit(self, request: Request, deliver: Delivery) -> None:
        request.deliver = deliver
        self._scheduler.submit(request)

    def _left(self) -> float | None:
        """Seconds until the deadline; None where there is none."""
        if self._deadline is None:
            return None
        # A thread cannot wait longer, which is some centuries.
        return min(max(0.0, self._deadline - time.monotonic()), threading.TIMEOUT_MAX)

    def _late(self) -> GenerationTimeout:
        return GenerationTimeout(
            f"the answer was not finished within {self._timeout} seconds: allow more, lower "
            "max_tokens, or ask when fewer requests run"
        )

    def _give_up(self) -> None:
        self._done = True
        if self._request is not None:
            self._request.cancelled = True

    def _take(self, item: Piece | BaseException) -> Piece:
        if isinstance(item, BaseException):
            self._done = True
            raise item
        self._done = item.finish_reason is not None
        return item

    def __del__(self) -> None:
        # Whoever forgets an answer does not wait for it.
        if self._request is not None:
            self._request.cancelled = True


class Generation(_Waiting, Iterator[Piece]):
    """An answer for ``for``; work starts with the first piece asked for.

    Args:
        scheduler: runs the request.
        request: what to run.
        timeout: seconds from the first piece asked for to the last one; None for no limit.
    """

    def __init__(self, scheduler: Scheduler, request: Request, timeout: float | None) -> None:
        super().__init__(scheduler, timeout)
        self._request: Request = request
        self._pieces: queue.SimpleQueue[Piece | BaseException] = queue.SimpleQueue()

    def __next__(self) -> Piece:
        if self._done:
            raise StopIteration
        try:
            if not self._started:
                self._start()
                self._submit(self._request, self._pieces.put)
            return self._take(self._pieces.get(timeout=self._left()))
        except queue.Empty:
            self._give_up()
            raise self._late() from None
        except BaseException:
            self._give_up()
            raise

    def close(self) -> None:
        """Ends the answer here; its rows are free at the next step."""
        self._give_up()
        # Another thread may be waiting for a piece.
        self._pieces.put(StopIteration())


class AsyncGeneration(_Waiting, AsyncIterator[Piece]):
    """An answer for ``async for``; the event loop is never blocked.

    Args:
        scheduler: runs the request.
        request: what to run, or what makes it, which another thread is to do as part of the answer.
        timeout: seconds from the first piece asked for to the last one; None for no limit.
    """

    def __init__(
        self, scheduler: Scheduler, request: Request | Callable[[], Request], timeout: float | None
    ) -> None:
        super().__init__(scheduler, timeout)
        if callable(request):
            self._make: Callable[[], Request] | None = request
        else:
            self._make, self._request = None, request
        self._pieces: asyncio.Queue[Piece | BaseException] = asyncio.Queue()

    async def __anext__(self) -> Piece:
        if self._done:
            raise StopAsyncIteration
        try:
            begins = not self._started
            if begins:
                self._start()
            # Unlike wait_for of Python 3.11 this never swallows a cancellation.
            async with asyncio.timeout(self._left()):
                if begins:
                    await self._begin()
                item = await self._pieces.get()
            return self._take(item)
        except TimeoutError:
            await self.aclose()
            raise self._late() from None
        except BaseException:
            await self.aclose()
            raise

    async def _begin(self) -> None:
        if self._make is not None:
            self._request = await asyncio.to_thread(self._make)
            self._make = None
        # It may have been closed meanwhile.
        if self._request is not None and not self._done:
            self._submit(self._request, self._into(asyncio.get_running_loop()))

    def _into(self, loop: asyncio.AbstractEventLoop) -> Delivery:
        put = self._pieces.put_nowait

        def deliver(item: Piece | BaseException) -> None:
            loop.call_soon_threadsafe(put, item)

        return deliver

    async def aclose(self) -> None:
        """Ends the answer here; its rows are free at the next step."""
        self._give_up()
        # Another task may be waiting for a piece.
        self._pieces.put_nowait(StopAsyncIteration())
