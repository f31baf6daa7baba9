"""Turn the result of a GPU run into tables and proposals for thresholds.

    python benchmarks/gpu/read.py benchmarks/results/gpu.json

Prints Markdown for ``benchmarks/RESULTS.md``: what passed, rates beside their bounds and the
goals, and the thresholds that the measured kernels suggest.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

Record = dict[str, Any]


def main() -> None:
    """Print the report of the file on the command line."""
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    run = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    print("\n".join(report(run)))


def report(run: dict[str, Any]) -> list[str]:
    """Return the lines of the report; parts without records are left out."""
    records = {name: stage["records"] for name, stage in run["stages"].items()}
    environment = {each["name"]: each for each in records.get("environment", [])}
    lines = title(run, environment)
    lines += stages(run)
    lines += correctness(records.get("correctness", []))
    decoding = by_kind(records.get("decoding", []))
    bandwidth = environment.get("copy within the device", {}).get("bytes_per_second")
    lines += rates(decoding["rate"], bandwidth)
    lines += others(decoding)
    lines += training(records.get("training", []))
    kernels = by_kind(records.get("kernels", []))
    lines += four_bit(kernels["four_bit"])
    lines += pairs(kernels["lora"] + kernels["attention"])
    return lines


def by_kind(records: list[Record]) -> dict[str, list[Record]]:
    """Return the records of each kind; kinds without any are empty."""
    found: dict[str, list[Record]] = defaultdict(list)
    for each in records:
        found[each.get("kind", "")].append(each)
    return found


def title(run: dict[str, Any], environment: dict[str, Record]) -> list[str]:
    """Return the heading: the card, the versions, the measured bounds."""
    card = environment.get("card", {}).get("gpu", "CPU")
    software = environment.get("software", {})
    versions = ", ".join(
        f"{name} {software[name]}"
        for name in ("torch", "triton", "transformers", "peft", "bitsandbytes")
        if software.get(name)
    )
    lines = [
        f"## {card}{' (tiny shapes: no figures to keep)' if run['tiny'] else ''}",
        "",
        versions,
    ]
    for name, unit, scale in (
        ("copy within the device", "GB/s read and written", 1e9),
        ("copy to the device", "GB/s", 1e9),
        ("bfloat16 product", "TFLOP/s", 1e12),
    ):
        if name in environment:
            value = next(v for k, v in environment[name].items() if k.endswith("_per_second"))
            lines.append(f"- {name}: {value / scale:,.0f} {unit}")
    return lines


def stages(run: dict[str, Any]) -> list[str]:
    """Return the table of stages."""
    rows = [
        [name, stage["status"], f"{stage['seconds']} s", str(len(stage["records"]))]
        for name, stage in run["stages"].items()
    ]
    return ["", *table(["stage", "status", "time", "records"], rows)]


def correctness(records: list[Record]) -> list[str]:
    """Return the count of each outcome, and the failures with the end of their messages."""
    if not records:
        return []
    count: dict[str, int] = defaultdict(int)
    for each in records:
        count[each["outcome"]] += 1
    lines = ["", "Tests: " + ", ".join(f"{n} {outcome}" for outcome, n in sorted(count.items()))]
    for each in records:
        if each["outcome"] == "failed":
            lines.append(f"- {each['name']}: {each['error'].strip().splitlines()[-1]}")
    return lines


def rates(records: list[Record], bandwidth: float | None) -> list[str]:
    """Return decoded tokens a second, beside the base rate and the bandwidth limit.

    Args:
        records: Records of the mixes.
        bandwidth: Bytes read and written a second; a step only reads.
    """
    if not records:
        return []
    base = {(r["scheme"], r["sequences"]): best(r) for r in records if r["adapters"] == 0}
    rows = []
    for each in records:
        rate, sequences = best(each), each["sequences"]
        plain = base.get((each["scheme"], sequences))
        step = sequences / rate
        row = [each["scheme"], str(sequences), str(each["adapters"]), f"{rate:,.0f}"]
        row.append(f"{rate / plain:.0%}" if plain else "")
        row.append(f"{each['step_bytes'] / bandwidth / step:.0%}" if bandwidth else "")
        graph = each["graph_seconds"]
        row.append(f"{1 - graph / step:.0%}" if graph else "")
        eager = each["tokens_per_second"].get("eager")
        row.append(f"{eager:,.0f}" if eager else "")
        rows.append(row)
    head = ["scheme", "sequences", "adapters", "tokens/s", "of the base rate"]
    head += ["of the bandwidth limit", "outside of the graph", "without graphs"]
    return ["", *table(head, rows)]


def best(record: Record) -> float:
    """Return the rate with CUDA graphs, or without where there are none."""
    rates = record["tokens_per_second"]
    return float(rates.get("graphs", rates.get("eager")))


def others(decoding: dict[str, list[Record]]) -> list[str]:
    """Return prefill, cold adapters and traffic, a line each."""
    lines = [""] if any(decoding[kind] for kind in ("prefill", "cold", "traffic")) else []
    lines += [f"- {r['name']}: {r['tokens_per_second']:,.0f} tokens/s" for r in decoding["prefill"]]
    lines += [
        f"- {r['name']} ({r['adapter_bytes'] / 1e6:.0f} MB): "
        f"{r['added_from_host_ms']:.1f} ms added from host memory (goal: under 5), "
        f"{r['added_from_disk_ms']:.1f} ms from disk; "
        f"{r['resident_ms']:.1f} ms when resident"
        for r in decoding["cold"]
    ]
    lines += [
        f"- {r['name']}: {r['tokens_per_second']:,.0f} tokens/s, first token after "
        f"{r['first_token_p50_ms']:.0f} ms (median), {r['first_token_p99_ms']:.0f} ms (p99), "
        f"{r['requests']} requests, {r['loads']} loads"
        for r in decoding["traffic"]
    ]
    return lines


def training(records: list[Record]) -> list[str]:
    """Return both sides of QLoRA training and their ratio (goal: 1.5)."""
    rows = [
        [
            each["side"],
            f"{each['tokens_per_second']:,.0f}",
            f"{each['peak_bytes'] / 1e9:.1f} GB" if each["peak_bytes"] else "",
        ]
        for each in records
    ]
    lines = ["", *table(["NF4 QLoRA", "tokens/s", "peak memory"], rows)] if rows else []
    if len(records) == 2:
        peer, ours = (each["tokens_per_second"] for each in records)
        lines += ["", f"Ratio: {ours / peer:.2f} (goal: 1.5)"]
    return lines


def four_bit(records: list[Record]) -> list[str]:
    """Return the 4-bit products, and up to how many tokens Triton's is the faster one."""
    if not records:
        return []
    sides = ["dense", "bitsandbytes", "triton"]
    rows = [
        [each["path"], str(each["tokens"])]
        + [str(each["microseconds"].get(side, "")) for side in sides]
        for each in records
    ]
    lines = ["", *table(["4-bit product", "tokens", *(f"{side}, µs" for side in sides)], rows)]
    limits = []
    for path in dict.fromkeys(each["path"] for each in records):
        wins = [
            each["tokens"]
            for each in records
            if each["path"] == path
            and each["microseconds"].get("triton", float("inf"))
            < each["microseconds"]["bitsandbytes"]
        ]
        limits.append((path, max(wins, default=0)))
    if any("triton" in each["microseconds"] for each in records):
        found = ", ".join(f"{path} {tokens}" for path, tokens in limits)
        lines += ["", f"Triton's product wins up to this many tokens: {found}."]
        least = min(tokens for _, tokens in limits)
        lines.append(f"Proposal: `MAX_TOKENS = {least}` in `kernels/linear/triton_four_bit.py`.")
    return lines


def pairs(records: list[Record]) -> list[str]:
    """Return the kernels that are measured beside plain torch."""
    rows = []
    for each in records:
        (_, ours), (_, peer) = each["microseconds"].items()
        rows.append([each["name"], str(ours), str(peer), f"{peer / ours:.1f}"])
    return ["", *table(["kernel", "ours, µs", "torch, µs", "ratio"], rows)] if rows else []


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(cells) + " |" for cells in lines]


if __name__ == "__main__":
    main()
