"""The API reference is complete and no text is hidden; ``tox -e docs`` builds the documentation."""

import re
from pathlib import Path

import sklearn_clidmu

ROOT = Path(__file__).resolve().parents[1]
API = ROOT / "docs" / "api.rst"
FENCED = re.compile(r"^([ \t]*)(```+).*?^\1\2[ \t]*$", re.MULTILINE | re.DOTALL)


def test_api_reference_lists_every_public_name_once():
    listed = re.findall(r"^   ([\w.]+)$", API.read_text("utf-8"), re.MULTILINE)
    assert len(listed) == len(set(listed))
    assert {*sklearn_clidmu.__all__, "datasets.make_label_noise"} <= set(listed)


def test_no_line_begins_with_a_percent_sign():
    for path in [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))]:
        text = FENCED.sub("", path.read_text("utf-8"))
        hidden = re.findall(r"^[ \t]*%.*$", text, re.MULTILINE)
        assert not hidden, f"{path.name}: MyST takes these lines for comments: {hidden}"
