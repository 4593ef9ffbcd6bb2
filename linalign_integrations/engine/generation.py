"""An answer as it comes, for those who wait for it in a thread and for those who await it."""

from __future__ import annotations

import asyncio
import math
import queue
import time
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING

from linalign_integrations.engine.answer import Piece
from linalign_integrations.errors import GenerationTimeout, InvalidArgument

if TYPE_CHECKING:
    from linalign_integrations.engine.request import Delivery, Request
    from linalign_integrations.engine.scheduler import Scheduler


class _Waiting:
    """What both kinds of waiting share: a request that is begun once and may be given up."""

    def __init__(self, scheduler: Scheduler, request: Request, timeout: float | None) -> None:
        if timeout is not None and not 0 < timeout < math.inf:
            raise InvalidArgument(
                f"timeout= is a number of seconds above 0, or None for no limit, not {timeout!r}"
            )
        self._scheduler = scheduler
        self._request = request
        self._timeout = timeout
        self._deadline: float | None = None
        self._started = self._done = False

    def _start(self, deliver: Delivery) -> None:
        self._started = True
        if self._timeout is not None:
            self._deadline = time.monotonic() + self._timeout
        self._request.deliver = deliver
        self._scheduler.submit(self._request)

    def _left(self) -> float | None:
        """Seconds until the deadline; None where there is none."""
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    def _late(self) -> GenerationTimeout:
        return GenerationTimeout(
            f"the answer was not finished within {self._timeout} seconds: allow more, lower "
            "max_tokens, or ask when fewer requests run"
        )

    def _give_up(self) -> None:
        self._done = self._request.cancelled = True

    def _take(self, item: Piece | BaseException) -> Piece:
        if isinstance(item, BaseException):
            self._done = True
            raise item
        self._done = item.finish_reason is not None
        return item

    def __del__(self) -> None:
        # Whoever forgets an answer does not wait for it. One that was refused has no request.
        if hasattr(self, "_request"):
            self._request.cancelled = True


class Generation(_Waiting, Iterator[Piece]):
    """An answer for ``for``; work starts with the first piece asked for.

    Args:
        scheduler: runs the request.
        request: what to run.
        timeout: seconds from the first piece asked for to the last one; None for no limit.
    """

    def __init__(self, scheduler: Scheduler, request: Request, timeout: float | None) -> None:
        super().__init__(scheduler, request, timeout)
        self._pieces: queue.SimpleQueue[Piece | BaseException] = queue.SimpleQueue()

    def __next__(self) -> Piece:
        if self._done:
            raise StopIteration
        try:
            if not self._started:
                self._start(self._pieces.put)
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
        request: what to run.
        timeout: seconds from the first piece asked for to the last one; None for no limit.
    """

    def __init__(self, scheduler: Scheduler, request: Request, timeout: float | None) -> None:
        super().__init__(scheduler, request, timeout)
        self._pieces: asyncio.Queue[Piece | BaseException] = asyncio.Queue()

    async def __anext__(self) -> Piece:
        if self._done:
            raise StopAsyncIteration
        try:
            if not self._started:
                self._start(self._into(asyncio.get_running_loop()))
            # Unlike wait_for of Python 3.11 this never swallows a cancellation.
            async with asyncio.timeout(self._left()):
                item = await self._pieces.get()
            return self._take(item)
        except TimeoutError:
            self._give_up()
            raise self._late() from None
        except BaseException:
            self._give_up()
            raise

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
