"""Process of vLLM as one side of a benchmark, stopped while other sides run.

A worker of vLLM in a process of its own polls for a second after each answer, on a core that
another side would need. So vLLM's processes are stopped (SIGSTOP) outside of ``run``.
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
        python: Interpreter of the environment in which vLLM is installed.
        model: Folder of the backbone.
        dtype: ``bfloat16`` or ``float32``.
        max_num_seqs: Largest number of sequences of one ``run``.
        max_model_len: Largest number of tokens of a sequence, prompt and answer together.
        max_loras: Largest number of adapters in a batch; 0 builds the engine without LoRA.
        max_lora_rank: Highest rank of an adapter.
        threads: Threads of its worker, one on each of the first allowed processors.
        peer: Program that is run.

    Raises:
        RuntimeError: If the process ends before it is ready; its standard error has the reason.
    """

    def __init__(
        self,
        python: str,
        model: str,
        *,
        dtype: str,
        max_num_seqs: int,
        max_model_len: int,
        max_loras: int,
        max_lora_rank: int,
        threads: int,
        peer: Path = PEER,
    ) -> None:
        command = [python, str(peer), model, "--dtype", dtype]
        command += ["--max-num-seqs", str(max_num_seqs), "--max-model-len", str(max_model_len)]
        command += ["--max-loras", str(max_loras), "--max-lora-rank", str(max_lora_rank)]
        # A process group of its own can be stopped as a whole. It stays in this session: if this
        # process dies while the group is stopped, the kernel sends it SIGHUP and none remains.
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
        """Generate for all prompts at once.

        Args:
            prompts: Token ids of each sequence.
            adapters: Folder of each sequence's adapter in peft's format, or ``None``.
            tokens: Number of tokens that each sequence generates.

        Returns:
            Seconds of vLLM's own clock, and the tokens of each sequence.

        Raises:
            RuntimeError: If the process has ended, or a sequence has another number of tokens.
        """
        request = {"prompts": prompts, "adapters": adapters, "tokens": tokens}
        self._signal(signal.SIGCONT)
        self._write(request)
        answer = self._read()
        self._signal(signal.SIGSTOP)
        counts = {len(generated) for generated in answer["tokens"]}
        if counts != {tokens} or len(answer["tokens"]) != len(prompts):
            raise RuntimeError(
                f"vLLM: expected {len(prompts)} sequences of {tokens} tokens, "
                f"got {len(answer['tokens'])} of {sorted(counts)}"
            )
        return float(answer["seconds"]), answer["tokens"]

    def close(self) -> None:
        """End the process and its children; a second call does nothing."""
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
        self._signal(signal.SIGKILL)  # the rest of the group
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
        with suppress(BrokenPipeError):  # reading the answer raises the error
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
    """Return vLLM's environment variables; those that are already set keep their values."""
    processors = sorted(os.sched_getaffinity(0))[:threads]
    defaults = {
        # without it, one processor is reserved for the scheduler
        "VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, processors)),
        "OMP_NUM_THREADS": str(threads),
        # One process for scheduler and worker: the fastest of seven settings on two cores, each
        # measured once or twice; two processes poll for each other.
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
        "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    return defaults | os.environ
