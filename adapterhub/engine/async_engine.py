"""An engine on a thread of its own, for asyncio."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from concurrent.futures import Future
from threading import Condition, Thread
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from adapterhub.engine.prompts import PreparedPrompt
from adapterhub.engine.sampling.params import SamplingParams
from adapterhub.engine.tokenizer_thread import TokenizerThread
from adapterhub.errors import ComputeError, EngineClosedError, EngineError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Mapping
    from collections.abc import Sequence as SequenceOf

    from torch import Tensor

    from adapterhub.data.packing import EncodedExample
    from adapterhub.engine.engine import Adapters, Engine
    from adapterhub.engine.heads import LabelingKind
    from adapterhub.engine.outputs import CompletionDelta, RequestOutput
    from adapterhub.engine.pooling_requests import Pooling, PoolingRequest
    from adapterhub.engine.prompts import PromptProcessor
    from adapterhub.engine.sequences import Request, Sequence

_LOG = logging.getLogger(__name__)
_T = TypeVar("_T")


class OnStep(Protocol):
    """Receives the duration of each step."""

    def __call__(self, seconds: float, num_deltas: int, /) -> None:
        """Receive the seconds of a step and the number of its deltas."""


class _DeltaStream:
    """The deltas of one request, passed from the engine's thread to an event loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[CompletionDelta | EngineError] = asyncio.Queue()

    def put(self, item: CompletionDelta | EngineError) -> None:
        """Add an item; called on the engine's thread."""
        try:
            self._loop.call_soon_threadsafe(self._queue.put_nowait, item)
        except RuntimeError:
            _LOG.debug("the client's event loop is closed")

    async def get(self) -> CompletionDelta:
        """Wait for the next delta.

        Raises:
            EngineError: If the engine was closed, or a step failed.
        """
        item = await self._queue.get()
        if isinstance(item, EngineError):
            raise item
        return item


class AsyncEngine:
    """Runs an engine's steps on its own thread while there is work.

    All methods are for event loops, of which there may be several. They reach the engine's
    thread through one inbox of calls, which are executed between two steps. The engine belongs
    to this object until ``close``.

    Args:
        engine: Engine to run.
        on_step: Called on the engine's thread after each step.
    """

    def __init__(self, engine: Engine, *, on_step: OnStep | None = None) -> None:
        self._engine = engine
        self._on_step = on_step
        #: tokenizes prompts and what is labelled
        self.tokenizer = engine.core.tokenizer = TokenizerThread()
        self._wake = Condition()
        self._inbox: deque[Callable[[], object]] = deque()
        self._closing = False
        #: whether the thread ended by an error that ends no single request
        self.crashed = False
        self._requests: set[Request] = set()
        self._streams: dict[Sequence, _DeltaStream] = {}
        self._pooling: list[tuple[PoolingRequest, Future[None]]] = []
        self._thread = Thread(target=self._run, name="adapterhub-engine", daemon=True)
        self._thread.start()

    @property
    def prompt_processor(self) -> PromptProcessor:
        """Processor of prompts; see ``Engine.prompt_processor``."""
        return self._engine.prompt_processor

    @property
    def adapters(self) -> Mapping[str, str]:
        """Names of loaded adapters and the digests that they mean now."""
        return self._engine.adapters

    async def generate(
        self,
        prompt: str | SequenceOf[int] | PreparedPrompt,
        adapters: Adapters = None,
        params: SamplingParams | None = None,
    ) -> RequestOutput:
        """Generate for a prompt; see ``Engine.add``. Cancelling the task cancels the request.

        Raises:
            AdapterHubError: From ``Engine.add``, or the error of an answer.
        """
        request, stream = await self._add(await self._prepare(prompt, params), adapters)
        try:
            left = len(request.sequences)
            while left:
                left -= (await stream.get()).finish_reason is not None
        finally:
            self._leave(request)
        output = request.output()
        if output.error is not None:
            raise output.error
        return output

    async def stream(
        self,
        prompt: str | SequenceOf[int] | PreparedPrompt,
        adapters: Adapters = None,
        params: SamplingParams | None = None,
    ) -> AsyncGenerator[CompletionDelta, None]:
        """Yield the deltas of the answers of a prompt.

        Closing the generator cancels the request. An answer that fails ends with a delta that
        has the error; the others continue.

        Raises:
            AdapterHubError: From ``Engine.add``.
        """
        request, stream = await self._add(await self._prepare(prompt, params), adapters)
        left = len(request.sequences)
        try:
            while left:
                delta = await stream.get()
                left -= delta.finish_reason is not None
                yield delta
        finally:
            self._leave(request)

    async def label(
        self,
        item: str | Mapping[str, Any],
        adapters: str | SequenceOf[tuple[str, float]],
        *,
        kind: LabelingKind = "sequence",
    ) -> dict[str, Any]:
        """Return the prediction for a text, an image or a recording; see ``Engine.add_labeling``.

        Raises:
            AdapterHubError: From ``Engine.add_labeling``, or the error of the request.
        """
        request = await self._pool(lambda engine: engine.add_labeling(item, adapters, kind=kind))
        if kind != "span":
            return request.prediction()
        # this cuts the context into windows again, with a tokenizer that is for one thread
        return await self.tokenize(request.size, request.prediction)

    async def label_frames(self, example: EncodedExample, adapters: Adapters) -> Tensor:
        """Return the logits ``[frames, vocabulary]`` of a recording; see ``Engine.add_labeling``.

        Raises:
            AdapterHubError: From ``Engine.add_labeling``, or the error of the request.
        """
        request = await self._pool(
            lambda engine: engine.add_labeling(example, adapters, kind="transcript")
        )
        (logits,) = request.results()
        return logits

    async def embed(
        self,
        text: str | SequenceOf[int],
        adapters: Adapters = None,
        *,
        pooling: Pooling = "mean",
        normalize: bool = False,
    ) -> Tensor:
        """Return the vector ``[hidden_size]`` of a text; see ``Engine.add_embedding``.

        Raises:
            AdapterHubError: From ``Engine.add_embedding``, or the error of the request.
        """
        request = await self._pool(
            lambda engine: engine.add_embedding(
                text, adapters, pooling=pooling, normalize=normalize
            )
        )
        return request.embedding()

    async def tokenize(self, size: int, function: Callable[[], _T]) -> _T:
        """Call a function that tokenizes on the thread for that; return its result.

        Args:
            size: Characters of the text; of the texts that wait, the shortest goes first.
            function: Function that tokenizes it.
        """
        return await asyncio.wrap_future(self.tokenizer.submit(size, function))

    async def call(self, function: Callable[[Engine], _T]) -> _T:
        """Call a function with the engine on its thread, between two steps; return its result.

        Raises:
            EngineClosedError: If the engine is closed.
        """
        return await asyncio.wrap_future(self._submit(function))

    async def close(self) -> None:
        """Cancel all requests and end the thread; the engine itself stays open."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        await asyncio.to_thread(self._thread.join)
        await asyncio.to_thread(self.tokenizer.close)
        self._engine.core.tokenizer = None

    async def _prepare(
        self, prompt: str | SequenceOf[int] | PreparedPrompt, params: SamplingParams | None
    ) -> PreparedPrompt:
        if isinstance(prompt, PreparedPrompt):
            return prompt
        # tokenizing and compiling a schema would block the event loop
        return await self.tokenize(
            len(prompt),
            lambda: self.prompt_processor.prepare(prompt, params or SamplingParams()),
        )

    async def _add(
        self, prompt: PreparedPrompt, adapters: Adapters
    ) -> tuple[Request, _DeltaStream]:
        stream = _DeltaStream()

        def add(engine: Engine) -> Request:
            request = engine.add(prompt, adapters)
            self._requests.add(request)
            self._streams.update(dict.fromkeys(request.sequences, stream))
            return request

        added = self._submit(add)
        try:
            return await asyncio.wrap_future(added), stream
        except asyncio.CancelledError:
            # the request may be added all the same, and nobody else would cancel it
            added.add_done_callback(self._leave_added)
            raise

    def _leave_added(self, added: Future[Request]) -> None:
        if not added.cancelled() and added.exception() is None:
            self._leave(added.result())

    def _leave(self, request: Request) -> None:
        """Cancel a request if it is not finished, and forget it."""
        self._post(lambda: self._forget(request))

    def _forget(self, request: Request) -> None:
        if self.crashed:
            return
        self._engine.cancel(request)
        self._requests.discard(request)
        for sequence in request.sequences:
            self._streams.pop(sequence, None)

    async def _pool(self, add: Callable[[Engine], PoolingRequest]) -> PoolingRequest:
        """Add a pooling request on the engine's thread and wait until it is finished."""
        done: Future[None] = Future()

        def add_and_watch(engine: Engine) -> PoolingRequest:
            request = add(engine)
            self._pooling.append((request, done))
            return request

        request = await self.call(add_and_watch)
        try:
            await asyncio.wrap_future(done)
        except asyncio.CancelledError:
            self._post(lambda: self._engine.cancel(request))
            raise
        return request

    def _notify_finished(self, error: EngineError | None = None) -> None:
        """Complete the futures of finished pooling requests; with an error, all futures."""
        waiting = []
        for request, done in self._pooling:
            if not (request.finished or error):
                waiting.append((request, done))
            elif done.set_running_or_notify_cancel():
                if request.finished or error is None:
                    done.set_result(None)
                else:
                    done.set_exception(error)
        self._pooling = waiting

    def _submit(self, function: Callable[[Engine], _T]) -> Future[_T]:
        """Call a function on the engine's thread, between two steps."""
        future: Future[_T] = Future()

        def run() -> None:
            if not future.set_running_or_notify_cancel():
                return
            if self.crashed:
                future.set_exception(_crash_error())
                return
            try:
                result = function(self._engine)
            except BaseException as error:  # noqa: BLE001, it is raised where it is awaited
                future.set_exception(error)
            else:
                future.set_result(result)

        self._post(run, check=True)
        return future

    def _post(self, call: Callable[[], object], *, check: bool = False) -> None:
        with self._wake:
            if check and self._closing:
                raise EngineClosedError("the engine is closed")
            self._inbox.append(call)
            self._wake.notify()

    def _run(self) -> None:
        try:
            while self._wait():
                self._empty_inbox()
                self._step()
            self._empty_inbox()
        except BaseException:  # noqa: BLE001, logged, and raised in all requests
            _LOG.exception("the engine's thread crashed; all its requests end with an error")
            self._crash()
        else:
            self._end_all(EngineClosedError("the engine is closed"))

    def _crash(self) -> None:
        """End all requests, and those in the inbox, without the engine, whose state is unknown."""
        with self._wake:
            self._closing = self.crashed = True
        for stream in set(self._streams.values()):
            stream.put(_crash_error())
        self._streams.clear()
        self._requests.clear()
        self._notify_finished(_crash_error())
        self._empty_inbox()

    def _empty_inbox(self) -> None:
        while self._inbox:
            self._inbox.popleft()()

    def _step(self) -> None:
        began = time.perf_counter()
        try:
            deltas = self._engine.step()
        except Exception as error:  # noqa: BLE001, logged, and raised in waiting requests
            # an unexpected fault ends the requests of now, not those of later
            _LOG.exception("a step failed; all requests are cancelled")
            self._engine.core.cancel_all()
            self._end_all(ComputeError(f"the step failed: {type(error).__name__}"))
            return
        for sequence, delta in deltas:
            stream = self._streams.get(sequence)
            if stream is not None:
                stream.put(delta)
        self._notify_finished()
        if self._on_step is not None:
            self._on_step(time.perf_counter() - began, len(deltas))

    def _end_all(self, error: EngineError) -> None:
        for stream in set(self._streams.values()):
            stream.put(error)
        self._notify_finished(error)
        for request in tuple(self._requests):
            self._forget(request)

    def _wait(self) -> bool:
        """Sleep until there is work; return ``False`` when the engine is being closed."""
        with self._wake:
            while not (self._closing or self._inbox or self._engine.busy):
                self._wake.wait()
            return not self._closing


def _crash_error() -> ComputeError:
    return ComputeError("the engine crashed")
