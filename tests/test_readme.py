"""What the README and the documentation show works as written."""

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
FIRST_SCREEN = 60  # lines

# Under Agg, `plt.show()` complains on a machine with a display, and only there.
WARNINGS = ["-W", "error", "-W", "ignore:FigureCanvasAgg is non-interactive:UserWarning"]


def blocks(text, language):
    """The code blocks fenced as exactly this language, as ``(line of the fence, code)``."""
    fenced = re.compile(rf"^```{language}[ \t]*\n(.*?)^```[ \t]*$", re.MULTILINE | re.DOTALL)
    return [(text.count("\n", 0, m.start()) + 1, m.group(1)) for m in fenced.finditer(text)]


def script(text):
    """The Python blocks as one program, in which every line keeps its number in the text."""
    lines = [""] * (text.count("\n") + 1)
    for fence, code in blocks(text, "python"):
        code_lines = code.splitlines()
        lines[fence : fence + len(code_lines)] = code_lines
    return "\n".join(lines)


def documents():
    """The README, present or not, and every page of documentation with Python in it."""
    pages = [p for p in sorted(ROOT.glob("docs/**/*.md")) if "_build" not in p.parts]
    return [README, *(p for p in pages if blocks(p.read_text(encoding="utf-8"), "python"))]


@pytest.fixture(scope="module")
def readme():
    assert README.exists(), "README.md is missing"
    return README.read_text(encoding="utf-8")


def test_blocks_keep_their_order_and_line_numbers():
    text = "# T\n```python\na = 1\n```\n```bash\nls\n```\n```python no-run\nx\n```\n"
    text += "```python\nb = a\n```"
    assert blocks(text, "python") == [(2, "a = 1\n"), (11, "b = a\n")]
    program = script(text).split("\n")
    assert {number: line for number, line in enumerate(program, 1) if line} == {
        3: "a = 1",
        12: "b = a",
    }


@pytest.mark.filterwarnings("ignore:FigureCanvasAgg is non-interactive:UserWarning")
@pytest.mark.parametrize("path", documents(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_python_blocks_run_in_order_without_warnings(path, tmp_path, monkeypatch):
    assert path.exists(), f"{path.name} is missing"
    text = path.read_text(encoding="utf-8")
    assert blocks(text, "python"), f"{path.name} has no python block"
    program = tmp_path / f"{path.name}.py"
    program.write_text(script(text), encoding="utf-8")
    if path != README:  # a fresh namespace is enough; the traceback names the document's lines
        monkeypatch.setenv("MPLBACKEND", "Agg")
        monkeypatch.chdir(tmp_path)
        runpy.run_path(str(program), run_name="__main__")
        return
    # An interpreter of its own, as its reader has.
    done = subprocess.run(
        [sys.executable, *WARNINGS, str(program)],
        cwd=tmp_path,
        env={**os.environ, "MPLBACKEND": "Agg"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_first_screen_has_quickstart_and_tests_each_pinned_in_a_venv_of_its_own(readme):
    commands = [code for line, code in blocks(readme, "bash") if line <= FIRST_SCREEN]
    assert len(commands) == 2
    assert all("-c constraints.txt" in command for command in commands)
    made = [re.findall(r"-m venv (\S+)", command) for command in commands]
    assert all(len(venvs) == 1 for venvs in made)
    assert made[0] != made[1]
    for command, [venv] in zip(commands, made, strict=True):
        assert f"{venv}/bin/pip install" in command
        assert f"{venv}/bin/python " in command


def test_one_bash_block_runs_pytest(readme):
    # .ci/run takes its test command from there.
    assert sum("pytest" in code for _, code in blocks(readme, "bash")) == 1
