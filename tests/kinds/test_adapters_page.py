"""The tables of docs/adapters.md are those that the conformance suite would write."""

from run_kinds import PAGE, case_rows, method_rows, section


def test_the_page_lists_the_methods_of_the_code():
    found = section(PAGE.read_text(), "methods").strip().splitlines()
    assert found == method_rows(), "run: python tests/kinds/run_kinds.py"


def test_the_page_lists_the_adapters_and_outcomes_of_the_suite():
    found = section(PAGE.read_text(), "adapters").strip().splitlines()
    cells = [[cell.strip() for cell in row.split("|")[1:-1]] for row in found]
    results = {name: (measured, shown) for name, _, _, measured, shown in cells[2:]}
    assert found == case_rows(results), "run: python tests/kinds/run_kinds.py"
    served = [row for row in cells[2:] if row[2] != "refused"]
    assert all(float(row[4]) < 1e-2 for row in served)
