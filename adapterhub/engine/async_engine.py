"""An engine on a thread of its own, for asyncio: many requests at once, each one awaited."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from concurrent.futures import Future
from threading import Condition, Thread
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

from adapterhub.engine.requests import PreparedPrompt
from adapterhub.engine.sampling.params import SamplingParams
from adapterhub.errors import ComputeError, EngineClosedError, EngineError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Mapping
    from collections.abc import Sequence as Rows

    from torch import Tensor

    from adapterhub.adapters.artifact import Artifact
    from adapterhub.engine.engine import Engine
    from adapterhub.engine.outputs import Delta, EngineStats, RequestOutput
    from adapterhub.engine.pooling import Pooling
    from adapterhub.engine.pooling_requests import Adapters, PoolingRequest
    from adapterhub.engine.requests import PromptProcessor, Request
    from adapterhub.engine.sequences import Sequence

_LOG = logging.getLogger(__name__)
_T = TypeVar("_T")


_P = TypeVar("_P", bound="PoolingRequest")


class OnStep(Protocol):
    """Takes note of a step."""

    def __call__(self, seconds: float, sequences: int) -> None:
        """Record the duration of a step in seconds and the number of sequences it processed."""


class _Listener:
    """Carries what the engine's thread finds out to the event loop that waits for it."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[Delta | EngineError] = asyncio.Queue()

    def tell(self, news: Delta | EngineError) -> None:
        """Called on the engine's thread."""
        try:
            self._loop.call_soon_threadsafe(self._queue.put_nowait, news)
        except RuntimeError:
            # the loop was closed: nobody waits any longer
            _LOG.debug("the client's event loop is closed")

    async def hear(self) -> Delta:
        """Wait for the next news.

        Raises:
            EngineError: when the engine was closed.
        """
        news = await self._queue.get()
        if isinstance(news, EngineError):
            raise news
        return news


class AsyncEngine:
    """Runs an engine's steps on its own thread while there is work.

    All methods are for use on an event loop, of which there may be several. The engine belongs
    to this object until ``close``.
    """

    def __init__(self, engine: Engine, *, on_step: OnStep | None = None) -> None:
        """Start the thread.

        Args:
            engine: whose steps it runs.
            on_step: called on the engine's thread after each step, with its seconds and the
                rows that it answered.
        """
        self._engine = engine
        self._on_step = on_step
        self._wake = Condition()
        self._commands: deque[Callable[[], None]] = deque()
        self._closing = False
        self._requests: set[Request] = set()
        self._listeners: dict[Sequence, _Listener] = {}
        self._passes: list[tuple[PoolingRequest, Future[None]]] = []
        self._thread = Thread(target=self._run, name="adapterhub-engine", daemon=True)
        self._thread.start()

    @property
    def prompt_processor(self) -> PromptProcessor:
        """Makes prompts ready; see ``Engine.prompt_processor``."""
        return self._engine.prompt_processor

    @property
    def adapters(self) -> Mapping[str, str]:
        """Names of loaded adapters and the digests that they stand for now."""
        return self._engine.adapters

    async def generate(
        self,
        prompt: str | Rows[int] | PreparedPrompt,
        adapters: Adapters = None,
        params: SamplingParams | None = None,
    ) -> RequestOutput:
        """CompletionOutput a prompt; see ``Engine.add``. Cancelling the task cancels the request.

        Raises:
            AdapterHubError: what ``Engine.add`` raises; or why an answer failed.
        """
        ready = await self._read(prompt, params)
        request, listener = await self._join(ready, adapters)
        try:
            await _finished(listener, len(request.rows))
        finally:
            self._leave(request)
        completion = request.completion()
        if completion.error is not None:
            raise completion.error
        return completion

    async def stream(
        self,
        prompt: str | Rows[int] | PreparedPrompt,
        adapters: Adapters = None,
        params: SamplingParams | None = None,
    ) -> AsyncGenerator[Delta, None]:
        """Yield what each step adds to the answers of a prompt.

        Closing the generator cancels the request. An answer that fails ends with a delta that
        has the error; the others go on.

        Raises:
            AdapterHubError: what ``Engine.add`` raises.
        """
        ready = await self._read(prompt, params)
        request, listener = await self._join(ready, adapters)
        left = len(request.rows)
        try:
            while left:
                delta = await listener.hear()
                left -= delta.finish_reason is not None
                yield delta
        finally:
            self._leave(request)

    async def classify(
        self, text: str | Mapping[str, Any], adapters: str | Rows[tuple[str, float]]
    ) -> dict[str, Any]:
        """Label a text; see ``Engine.add_labeling``.

        Raises:
            AdapterHubError: what ``Engine.add_labeling`` raises; or why the text failed.
        """
        request = await self._pass(lambda: self._engine.add_labeling(text, adapters))
        return request.answer()

    async def tag(
        self, text: str | Mapping[str, Any], adapters: str | Rows[tuple[str, float]]
    ) -> dict[str, Any]:
        """Find the spans of a text; see ``Engine.add_labeling``.

        Raises:
            AdapterHubError: what ``Engine.add_labeling`` raises; or why the text failed.
        """
        request = await self._pass(lambda: self._engine.add_labeling(text, adapters, kind="token"))
        return request.answer()

    async def answer(
        self, row: Mapping[str, Any], adapters: str | Rows[tuple[str, float]]
    ) -> dict[str, Any]:
        """Find the answer to a question in its context; see ``Engine.answer``.

        Raises:
            AdapterHubError: what ``Engine.add_labeling`` raises; or why the row failed.
        """
        request = await self._pass(lambda: self._engine.add_labeling(row, adapters, kind="span"))
        # it cuts the context once more, by a tokenizer that is for one thread
        return await self._call(request.answer)

    async def embed(
        self,
        text: str | Rows[int],
        adapters: Adapters = None,
        *,
        pooling: Pooling = "mean",
        normalize: bool = False,
    ) -> Tensor:
        """Return the vector ``[hidden]`` of a text; see ``Engine.add_embedding``.

        Raises:
            AdapterHubError: what ``Engine.add_embedding`` raises; or why the text failed.
        """
        request = await self._pass(
            lambda: self._engine.add_embedding(text, adapters, pooling=pooling, normalize=normalize)
        )
        return request.value()

    async def load(self, artifact: Artifact, *, name: str, force: bool = False) -> None:
        """See ``Engine.load``."""
        await self._call(lambda: self._engine.load(artifact, name=name, force=force))

    async def unload(self, name: str) -> None:
        """See ``Engine.unload``."""
        await self._call(lambda: self._engine.unload(name))

    async def pin(self, name: str, *, pinned: bool = True) -> None:
        """See ``Engine.pin``."""
        await self._call(lambda: self._engine.pin(name, pinned=pinned))

    async def stats(self) -> EngineStats:
        """See ``Engine.stats``."""
        return await self._call(self._engine.stats)

    async def places(self) -> Mapping[str, Literal["device", "host"]]:
        """See ``Engine.places``."""
        return await self._call(self._engine.places)

    async def pinned(self) -> frozenset[str]:
        """See ``Engine.pinned``."""
        return await self._call(lambda: self._engine.pinned)

    async def moves(self) -> list[tuple[str, str]]:
        """See ``Engine.moves``."""
        return await self._call(self._engine.moves)

    async def close(self) -> None:
        """End all requests and the thread; the engine itself stays open."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        await asyncio.to_thread(self._thread.join)

    async def _read(
        self, prompt: str | Rows[int] | PreparedPrompt, params: SamplingParams | None
    ) -> PreparedPrompt:
        if isinstance(prompt, PreparedPrompt):
            return prompt
        # tokenizing and compiling a schema would hold up the event loop
        return await asyncio.to_thread(
            self._engine.prompt_processor.read, prompt, params or SamplingParams()
        )

    async def _join(self, ready: PreparedPrompt, adapters: Adapters) -> tuple[Request, _Listener]:
        listener = _Listener()

        def join() -> Request:
            request = self._engine.add(ready, adapters)
            self._requests.add(request)
            self._listeners.update(dict.fromkeys(request.rows, listener))
            return request

        joined = self._submit(join)
        try:
            return await asyncio.wrap_future(joined), listener
        except asyncio.CancelledError:
            # it may join all the same, and nobody would take it out
            joined.add_done_callback(self._leave_joined)
            raise

    def _leave_joined(self, joined: Future[Request]) -> None:
        if not joined.cancelled() and joined.exception() is None:
            self._leave(joined.result())

    def _leave(self, request: Request) -> None:
        """Take a request out, whether or not it is finished."""
        with self._wake:
            self._commands.append(lambda: self._forget(request))
            self._wake.notify()

    def _forget(self, request: Request) -> None:
        self._engine.cancel(request)
        self._requests.discard(request)
        for row in request.rows:
            self._listeners.pop(row, None)

    async def _pass(self, ask: Callable[[], _P]) -> _P:
        """Ask for a pass on the engine's thread and wait until it is done."""
        done: Future[None] = Future()

        def join() -> _P:
            request = ask()
            self._passes.append((request, done))
            return request

        request = await self._call(join)
        try:
            await asyncio.wrap_future(done)
        except asyncio.CancelledError:
            # nobody waits for it any longer, and its adapter need not come
            with self._wake:
                self._commands.append(lambda: self._engine.cancel(request))
                self._wake.notify()
            raise
        return request

    def _settle(self, error: EngineError | None = None) -> None:
        """Tell those whose passes are done; with an error, everybody."""
        waiting = []
        for request, done in self._passes:
            if not (request.finished or error):
                waiting.append((request, done))
            elif done.set_running_or_notify_cancel():
                if request.finished or error is None:
                    done.set_result(None)
                else:
                    done.set_exception(error)
        self._passes = waiting

    async def _call(self, do: Callable[[], _T]) -> _T:
        return await asyncio.wrap_future(self._submit(do))

    def _submit(self, do: Callable[[], _T]) -> Future[_T]:
        """Run something on the engine's thread, between two steps."""
        future: Future[_T] = Future()

        def run() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                result = do()
            except BaseException as error:  # noqa: BLE001, it is raised where it is awaited
                future.set_exception(error)
            else:
                future.set_result(result)

        with self._wake:
            if self._closing:
                raise EngineClosedError("the engine is closed")
            self._commands.append(run)
            self._wake.notify()
        return future

    def _run(self) -> None:
        while self._wait():
            while self._commands:
                self._commands.popleft()()
            self._step()
        while self._commands:
            self._commands.popleft()()
        for listener in set(self._listeners.values()):
            listener.tell(EngineClosedError("the engine is closed"))
        self._settle(EngineClosedError("the engine is closed"))
        for request in tuple(self._requests):
            self._forget(request)

    def _step(self) -> None:
        began = time.perf_counter()
        try:
            news = self._engine.step()
        except Exception as error:  # noqa: BLE001, logged, and told to those who wait
            # one fault that nobody foresaw ends what runs, and not all that comes later
            _LOG.exception("a step failed; all rows are given up")
            self._give_up(ComputeError(f"the step failed: {type(error).__name__}"))
            return
        for row, delta in news:
            listener = self._listeners.get(row)
            if listener is not None:
                listener.tell(delta)
        self._settle()
        if self._on_step is not None:
            self._on_step(time.perf_counter() - began, len(news))

    def _give_up(self, error: ComputeError) -> None:
        self._engine.cancel_all()
        for listener in set(self._listeners.values()):
            listener.tell(error)
        self._settle(error)
        for request in tuple(self._requests):
            self._forget(request)

    def _wait(self) -> bool:
        """Sleep until there is work; return whether to go on."""
        with self._wake:
            while not (self._closing or self._commands or self._engine.busy):
                self._wake.wait()
            return not self._closing


async def _finished(listener: _Listener, rows: int) -> None:
    while rows:
        delta = await listener.hear()
        rows -= delta.finish_reason is not None
