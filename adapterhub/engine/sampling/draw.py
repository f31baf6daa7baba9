"""Top-k, top-p and min-p filtering, and random draws with exact sums.

Probabilities are integers in units of 2**-40 of the most likely token's. Sums of integers do not
depend on their order, so neither the other sequences of the batch nor the number of threads can
change a draw. A token less likely than one unit is never drawn.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from adapterhub.engine.sampling.params import SamplingParams

#: A sum over four million tokens still fits 63 bits.
_UNIT_BITS = 40
#: Most likely tokens that are tried before all are sorted; mostly they reach top-p.
_HEAD = 512


def token_weights(logits: Tensor, params: Sequence[SamplingParams]) -> Tensor:
    """Return the weights of all tokens after temperature, top-k, top-p and min-p.

    Order and meaning are those of transformers' processors; tokens that tie with the last one
    kept are kept too, as transformers does for top-k.

    Args:
        logits: Float32 ``[num_seqs, vocab_size]``; changed. Minus infinity excludes a token, and
            the largest value of a sequence is finite or minus infinity.
        params: Parameters of each sequence, with a temperature above 0.

    Returns:
        Int64 ``[num_seqs, vocab_size]``, 0 for excluded tokens.
    """
    _keep_top_k(logits, [one.top_k for one in params])
    # the largest becomes 0 before the division, which then cannot overflow upwards; a sequence
    # with minus infinity alone would become NaN without the bound
    logits -= logits.amax(-1, keepdim=True).clamp_min(torch.finfo(torch.float32).min)
    logits /= _column([one.temperature for one in params], logits)
    weights = _weights(logits)
    _keep_top_p(logits, weights, [one.top_p for one in params])
    _keep_min_p(weights, [one.min_p for one in params])
    return weights


def uniform_bits(seed: int, index: int, step: int) -> int:
    """Return 64 random bits that depend on these three numbers alone.

    Args:
        seed: Seed of the request, 64 bits.
        index: Index of the answer in its request.
        step: Number of the token in the answer.

    Source: Philox4x64-10, Salmon et al. 2011 (doi:10.1145/2063384.2063405).
    """
    key = np.array([seed, index], np.uint64)
    counter = np.array([step, 0, 0, 0], np.uint64)
    return int(np.random.Philox(key=key, counter=counter).random_raw())


def draw_tokens(weights: Tensor, bits: Sequence[int]) -> list[int | None]:
    """Draw a token per sequence by inversion of the cumulative distribution.

    Args:
        weights: Int64 ``[num_seqs, vocab_size]``, not negative.
        bits: 64 random bits per sequence.

    Returns:
        Token id of each sequence, ``None`` where all tokens are excluded.
    """
    cumulative = weights.cumsum(-1)
    totals = cumulative[:, -1].tolist()
    goals = [(total * number) >> 64 for total, number in zip(totals, bits, strict=True)]
    wanted = torch.tensor(goals, device=weights.device)[:, None]
    found = torch.searchsorted(cumulative, wanted, right=True)[:, 0].tolist()
    return [token if total else None for token, total in zip(found, totals, strict=True)]


def _weights(shifted: Tensor) -> Tensor:
    # numpy's exponential of a number does not depend on its place in the array; torch's on CPUs
    # comes from the vendor's library, which does not guarantee it
    if shifted.device.type == "cpu":
        likely = torch.from_numpy(np.exp(shifted.numpy()))
    else:
        likely = shifted.exp()
    return likely.mul_(2.0**_UNIT_BITS).to(torch.int64)


def _keep_top_k(logits: Tensor, counts: Sequence[int]) -> None:
    width = logits.shape[1]
    limited = [i for i, count in enumerate(counts) if 0 < count < width]
    if not limited:
        return
    kept = torch.tensor([counts[i] for i in limited], device=logits.device)[:, None]
    index = torch.tensor(limited, device=logits.device)
    chosen = logits[index]
    least = chosen.topk(int(kept.max()), dim=-1).values.gather(1, kept - 1)
    logits[index] = chosen.masked_fill_(chosen < least, -torch.inf)


def _keep_top_p(shifted: Tensor, weights: Tensor, shares: Sequence[float]) -> None:
    limited = [i for i, share in enumerate(shares) if share < 1]
    if not limited:
        return
    index = torch.tensor(limited, device=weights.device)
    chosen, logits = weights[index], shifted[index]
    goal = torch.tensor([shares[i] for i in limited], dtype=torch.float64, device=weights.device)
    goal = (goal[:, None] * chosen.sum(-1, keepdim=True)).ceil().to(torch.int64)
    weights[index] = chosen.masked_fill_(logits < _least_kept(logits, goal), 0)


def _least_kept(logits: Tensor, goal: Tensor) -> Tensor:
    """Return the logit at which the most likely tokens of a sequence reach ``goal`` together."""
    width = logits.shape[1]
    ordered = logits.topk(min(_HEAD, width), dim=-1).values
    weights = _weights(ordered)
    cumulative = weights.cumsum(-1)
    if ordered.shape[1] < width and bool((cumulative[:, -1:] < goal).any()):
        ordered = logits.sort(dim=-1, descending=True).values
        weights = _weights(ordered)
        cumulative = weights.cumsum(-1)
    needed = (cumulative - weights < goal).sum(-1, keepdim=True)
    # none is needed where all tokens are excluded
    return ordered.gather(1, (needed - 1).clamp_min(0))


def _keep_min_p(weights: Tensor, shares: Sequence[float]) -> None:
    if any(shares):
        least = [round(share * 2.0**_UNIT_BITS) for share in shares]
        floor = torch.tensor(least, device=weights.device)[:, None]
        weights.masked_fill_(weights < floor, 0)


def _column(values: Sequence[float], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=like.dtype, device=like.device)[:, None]
