"""Write the tables of ``docs/adapters.md`` from a run of the conformance suite of adapter kinds.

``python tests/kinds/run_kinds.py`` takes a minute or two. ``tests/kinds/test_adapters_page.py``
checks that the methods, adapters and outcomes on the page are those of the code.
"""

import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parents[1])]

PAGE = HERE.parents[1] / "docs" / "adapters.md"


def method_rows() -> list[str]:
    """Return the rows of the table of peft's methods."""
    from adapterhub.adapters.peft_kinds import PEFT_KINDS

    rows = ["| peft's method | treatment | |", "|---|---|---|"]
    order = {"served": 0, "converted": 1, "refused": 2}
    for kind, support in sorted(PEFT_KINDS.items(), key=lambda x: (order[x[1].treatment], x[0])):
        text = support.reason
        if support.treatment == "converted":
            text = f"to {text}"
        if support.treatment == "refused":
            text = f"{text[0].upper()}{text[1:]}. {support.way_out}."
        rows.append(f"| `{kind}` | {support.treatment} | {text} |")
    return rows


def case_rows(results: dict[str, tuple[str, str]]) -> list[str]:
    """Return the rows of the table of adapters.

    Args:
        results: Name of a case to what a conversion measured, and the difference when served.
    """
    from kind_cases import CASES

    rows = [
        "| adapter | backbone | outcome | rank, relative error | difference when served |",
        "|---|---|---|---|---:|",
    ]
    for case in CASES.values():
        outcome = "refused" if case.refused else case.outcome
        measured, difference = results[case.name]
        rows.append(f"| {case.name} | {case.backbone} | {outcome} | {measured} | {difference} |")
    return rows


def section(text: str, name: str) -> str:
    """Return the part of a page between two markers."""
    return text.partition(f"<!-- begin: {name} -->\n")[2].partition(f"<!-- end: {name} -->")[0]


def with_section(text: str, name: str, rows: list[str]) -> str:
    """Return a page with another part between two markers."""
    begin = f"<!-- begin: {name} -->\n"
    before, _, rest = text.partition(begin)
    _, end, after = rest.partition(f"<!-- end: {name} -->")
    body = "\n".join(rows)
    return f"{before}{begin}\n{body}\n\n{end}{after}"


def run(folder: Path) -> dict[str, tuple[str, str]]:
    """Make, import and serve every adapter, and return what was measured."""
    from kind_cases import BACKBONES, CASES, import_case, peft_model, save_adapter, save_backbone
    from kind_serving import SIZES, served_differences

    from adapterhub.adapters.artifact import read_artifact
    from adapterhub.backbones.backbone import load_backbone
    from adapterhub.engine.engine import Engine
    from adapterhub.specs import QuantizationSpec

    results = {case.name: ("", "") for case in CASES.values()}
    for backbone in BACKBONES:
        stored = save_backbone(backbone, folder / backbone)
        engine = Engine(load_backbone(str(stored), QuantizationSpec("none", "float32")), SIZES)
        served = {}
        for number, case in enumerate(CASES.values()):
            if case.backbone != backbone or case.refused:
                continue
            theirs = save_adapter(case, stored, folder / f"{number}-theirs")
            import_case(case, stored, theirs, folder / f"{number}-ours")
            artifact = read_artifact(folder / f"{number}-ours")
            conversion = artifact.manifest.conversion
            if conversion is not None and conversion.rank:
                results[case.name] = (f"{conversion.rank}, {conversion.relative_error:.0e}", "")
            elif conversion is not None:
                results[case.name] = ("exact", "")
            engine.load(artifact, name=case.name)
            served[case.name] = (case, peft_model(case, stored, theirs))
        for name, worst in served_differences(engine, served, list(served)).items():
            shown = worst if isinstance(worst, str) else f"{worst:.0e}"
            results[name] = (results[name][0], shown)
        engine.close()
    return results


def main() -> None:
    """Run the suite and write the page."""
    with tempfile.TemporaryDirectory() as folder:
        results = run(Path(folder))
    text = PAGE.read_text()
    text = with_section(text, "methods", method_rows())
    PAGE.write_text(with_section(text, "adapters", case_rows(results)))


if __name__ == "__main__":
    main()
