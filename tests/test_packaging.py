"""The installed package: public names, annotations, docstrings and metadata."""

import inspect
from importlib import metadata
from importlib.resources import files

import pytest

import sklearn_clidmu
from sklearn_clidmu import datasets, plotting
from sklearn_clidmu.label_issues import LabelIssues

PUBLIC = {name: getattr(sklearn_clidmu, name) for name in sklearn_clidmu.__all__}


def own_callables():
    """Every public function and method that this package defines, by its dotted name."""
    yield "datasets.make_label_noise", datasets.make_label_noise
    yield "LabelIssues.to_frame", LabelIssues.to_frame
    yield "LabelIssues.to_html", LabelIssues.to_html
    for name, value in PUBLIC.items():
        if not inspect.isclass(value):
            yield name, value
            continue
        for attribute, member in inspect.getmembers(value, callable):
            module = getattr(inspect.unwrap(member), "__module__", None) or ""
            public = attribute == "__init__" or not attribute.startswith("_")
            if public and module.startswith("sklearn_clidmu."):
                yield f"{name}.{attribute}", inspect.unwrap(member)


CALLABLES = dict(own_callables())


def test_package_exports_the_promised_names():
    displays = {name for name in PUBLIC if name.endswith("Display")}
    assert {name for name in PUBLIC if name not in displays} == {
        *("CLIDMUClassifier", "VRI", "WNet", "apply_review", "clid_loss", "clid_score"),
        *("cross_val_noise_scores", "export_onnx", "find_label_issues", "noisy_label_scorer"),
    }
    assert displays == {"NoiseScoreDisplay", "TrainingCurveDisplay", "WeightFunctionDisplay"}
    assert all(getattr(plotting, name) is PUBLIC[name] for name in displays)


@pytest.mark.parametrize("name", CALLABLES)
def test_public_callable_has_annotations_and_a_docstring(name):
    signature = inspect.signature(CALLABLES[name])
    annotations = [
        p.annotation for p in signature.parameters.values() if p.name not in {"self", "cls"}
    ]
    assert inspect.Parameter.empty not in [*annotations, signature.return_annotation]
    if not name.endswith("__init__"):  # the docstring of the class describes it
        assert inspect.getdoc(CALLABLES[name])


def test_package_has_a_marker_for_type_checkers():
    assert files(sklearn_clidmu).joinpath("py.typed").is_file()


def test_installed_metadata_have_the_version_and_the_urls():
    installed = metadata.metadata("sklearn-clidmu")
    assert installed["Version"] == sklearn_clidmu.__version__
    urls = dict(url.split(", ") for url in installed.get_all("Project-URL"))
    assert {"Repository", "Issues", "Changelog", "Paper"} <= urls.keys()
    assert all(url.startswith("https://") for url in urls.values())
