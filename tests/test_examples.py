"""The examples use names and parameters that exist; ``tox -e examples`` runs them."""

import ast
import importlib
import inspect
from pathlib import Path

import pytest

from sklearn_clidmu import CLIDMUClassifier

EXAMPLES = sorted((Path(__file__).resolve().parents[1] / "examples").glob("*.py"))
PARAMETERS = {*inspect.signature(CLIDMUClassifier).parameters}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_uses_existing_names_and_parameters(path):
    used = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("sklearn_clidmu"):
            module = importlib.import_module(node.module)
            assert all(hasattr(module, name.name) for name in node.names)
            used.update(name.name for name in node.names)
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") == "CLIDMUClassifier":
            assert {keyword.arg for keyword in node.keywords if keyword.arg} <= PARAMETERS
    assert used
