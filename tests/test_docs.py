"""The API reference is complete; ``tox -e docs`` builds the documentation."""

import re
from pathlib import Path

import sklearn_clidmu

API = Path(__file__).resolve().parents[1] / "docs" / "api.rst"


def test_api_reference_lists_every_public_name_once():
    listed = re.findall(r"^   ([\w.]+)$", API.read_text("utf-8"), re.MULTILINE)
    assert len(listed) == len(set(listed))
    assert {*sklearn_clidmu.__all__, "datasets.make_label_noise"} <= set(listed)
