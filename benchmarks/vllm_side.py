"""vLLM as one side of a benchmark: its process started, asked, and stopped while others run.

A worker of vLLM in a process of its own polls for a second after each answer, on a core that
another side would need. So vLLM's processes are stopped (SIGSTOP) whenever they are not asked.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Sequence

PEER = Path(__file__).with_name("vllm_peer.py")


class VllmSide:
    """A vLLM engine in another Python, stopped except within ``__init__`` and ``run``.

    Args:
        python: interpreter of the environment that vLLM is installed in.
        model: folder of the backbone.
        dtype: ``bfloat16`` or ``float32``.
        rows: most rows of one ``run``.
        length: most tokens of a row, prompt and answer together.
        adapters: most adapters at once; 0 builds the engine without LoRA.
        rank: highest rank of an adapter.
        threads: of its worker, one on each of the first processors allowed.
        peer: the program to run.

    Raises:
        RuntimeError: when the process ends before it is ready; stderr says why.
    """

    def __init__(
        self,
        python: str,
        model: str,
        *,
        dtype: str,
        rows: int,
        length: int,
        adapters: int,
        rank: int,
        threads: int,
        peer: Path = PEER,
    ) -> None:
        command = [python, str(peer), model, "--dtype", dtype, "--rows", str(rows)]
        command += ["--length", str(length), "--adapters", str(adapters), "--rank", str(rank)]
        # A group of its own can be stopped as a whole. It stays in this session: if this process
        # dies while the group is stopped, the kernel hangs it up and nothing is left behind.
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment(threads),
            process_group=0,
        )
        self._closed = False
        self._read()
        self._signal(signal.SIGSTOP)

    def run(
        self, prompts: Sequence[Sequence[int]], adapters: Sequence[str | None], tokens: int
    ) -> tuple[float, list[list[int]]]:
        """Answer all prompts at once.

        Args:
            prompts: token ids, row by row.
            adapters: folder of each row's adapter in peft's format, or None.
            tokens: how many each row generates.

        Returns:
            The seconds that vLLM took, by its own clock, and the tokens of each row.

        Raises:
            RuntimeError: when the process has ended, or a row has another number of tokens.
        """
        request = {"prompts": prompts, "adapters": adapters, "tokens": tokens}
        self._signal(signal.SIGCONT)
        self._write(request)
        answer = self._read()
        self._signal(signal.SIGSTOP)
        counts = {len(row) for row in answer["tokens"]}
        if counts != {tokens} or len(answer["tokens"]) != len(prompts):
            raise RuntimeError(f"vLLM: asked {tokens} tokens a row, got {sorted(counts)}")
        return float(answer["seconds"]), answer["tokens"]

    def close(self) -> None:
        """End the process and its children; does nothing the second time."""
        if self._closed:
            return
        self._closed = True
        self._signal(signal.SIGCONT)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(BrokenPipeError):
                    pipe.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=30)
        self._signal(signal.SIGKILL)  # what is left of the group
        self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def _write(self, request: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # reading the answer tells of it
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self.close()
            raise RuntimeError(f"vLLM's process ended with {self._process.returncode}")
        return json.loads(line)


def environment(threads: int) -> dict[str, str]:
    """Return the variables that vLLM is started with; those already set stay as they are."""
    processors = sorted(os.sched_getaffinity(0))[:threads]
    defaults = {
        # Otherwise it leaves one processor to its scheduler.
        "VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, processors)),
        "OMP_NUM_THREADS": str(threads),
        # One process for scheduler and worker: the fastest of seven settings on two cores, each
        # tried once or twice; two processes poll for each other.
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
        "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    return defaults | os.environ
