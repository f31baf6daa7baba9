"""Documents say what the code says."""

import re
import runpy
from pathlib import Path

from typer.testing import CliRunner

from adapterhub.cli.main import build_app
from adapterhub.training.recipe_file import load_recipe

ROOT = Path(__file__).parents[1]


def test_the_page_of_recipe_keys_is_up_to_date():
    module = runpy.run_path(str(ROOT / "docs" / "make_recipes.py"))
    written = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
    assert written == module["page"](), "run: python docs/make_recipes.py"


def test_links_of_the_documents_lead_somewhere():
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
            if not target.startswith("http"):
                assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_commands_in_the_readme_exist():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    named = set(re.findall(r"^\$ adapterhub (\w+)", text, flags=re.MULTILINE))
    assert named
    for name in named:
        assert CliRunner().invoke(build_app(), [name, "--help"]).exit_code == 0, name


def test_the_recipe_in_the_readme_is_valid(tmp_path):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (recipe,) = re.findall(r"<<'RECIPE'\n(.*?)\nRECIPE", text, flags=re.DOTALL)
    path = tmp_path / "mood.yaml"
    path.write_text(recipe)
    assert load_recipe(path).task.name == "text-classification"
