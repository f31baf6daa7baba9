"""``eval``, ``compare`` and ``bias-audit``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from adapterhub.cli.console import (
    difference_cells,
    output,
    print_json,
    say,
    silence_libraries,
    table,
)
from adapterhub.cli.options import (
    ConfidenceLevel,
    DataFile,
    Device,
    Fields,
    Force,
    Json,
    Limit,
    Ref,
    check_adapters,
    complete_ref,
    field_columns,
    open_registry,
)

if TYPE_CHECKING:
    from adapterhub.workflows.bias_audit import AdapterAudit
    from adapterhub.workflows.compare import Comparison


def evaluate(
    ref: Ref,
    data: DataFile,
    fields: Fields = None,
    limit: Limit = None,
    generate: Annotated[
        int, typer.Option(min=0, help="Number of answers to generate and score.")
    ] = 0,
    as_json: Json = False,
    force: Force = False,
    device: Device = None,
) -> None:
    """Evaluate an adapter and the base model on a file."""
    silence_libraries(compiler=False)
    columns = field_columns(fields)
    check_adapters(ref, data=data, fields=columns, limit=limit)
    from adapterhub.workflows.open_adapter import open_adapter
    from adapterhub.workflows.score import score_with_base
    from adapterhub.workflows.stored_examples import examples_for

    loaded, version = open_adapter(open_registry(), ref, force=force, device=device)
    examples = examples_for(loaded.manifest, data, fields=columns, limit=limit)
    scores = score_with_base(loaded, examples, generate=generate)
    if as_json:
        document = {"ref": str(version.ref), "data": data.name, "num_examples": len(examples)}
        print_json({**document, **asdict(scores)})
        return
    shown = table(f"{data.name}, {len(examples)} examples", ">base model", f">{version.ref}")
    for name, value in scores.adapter.items():
        shown.add_row(name, f"{scores.base[name]:.4f}", f"{value:.4f}")
    output().print(shown)
    for name, signature in scores.signatures.items():
        say(f"{name}: {signature}")


def compare(
    first: Annotated[
        str,
        typer.Argument(metavar="A", help="First adapter.", autocompletion=complete_ref),
    ],
    second: Annotated[
        str,
        typer.Argument(
            metavar="B", help="Second adapter, for the same task.", autocompletion=complete_ref
        ),
    ],
    data: DataFile,
    metric: Annotated[
        str | None, typer.Option(help="Metric that decides; the task's default metric.")
    ] = None,
    fields: Fields = None,
    limit: Limit = None,
    resamples: Annotated[int, typer.Option(min=100, help="Number of bootstrap resamples.")] = 2000,
    confidence_level: ConfidenceLevel = 0.95,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the bootstrap.")] = 0,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Compare two adapters with paired significance tests."""
    silence_libraries(compiler=False)
    columns = field_columns(fields)
    check_adapters(first, second, data=data, fields=columns, limit=limit)
    from adapterhub.workflows.compare import compare as run_comparison

    found = run_comparison(
        open_registry(),
        first,
        second,
        data,
        metric=metric,
        fields=columns,
        limit=limit,
        resamples=resamples,
        level=confidence_level,
        seed=seed,
        device=device,
    )
    if as_json:
        print_json(_comparison_document(found))
    else:
        _show_comparison(found)


def bias_audit(
    ref: Ref,
    data: Annotated[
        Path | None, typer.Option(help="File of examples for the counterfactual tests.")
    ] = None,
    fields: Fields = None,
    limit: Limit = None,
    max_seconds: Annotated[float, typer.Option(min=1, help="Time limit in seconds.")] = 300,
    confidence_level: ConfidenceLevel = 0.95,
    as_json: Json = False,
    force: Force = False,
    device: Device = None,
) -> None:
    """Audit bias and harmful output against the base model."""
    silence_libraries(compiler=False)
    columns = field_columns(fields)
    # the task says whether it can be audited on a file
    check_adapters(ref)
    from adapterhub.workflows.bias_audit import audit_adapter

    found = audit_adapter(
        open_registry(),
        ref,
        path=data,
        fields=columns,
        limit=limit,
        seconds=max_seconds,
        level=confidence_level,
        force=force,
        device=device,
    )
    if as_json:
        print_json(asdict(found))
    else:
        _show_audit(found)


def _comparison_document(found: Comparison) -> dict[str, Any]:
    document = asdict(found)
    for each, record in zip(found.differences, document["differences"], strict=True):
        record["difference"] = each.value
    return {**document, "significant": found.significant, "better": found.better}


def _show_comparison(found: Comparison) -> None:
    console = output()
    shown = table(
        f"{found.num_examples} examples",
        f">{found.first}",
        f">{found.second}",
        ">difference",
        f">{found.level:.0%} interval",
        ">p",
        "test",
    )
    for each in found.differences:
        shown.add_row(*difference_cells(each), each.test)
    console.print(shown)
    if found.mcnemar is not None:
        counts = found.mcnemar
        console.print(
            f"\ncorrect: both {counts.both}, only {found.first} {counts.first_only}, "
            f"only {found.second} {counts.second_only}, neither {counts.neither}; "
            f"exact McNemar test p = {counts.p_value:.3g}"
        )
    if found.better is None:
        console.print(f"\nno significant difference in {found.metric}")
    else:
        console.print(f"\n{found.better} has the better {found.metric}")


def _show_audit(probed: AdapterAudit) -> None:
    from adapterhub.evaluation.bias_audit.results import notes, table_columns, table_rows

    found = probed.found
    shown = table(*table_columns(found))
    for cells in table_rows(found):
        shown.add_row(*cells)
    console = output()
    console.print(shown)
    for note in notes(found):
        console.print(f"\n{note.text}", markup=False)
