"""The examples use the public API; ``tox -e examples`` runs them."""

import ast
import inspect
from pathlib import Path

import pytest

import sklearn_clidmu

EXAMPLES = sorted((Path(__file__).resolve().parents[1] / "examples").glob("*.py"))
PUBLIC = {
    "sklearn_clidmu": {*sklearn_clidmu.__all__},
    "sklearn_clidmu.datasets": {"make_label_noise"},
}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_uses_public_names_and_known_parameters(path):
    imported = {}
    calls = []
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("sklearn_clidmu"):
            imported.setdefault(node.module, set()).update(name.name for name in node.names)
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") == "CLIDMUClassifier":
            calls += [keyword.arg for keyword in node.keywords if keyword.arg]
    assert imported
    assert all(names <= PUBLIC.get(module, set()) for module, names in imported.items())
    assert {*calls} <= {*inspect.signature(sklearn_clidmu.CLIDMUClassifier).parameters}
