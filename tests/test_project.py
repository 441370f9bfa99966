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

# From the inside out: a unit imports units of inner rings alone. The public __init__ is outermost.
RINGS = [
    {"_settings", "_random", "_validation", "_torch_state", "_pipelines"},
    {"clid", "_scaling"},
    {"noise"},
    {"training"},
    {"_cross_val_scores", "_persistence", "_review", "_review_page"},
    {"label_issues"},
    {"_classifier"},
    {"metrics", "plotting", "_onnx", "datasets"},
]
LEVELS = {unit: level for level, ring in enumerate(RINGS) for unit in ring}

# What the inner units may import of other projects.
LIBRARIES = {
    "_settings": {"torch", "sklearn"},
    "clid": {"torch"},
    "noise": {"numpy", "sklearn", "torch"},
    "training": {"numpy", "sklearn", "skorch", "torch", "tqdm"},
}
OPTIONAL = {"matplotlib", "onnx", "onnxscript", "pandas", "tqdm"}


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


def test_metadata_read_the_version_from_the_package(metadata):
    assert "version" not in metadata["project"]
    assert metadata["project"]["dynamic"] == ["version"]
    assert metadata["tool"]["hatch"]["version"]["path"] == f"{PACKAGE}/__init__.py"


def test_version_is_in_no_other_file(texts):
    version = re.compile(rf"(?<![\d.]){re.escape(package_version())}(?![\w.])")
    holders = {path for path, text in texts.items() if version.search(text)}
    # The changelog heads its entries with versions; pins are versions of other projects.
    allowed = {"CHANGELOG.md", "constraints.txt", "constraints-min.txt"}
    assert holders - allowed == {f"{PACKAGE}/__init__.py"}


def test_changelog_begins_with_the_version_and_the_date_of_its_release():
    headings = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    version = re.escape(package_version())
    date = "" if ".dev" in version else r" \(\d{4}-\d{2}-\d{2}\)"
    assert re.fullmatch(version + date, headings[0])


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


def test_lower_bounds_are_the_versions_of_the_min_environment(metadata):
    project = metadata["project"]
    extras = project["optional-dependencies"]
    tested = [line for name in extras if name not in ("bench", "docs") for line in extras[name]]
    declared = [*project["dependencies"], *tested]
    lowest = {r.name: str(r.specifier).removeprefix(">=") for r in map(Requirement, declared)}
    installed = {r.name: str(r.specifier).removeprefix("==") for r in pins("constraints-min.txt")}
    del lowest["torch"]  # the exception that constraints-min.txt explains
    assert lowest == {name: installed.get(name) for name in lowest}


def test_ruff_version_is_in_constraints_alone(texts):
    [pin] = [r for r in pins("constraints.txt") if r.name == "ruff"]
    version = re.escape(str(pin.specifier).removeprefix("=="))
    named = re.compile(rf"(?<![\d.]){version}(?![\w.])|\bruff *[=<>~!]=? *\d|required-version")
    own = Path(__file__).relative_to(ROOT).as_posix()
    holders = {path for path, text in texts.items() if path != own and named.search(text)}
    assert holders == {"constraints.txt"}


def test_workflows_install_through_the_pins(texts):
    workflows = [text for path, text in texts.items() if path.startswith(".github/workflows/")]
    installs = re.findall(r"pip install .*", "\n".join(workflows))
    assert installs
    assert all(line.startswith("pip install -c constraints.txt ") for line in installs)


# The rings


def imported_modules(source, module, is_package):
    """Yield ``(line, dotted name, inside a function)`` for every import in a module's source.

    Imports under ``TYPE_CHECKING`` count as well. Of ``from sklearn_clidmu import b``, the name is
    ``sklearn_clidmu.b``; of any other ``from a import b`` it is ``a``.
    """
    package = module if is_package else module.rpartition(".")[0]
    tree = ast.parse(source)
    functions = [n for n in ast.walk(tree) if isinstance(n, (ast.FunctionDef, ast.Lambda))]
    inside = {id(node) for function in functions for node in ast.walk(function)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name, id(node) in inside
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")
                parents = parents[: len(parents) - node.level + 1]
                base = ".".join([*parents, base] if base else parents)
            for alias in node.names:
                name = f"{base}.{alias.name}" if base == PACKAGE else base
                yield node.lineno, name, id(node) in inside


def forbidden_imports(source, module, is_package=False):
    """The imports by which a module leaves its ring, as readable lines."""
    unit = module.split(".")[1]
    problems = []
    for line, name, in_function in imported_modules(source, module, is_package):
        top, *rest = name.split(".")
        if top == PACKAGE:
            other = rest[0] if rest else ""
            inward = other == unit or LEVELS.get(other, len(RINGS)) < LEVELS[unit]
            allowed = inward and not in_function
        else:
            allowed = top in STDLIB or top in LIBRARIES.get(unit, {top})
            allowed = allowed and (not in_function or top in OPTIONAL)
        if not allowed:
            problems.append(f"{module}, line {line}: imports {name}")
    return problems


def test_rings_name_every_unit_of_the_package():
    paths = [path for path in (ROOT / PACKAGE).iterdir() if path.suffix in ("", ".py")]
    units = {path.stem for path in paths if path.suffix or (path / "__init__.py").exists()}
    assert units - {"__init__"} == set(LEVELS)


@pytest.mark.parametrize("unit", sorted(LEVELS))
def test_rings_import_inwards_only(unit):
    folder = ROOT / PACKAGE
    problems = []
    for path in [*folder.glob(f"{unit}.py"), *folder.joinpath(unit).rglob("*.py")]:
        is_package = path.name == "__init__.py"
        dotted = (path.parent if is_package else path.with_suffix("")).relative_to(ROOT)
        source = path.read_text(encoding="utf-8")
        problems += forbidden_imports(source, ".".join(dotted.parts), is_package)
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize(
    ("statement", "module"),
    [
        ("import numpy", "clid.objective"),
        ("import skorch.utils", "noise.loo_kernel_ridge"),
        ("import torchvision", "training.net"),
        ("from sklearn_clidmu.clid import weighted", "_settings"),
        ("from sklearn_clidmu import CLIDMUClassifier", "metrics"),
        ("from sklearn_clidmu.training import net", "noise.loo_kernel_ridge"),
        ("from .. import training", "clid.objective"),
        ("from .._classifier import CLIDMUClassifier", "training.stages"),
        ("from sklearn_clidmu import _classifier", "label_issues"),
        ("from sklearn_clidmu.label_issues import find_label_issues", "_persistence"),
        ("from sklearn_clidmu.metrics import clid_score", "_classifier"),
        ("def f():\n    from sklearn_clidmu import _settings", "_classifier"),
        ("def f():\n    import scipy", "_classifier"),
        ("if TYPE_CHECKING:\n    from numpy.typing import NDArray", "clid.objective"),
    ],
)
def test_ring_check_sees_an_outward_import(statement, module):
    [problem] = forbidden_imports(statement, f"{PACKAGE}.{module}")
    assert f"{PACKAGE}.{module}, line {statement.count(chr(10)) + 1}: imports" in problem


def test_ring_check_lets_inward_imports_pass():
    source = """
from __future__ import annotations
import math, tqdm, numpy as np, torch.nn.functional as F
from collections.abc import Callable
from skorch import NeuralNet
from . import data
from .data import Table
from .. import clid
from ..clid.objective import clid_loss
from sklearn_clidmu.noise import loo_kernel_ridge
from sklearn_clidmu._settings import Settings
def bar():
    import tqdm
"""
    assert forbidden_imports(source, f"{PACKAGE}.training.net") == []
    inward = "from . import objective\nfrom .objective import loss"
    assert forbidden_imports(inward, f"{PACKAGE}.clid", is_package=True) == []


# Importing the package


def test_import_is_quiet_and_leaves_optional_packages_alone(tmp_path):
    code = f"""
import sys
# scikit-learn itself looks for pandas where there is one. With None in its place, an import
# by anyone who cannot do without fails.
sys.modules.update(pandas=None, polars=None, onnx=None, skops=None)
import {PACKAGE}
unwanted = {{"matplotlib", "IPython", "tqdm.auto", "tqdm.autonotebook", "tqdm.notebook"}}
print(*sorted(unwanted & set(sys.modules)), end="")
"""
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
