"""What an installed copy says of itself; what wheel and sdist hold is for ``tox -e package``."""

import inspect
from importlib import metadata
from importlib.resources import files

import pytest

import sklearn_clidmu
from sklearn_clidmu import datasets

PUBLIC = {name: getattr(sklearn_clidmu, name) for name in sklearn_clidmu.__all__}


def own_callables():
    """Every public function and method that is this package's own, by its dotted name."""
    yield "datasets.make_label_noise", datasets.make_label_noise
    yield "LabelIssues.to_frame", type(sklearn_clidmu.find_label_issues([0.1], ["a"])).to_frame
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


def test_the_names_promised_are_there_in_order():
    assert list(PUBLIC) == sorted(PUBLIC)
    assert {"CLIDMUClassifier.fit", "CLIDMUClassifier.load", "CLIDMUClassifier.noise_scores"} < {
        *CALLABLES
    }
    assert len(CALLABLES) > 25


@pytest.mark.parametrize("name", CALLABLES)
def test_every_public_callable_is_annotated_in_full(name):
    signature = inspect.signature(CALLABLES[name])
    bare = [
        parameter.name
        for parameter in signature.parameters.values()
        if parameter.name not in {"self", "cls"} and parameter.annotation is parameter.empty
    ]
    assert bare == []
    assert signature.return_annotation is not inspect.Signature.empty


@pytest.mark.parametrize("name", CALLABLES)
def test_every_public_callable_says_what_it_does(name):
    if not name.endswith("__init__"):  # told of in the docstring of the class
        assert inspect.getdoc(CALLABLES[name])


def test_type_checkers_are_told_that_there_are_types():
    assert files(sklearn_clidmu).joinpath("py.typed").is_file()


def test_the_installed_metadata_are_those_of_the_package():
    try:
        said = metadata.metadata("sklearn-clidmu")
    except metadata.PackageNotFoundError:
        pytest.skip("run from the source tree, without an installation")
    assert said["Version"] == sklearn_clidmu.__version__
    assert "Typing :: Typed" in said.get_all("Classifier")
    urls = dict(url.split(", ") for url in said.get_all("Project-URL"))
    assert {"Repository", "Issues", "Changelog", "Paper"} <= urls.keys()
    assert all(url.startswith("https://") for url in urls.values())
