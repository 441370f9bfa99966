"""The code blocks of the README and of the documentation run."""

import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
FIRST_SCREEN = 60  # lines


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


def pages():
    """The README and every page of the documentation that has Python blocks."""
    texts = [README, *(p for p in sorted(ROOT.glob("docs/**/*.md")) if "_build" not in p.parts)]
    return [path for path in texts if blocks(path.read_text("utf-8"), "python")]


@pytest.mark.filterwarnings("ignore:FigureCanvasAgg is non-interactive:UserWarning")
@pytest.mark.parametrize("path", pages(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_documentation_blocks_run_in_order_without_warnings(path, tmp_path, monkeypatch):
    program = tmp_path / f"{path.name}.py"  # a traceback names the lines of the page
    program.write_text(script(path.read_text("utf-8")), encoding="utf-8")
    monkeypatch.setenv("MPLBACKEND", "Agg")
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(program), run_name="__main__")


def test_readme_first_screen_has_quickstart_and_tests_pinned_in_their_own_venvs():
    commands = [
        code for line, code in blocks(README.read_text("utf-8"), "bash") if line <= FIRST_SCREEN
    ]
    assert ["examples/plot_quickstart.py" in commands[0], "pytest" in commands[1]] == [True, True]
    venvs = [re.search(r"-m venv (\S+)", command).group(1) for command in commands]
    assert len(set(venvs)) == len(commands) == 2
    for command, venv in zip(commands, venvs, strict=True):
        assert f"{venv}/bin/pip install -c constraints.txt" in command
        assert f"{venv}/bin/python " in command


def test_readme_has_one_bash_block_that_runs_pytest():
    # .ci/run takes its test command from this block.
    assert sum("pytest" in code for _, code in blocks(README.read_text("utf-8"), "bash")) == 1
