"""llama.cpp as one side of a benchmark, by its program ``llama-batched-bench``.

The program reads prompts of random tokens and decodes without sampling, so its figures are a little
better than those of a server. It is started for each run and measures itself.
"""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class LlamaCppSide:
    """Runs of llama.cpp without adapters.

    Args:
        program: Path of ``llama-batched-bench``.
        gguf: File of the weights.
        threads: Number of threads.
    """

    def __init__(self, program: str, gguf: str, threads: int) -> None:
        self._command = [program, "-m", gguf, "-t", str(threads), "--output-format", "jsonl"]

    def runs(
        self, sequences: int, prompt_tokens: int, tokens: int
    ) -> dict[str, Callable[[], float]]:
        """Return what is measured; each run returns llama.cpp's own seconds."""

        def run(key: str) -> float:
            return self._measure(sequences, prompt_tokens, tokens)[key]

        if tokens == 1:
            return {"llama.cpp": lambda: run("t_pp")}
        return {"llama.cpp": lambda: run("t"), "llama.cpp, decode": lambda: run("t_tg")}

    def _measure(self, sequences: int, prompt_tokens: int, tokens: int) -> dict[str, float]:
        """Return the program's record of one batch.

        Raises:
            RuntimeError: If the program fails; its standard error has the reason.
        """
        size = sequences * (prompt_tokens + tokens)
        batch = ["-c", str(size + 64 * sequences), "-b", "2048", "-ub", "512"]
        shape = ["-npp", str(prompt_tokens), "-ntg", str(tokens), "-npl", str(sequences)]
        done = subprocess.run(
            [*self._command, *batch, *shape], capture_output=True, text=True, check=False
        )
        for line in done.stdout.splitlines():
            if line.startswith("{"):
                record: dict[str, float] = json.loads(line)
                return record
        raise RuntimeError(
            f"llama.cpp printed no result (exit status {done.returncode}):\n{done.stderr[-2000:]}"
        )
