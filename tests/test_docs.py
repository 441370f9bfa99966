"""What the documentation promises about itself; building it is another matter (``tox -e docs``)."""

import re
from pathlib import Path

import pytest

import sklearn_clidmu
from sklearn_clidmu import datasets

DOCS = Path(__file__).resolve().parents[1] / "docs"
GALLERY = "auto_examples/index"  # made by the build
EXAMPLE = re.compile(r"^   \.\./examples/(\w+)\.py$", re.MULTILINE)


def pages():
    """Every page that lies in the folder, by its name in a table of contents."""
    return {path.stem: path for suffix in ("md", "rst") for path in DOCS.glob(f"*.{suffix}")}


def entries(text):
    """What the tables of contents of a page name."""
    tables = re.findall(r"^```\{toctree\}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    lines = [line.strip() for table in tables for line in table.splitlines()]
    return [line for line in lines if line and not line.startswith(":")]


def links(text):
    """Files that a Markdown page refers to, without web addresses and places on the page."""
    found = re.findall(r"\]\(([^)#\s]+)", text) + re.findall(r"^:link: (\S+)", text, re.MULTILINE)
    return {link for link in found if ":" not in link}


def test_navigation_names_every_page_exactly_once():
    named = [name for path in pages().values() for name in entries(path.read_text("utf-8"))]
    assert sorted(named) == sorted({*pages(), GALLERY} - {"index"})


@pytest.mark.parametrize("name", sorted(pages()))
def test_links_between_pages_lead_somewhere(name):
    known = {*pages(), *(path.name for path in DOCS.iterdir()), GALLERY}
    assert links(pages()[name].read_text("utf-8")) <= known


def test_every_example_is_shown_on_a_page_of_the_guide():
    shown = {name for path in pages().values() for name in EXAMPLE.findall(path.read_text("utf-8"))}
    assert {path.stem for path in DOCS.parent.glob("examples/*.py")} <= shown


def test_the_api_reference_lists_every_public_name():
    reference = pages()["api"].read_text("utf-8")
    listed = re.findall(r"^   ([\w.]+)$", reference, re.MULTILINE)
    promised = {*sklearn_clidmu.__all__, *(f"datasets.{name}" for name in public(datasets))}
    assert promised <= set(listed)
    assert len(listed) == len(set(listed))


def public(module):
    """Functions and classes that a module defines for others to use."""
    return {
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", None) == module.__name__
    }
