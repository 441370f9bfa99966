"""What a wheel and an sdist hold, and whether quickstart and README run on the wheel alone.

``python .ci/check_package.py DIST``, where DIST is a folder with one of each.
"""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from email.parser import Parser
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "sklearn_clidmu"
LARGEST = 2_000_000
"""Bytes that a file of the sdist may have."""

WANTED = {"LICENSE", "README.md", "CHANGELOG.md", "pyproject.toml", "constraints.txt", "tox.ini"}
"""Files that the sdist must have beside the package and its tests."""

DATA = {f"{PACKAGE}/py.typed", f"{PACKAGE}/review.html"}
"""Files of the package that are not Python."""

UNWANTED = {"_build", "auto_examples", "generated", "build", "dist", "__pycache__", "shared"}
"""Folders that must not be in the sdist."""


def main(dist: Path) -> None:
    """Check both, and say what was checked."""
    [wheel], [sdist] = dist.glob("*.whl"), dist.glob("*.tar.gz")
    version = check_wheel(wheel)
    print(f"wheel of version {version}: the package and nothing else")
    print(f"sdist: {check_sdist(sdist)} files, with the tests and without what is generated")
    run_examples(wheel, version)
    print("the quickstart and the README run on the wheel alone")


def sources(folder: str, pattern: str = "*.py") -> set[str]:
    """Paths of the source files in a folder."""
    return {path.relative_to(ROOT).as_posix() for path in (ROOT / folder).rglob(pattern)}


def expect_same(found: set[str], expected: set[str], where: str) -> None:
    """Exit unless both sets are the same."""
    if found != expected:
        sys.exit(
            f"{where}: missing {sorted(expected - found)}, too many {sorted(found - expected)}"
        )


def check_wheel(path: Path) -> str:
    """Compare the wheel with the source tree; its version."""
    with zipfile.ZipFile(path) as wheel:
        names = {name for name in wheel.namelist() if ".dist-info/" not in name}
        [metadata] = [name for name in wheel.namelist() if name.endswith("/METADATA")]
        said = Parser().parsestr(wheel.read(metadata).decode())
    expect_same(names, sources(PACKAGE) | DATA, path.name)
    source = (ROOT / PACKAGE / "__init__.py").read_text(encoding="utf-8")
    [version] = re.findall(r'^__version__ = "(.+)"$', source, re.MULTILINE)
    expect_same({said["Version"]}, {version}, "the version of the wheel")
    return version


def check_sdist(path: Path) -> int:
    """Look for what must and must not be in the sdist; the number of its files."""
    with tarfile.open(path) as sdist:
        sizes = {m.name.partition("/")[2]: m.size for m in sdist.getmembers() if m.isfile()}
    wanted = sources(PACKAGE) | sources("tests") | sources("tests/data", "*.*") | WANTED | DATA
    expect_same(wanted & sizes.keys(), wanted, path.name)
    unwanted = {name for name in sizes if UNWANTED & set(Path(name).parts)}
    unwanted |= {name for name, size in sizes.items() if size > LARGEST}
    expect_same(unwanted, set(), path.name)
    return len(sizes)


def run_examples(wheel: Path, version: str) -> None:
    """Run quickstart and README in a fresh environment, away from the source tree."""
    with tempfile.TemporaryDirectory() as folder:
        venv.create(f"{folder}/venv", with_pip=True)
        python = [f"{folder}/venv/{'Scripts' if os.name == 'nt' else 'bin'}/python", "-I"]
        pins = ROOT / "constraints.txt"
        install = [*python, "-m", "pip", "install", "--quiet", "-c", str(pins), f"{wheel}[plot]"]
        subprocess.run(install, check=True)
        shutil.copy(ROOT / "examples" / "plot_quickstart.py", folder)
        readme = (ROOT / "README.md").read_text(encoding="utf-8")
        blocks = re.findall(r"^```python\n(.*?)^```$", readme, re.MULTILINE | re.DOTALL)
        Path(folder, "readme.py").write_text("\n".join(blocks), encoding="utf-8")
        # An error of the import is one of the package; matplotlib's own warnings are not.
        code = f"import {PACKAGE}; assert {PACKAGE}.__version__ == {version!r}"
        code += f"; assert 'site-packages' in {PACKAGE}.__file__"
        subprocess.run([*python, "-W", "error", "-c", code], check=True, cwd=folder)
        environment = {**os.environ, "MPLBACKEND": "Agg"}
        for program in ("plot_quickstart.py", "readme.py"):
            subprocess.run([*python, program], check=True, cwd=folder, env=environment)


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
