"""Kernels alone: where each wins against torch and bitsandbytes, so thresholds come from data."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from stage import RANK, StageOptions, random_backbone, seconds_of, stage_options
from torch import nn
from torch.nn import functional as F

from adapterhub.backbones.quantize import torch_dtype
from adapterhub.kernels.attention.layout import AttentionParams
from adapterhub.kernels.attention.paged import PageTable
from adapterhub.kernels.choice import choose_lora_kernel, choose_paged_attention, has_triton
from adapterhub.kernels.lora.plan import RankSlice, build_plan
from adapterhub.kernels.lora.reference import ReferenceLoraKernel

if TYPE_CHECKING:
    from bitsandbytes.nn import Linear4bit

PATHS = ("self_attn.k_proj", "self_attn.q_proj", "mlp.up_proj", "mlp.down_proj")
TOKENS = (1, 2, 4, 8, 16, 24, 32, 48, 64, 128)
#: Tokens in a page of the KV cache, as the engine has them.
BLOCK = 16


def main() -> None:
    """Measure the three kernels that a decoding step is made of."""
    options = stage_options()
    shape = {**options.shape, "num_hidden_layers": 1}
    backbone = random_backbone(shape, "nf4", options.device)
    dtype = torch_dtype(backbone.quantization.compute_dtype)
    layer = backbone.base_model.layers[0]
    for path in PATHS:
        measure_four_bit(options, path, layer.get_submodule(path), dtype)
    measure_lora(options, dtype)
    measure_attention(options, dtype)


def microseconds(options: StageOptions, call: Any) -> float:
    """Return the median duration of a call, in microseconds."""
    seconds = seconds_of(call, options.device, calls=3 if options.tiny else 20, rounds=3)
    return round(seconds * 1e6, 2)


def measure_four_bit(
    options: StageOptions, path: str, layer: Linear4bit, dtype: torch.dtype
) -> None:
    """Record the 4-bit product by bitsandbytes and Triton beside a dense one in bfloat16."""
    dense = nn.Linear(layer.in_features, layer.out_features, bias=False, dtype=dtype)
    dense.to(options.device)
    fused: Any = None
    if has_triton(options.device.type):
        from adapterhub.kernels.linear.triton import multiply_four_bit

        fused = multiply_four_bit
    for tokens in TOKENS[:2] if options.tiny else TOKENS:
        x = torch.randn(tokens, layer.in_features, device=options.device, dtype=dtype)
        with torch.no_grad():
            found = {
                "bitsandbytes": microseconds(options, lambda x=x: layer(x)),
                "dense": microseconds(options, lambda x=x: dense(x)),
            }
            # the program's tiles hold at most 32 tokens
            if fused is not None and tokens <= 32:
                state, codes = layer.weight.quant_state, layer.weight.data
                found["triton"] = microseconds(
                    options, lambda x=x, codes=codes, state=state: fused(x, codes, state)
                )
        options.record(
            f"4-bit product, {path}, {tokens} tokens",
            kind="four_bit",
            path=path,
            shape=[layer.out_features, layer.in_features],
            tokens=tokens,
            microseconds=found,
        )


def measure_lora(options: StageOptions, dtype: torch.dtype) -> None:
    """Record LoRA of one layer for mixes of tokens and adapters, by Triton and plain torch."""
    width, out = options.shape["hidden_size"], options.shape["intermediate_size"]
    for tokens, adapters in ((1, 1), (8, 8), (32, 1), (32, 32), (128, 64), (2048, 1), (2048, 8)):
        if options.tiny and tokens > 8:
            continue
        shapes = ((tokens, out), (tokens, width), (RANK * adapters, width), (RANK * adapters, out))
        y, x, a, b = (torch.randn(s, device=options.device, dtype=dtype) for s in shapes)
        each = tokens // adapters
        plan = build_plan([(each, (RankSlice(RANK * i, RANK, 1.0),)) for i in range(adapters)])
        kernels = {"chosen": choose_lora_kernel(options.device.type)}
        kernels["plain torch"] = ReferenceLoraKernel()
        found = {
            name: microseconds(options, partial(kernel.add_, y, x, a, b, plan))
            for name, kernel in kernels.items()
        }
        options.record(
            f"LoRA, {tokens} tokens, {adapters} adapters",
            kind="lora",
            tokens=tokens,
            adapters=adapters,
            shape=[out, width],
            microseconds=found,
        )


def measure_attention(options: StageOptions, dtype: torch.dtype) -> None:
    """Record attention of one token a sequence to its cache, beside torch's padded attention."""
    heads, kv_heads = options.shape["num_attention_heads"], options.shape["num_key_value_heads"]
    width = options.shape["hidden_size"] // heads
    for sequences, context in ((1, 128), (1, 4096), (32, 128), (32, 2048), (128, 256)):
        if options.tiny and sequences * context > 256:
            continue
        slots, device = sequences * context, options.device
        block = BLOCK if device.type == "cuda" else 1  # the CPU's kernel has pages of one token
        query = torch.randn(sequences, heads, width, device=device, dtype=dtype)
        keys, values = (
            torch.randn(slots, kv_heads, width, device=device, dtype=dtype) for _ in range(2)
        )
        pages = PageTable(
            indices=torch.randperm(slots // block).to(device, torch.int32),
            offsets=torch.arange(0, slots // block, context // block, dtype=torch.int32).to(device),
            context_lens=torch.full((sequences,), context, dtype=torch.int32, device=device),
            page_size=block,
        )
        padded = (sequences, context, kv_heads, width)
        k, v = (table.view(padded).transpose(1, 2) for table in (keys, values))
        params = AttentionParams(layer=0, causal=True, window=None, scale=width**-0.5)
        paged = choose_paged_attention(device.type)
        padded_attention = F.scaled_dot_product_attention
        found = {
            "paged": microseconds(
                options,
                partial(paged, query, keys, values, pages, params),
            ),
            "torch, padded": microseconds(
                options, partial(padded_attention, query.unsqueeze(2), k, v, enable_gqa=True)
            ),
        }
        options.record(
            f"attention, {sequences} sequences, {context} tokens each",
            kind="attention",
            sequences=sequences,
            context=context,
            bytes=2 * slots * kv_heads * width * torch.finfo(dtype).bits // 8,
            microseconds=found,
        )


if __name__ == "__main__":
    main()
