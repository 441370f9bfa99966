"""The examples have the form that the gallery needs; running them is ``tox -e examples``."""

import ast
import re
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).resolve().parents[1] / "examples").glob("*.py"))

every_example = pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)


def title(path):
    """First line of the docstring, and the line under it."""
    return ast.get_docstring(ast.parse(path.read_text("utf-8"))).split("\n")[:2]


def test_at_least_ten_examples_with_titles_that_differ():
    assert len({title(path)[0] for path in EXAMPLES}) == len(EXAMPLES) >= 10


@every_example
def test_an_example_is_found_and_titled_by_the_gallery(path):
    text, underline = title(path)
    assert path.stem.startswith("plot_")
    assert text
    assert underline == "=" * len(text)


@every_example
def test_an_example_is_told_in_cells_that_open_with_prose(path):
    cells = path.read_text("utf-8").split("\n# %%\n")[1:]
    assert cells
    assert all(cell.startswith("# ") for cell in cells)


@every_example
def test_headings_within_an_example_are_underlined_in_full(path):
    headings = re.findall(r"^# (.+)\n# (-{3,})$", path.read_text("utf-8"), re.MULTILINE)
    assert all(len(text) == len(underline) for text, underline in headings)


@every_example
def test_an_example_downloads_nothing(path):
    assert not re.search(r"\bfetch_\w+|urlopen|requests", path.read_text("utf-8"))


@every_example
def test_an_example_names_every_figure_that_it_leaves(path):
    text = path.read_text("utf-8")
    saved = re.findall(r'savefig\("([^"]+)"', text)
    assert saved
    assert saved == re.findall(r'print\("figure: ([^"]+)"\)', text)


def test_no_two_examples_leave_a_figure_of_the_same_name():
    saved = [
        name
        for path in EXAMPLES
        for name in re.findall(r'savefig\("([^"]+)"', path.read_text("utf-8"))
    ]
    assert len(saved) == len(set(saved))
