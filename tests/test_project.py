"""What the project promises about itself: one version, few dependencies, rings that hold."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pytest brings it along on Python 3.10

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "sklearn_clidmu"
STDLIB = sys.stdlib_module_names

P = PACKAGE
SETTINGS = {f"{P}._settings", "torch", "sklearn"}

# What each ring may import, by dotted prefix; the classifier and what reads a fitted one are free.
RINGS = {
    f"{P}._settings": {"torch", "sklearn"},
    f"{P}._random": {"numpy", "torch", "sklearn"},
    f"{P}._validation": {"numpy", "torch", "sklearn", "scipy"},
    f"{P}.clid": {"torch", f"{P}.clid"},
    f"{P}.noise": {"numpy", *SETTINGS, f"{P}.clid", f"{P}.noise"},
    f"{P}.training": {
        *("numpy", "skorch", "tqdm"),
        *(*SETTINGS, f"{P}.clid", f"{P}.noise", f"{P}.training"),
    },
}


@pytest.fixture(scope="module")
def metadata():
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def texts():
    """The project's own text files, as ``{relative path: text}``."""
    suffixes = {"", ".cff", ".cfg", ".ini", ".md", ".py", ".rst", ".toml", ".txt", ".yaml", ".yml"}
    found = {}
    for folder, subfolders, files in os.walk(ROOT):
        subfolders[:] = [
            name
            for name in subfolders
            if (not name.startswith(".") or name in {".ci", ".github"})
            and name not in {"__pycache__", "_build", "build", "dist", "mutants"}
            and not name.endswith(".egg-info")
            and not Path(folder, name, "pyvenv.cfg").exists()
        ]
        for name in files:
            path = Path(folder, name)
            if path.suffix in suffixes and name != ".git":  # a file in linked worktrees
                relative = path.relative_to(ROOT).as_posix()
                found[relative] = path.read_text(encoding="utf-8", errors="replace")
    return found


def pins(name):
    """The requirements in a constraints file."""
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


# One version


def package_version():
    tree = ast.parse((ROOT / PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    versions = [
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__version__"
    ]
    assert len(versions) == 1, f"{PACKAGE}/__init__.py must assign __version__ exactly once"
    return versions[0]


def test_the_metadata_read_the_version_from_the_package(metadata):
    assert "version" not in metadata["project"]
    assert metadata["project"]["dynamic"] == ["version"]
    assert metadata["tool"]["hatch"]["version"]["path"] == f"{PACKAGE}/__init__.py"


def test_no_other_file_repeats_the_version(texts):
    version = re.compile(rf"(?<![\d.]){re.escape(package_version())}(?![\w.])")
    holders = {path for path, text in texts.items() if version.search(text)}
    # The changelog heads its entries with versions; pins are versions of other projects.
    allowed = {"CHANGELOG.md", "constraints.txt", "constraints-min.txt"}
    assert holders - allowed == {f"{PACKAGE}/__init__.py"}


# Dependencies and pins


def test_runtime_dependencies_are_exactly_five(metadata):
    names = {Requirement(line).name for line in metadata["project"]["dependencies"]}
    assert names == {"joblib", "numpy", "scikit-learn", "skorch", "torch"}


@pytest.mark.parametrize("name", ["constraints.txt", "constraints-min.txt"])
def test_constraints_pin_exact_versions_and_torch_among_them(name):
    requirements = pins(name)
    loose = [str(r) for r in requirements if not re.fullmatch(r"==[^*,]+", str(r.specifier))]
    assert loose == []
    assert "torch" in {r.name for r in requirements}


def test_lowest_versions_are_the_ones_that_the_min_environment_installs(metadata):
    project = metadata["project"]
    extras = project["optional-dependencies"]
    tested = [line for name in ("onnx", "plot", "test") for line in extras[name]]
    declared = [*project["dependencies"], *tested]
    lowest = {r.name: str(r.specifier).removeprefix(">=") for r in map(Requirement, declared)}
    installed = {r.name: str(r.specifier).removeprefix("==") for r in pins("constraints-min.txt")}
    del lowest["torch"]  # the exception that constraints-min.txt explains
    assert lowest == {name: installed.get(name) for name in lowest}


def test_ruff_version_is_named_in_constraints_alone(texts):
    [pin] = [r for r in pins("constraints.txt") if r.name == "ruff"]
    version = re.escape(str(pin.specifier).removeprefix("=="))
    named = re.compile(rf"(?<![\d.]){version}(?![\w.])|\bruff *[=<>~!]=? *\d|required-version")
    own = Path(__file__).relative_to(ROOT).as_posix()
    holders = {path for path, text in texts.items() if path != own and named.search(text)}
    assert holders == {"constraints.txt"}


# The rings


def imported_modules(source, module, is_package):
    """Yield ``(line, dotted names)`` for every import in the source of a module.

    Imports inside functions and under ``TYPE_CHECKING`` count as well. ``from a import b`` may
    mean the module ``a.b`` or a name in ``a``, so it yields both ``a`` and ``a.b``.
    """
    package = module if is_package else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, [alias.name]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")
                parents = parents[: len(parents) - node.level + 1]
                base = ".".join([*parents, base] if base else parents)
            for alias in node.names:
                yield node.lineno, [base, f"{base}.{alias.name}"]


def forbidden_imports(source, module, is_package=False):
    """The imports by which a module reaches outwards of its ring, as readable lines."""
    [allowed] = [
        prefixes for ring, prefixes in RINGS.items() if f"{module}.".startswith(f"{ring}.")
    ]
    return [
        f"{module}, line {line}: imports {names[-1]}, outside {sorted(allowed)}"
        for line, names in imported_modules(source, module, is_package)
        if names[0].partition(".")[0] not in STDLIB
        and not any(f"{name}.".startswith(f"{prefix}.") for name in names for prefix in allowed)
    ]


@pytest.mark.parametrize("ring", RINGS)
def test_rings_import_inwards_only(ring):
    folder = ROOT.joinpath(*ring.split("."))
    paths = sorted([*folder.rglob("*.py"), *folder.parent.glob(f"{folder.name}.py")])
    assert paths, f"there is no {ring}"
    problems = []
    for path in paths:
        is_package = path.name == "__init__.py"
        dotted = (path.parent if is_package else path.with_suffix("")).relative_to(ROOT)
        source = path.read_text(encoding="utf-8")
        problems += forbidden_imports(source, ".".join(dotted.parts), is_package)
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize(
    "statement",
    [
        "import numpy",
        "import skorch.utils",
        "import torchvision",
        "from sklearn.base import clone",
        "from sklearn_clidmu import CLIDMUClassifier",
        "from sklearn_clidmu.training import loop",
        "from .. import training",
        "from .._classifier import CLIDMUClassifier",
        "def f():\n    import numpy as np",
        "if TYPE_CHECKING:\n    from numpy.typing import NDArray",
    ],
)
def test_ring_check_sees_an_outward_import(statement):
    [problem] = forbidden_imports(statement, f"{PACKAGE}.clid.clid")
    assert f"{PACKAGE}.clid.clid, line {statement.count(chr(10)) + 1}: imports" in problem


def test_ring_check_sees_training_reach_for_sklearn_or_the__classifier():
    source = (
        "import pandas\nfrom .._classifier import classifier\nimport sklearn_clidmu._classifier"
    )
    assert len(forbidden_imports(source, f"{PACKAGE}.training.loop")) == 3
    assert len(forbidden_imports("from .._classifier import x", f"{PACKAGE}.training", True)) == 1


def test_ring_check_lets_inward_imports_pass():
    source = """
from __future__ import annotations
import math, tqdm, numpy as np, torch.nn.functional as F
from collections.abc import Callable
from skorch import NeuralNet
from . import loop
from .loop import step
from .. import clid
from ..clid.clid import clid_loss
from sklearn_clidmu.clid import clid_loss
"""
    assert forbidden_imports(source, f"{PACKAGE}.training.net") == []
    inward = "from . import clid\nfrom .clid import loss"
    assert forbidden_imports(inward, f"{PACKAGE}.clid", is_package=True) == []


# Importing the package


def test_import_is_quiet_and_leaves_optional_packages_alone(tmp_path):
    code = f"""
import sys
# scikit-learn itself looks for pandas where there is one. With None in its place, an import
# by anyone who cannot do without fails.
sys.modules.update(pandas=None, polars=None, onnx=None, safetensors=None)
import {PACKAGE}
unwanted = {{"matplotlib", "IPython", "tqdm.auto", "tqdm.autonotebook", "tqdm.notebook"}}
print(*sorted(unwanted & set(sys.modules)), end="")
"""
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
