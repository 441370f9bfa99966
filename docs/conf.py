"""Sphinx configuration for ``tox -e docs``. Neither the build nor the pages need a network."""

from __future__ import annotations

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx_gallery.sorting import ExplicitOrder

import sklearn_clidmu

project = "sklearn-clidmu"
author = copyright = "the sklearn-clidmu developers"
release = sklearn_clidmu.__version__

extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
]
templates_path = ["_templates"]
exclude_patterns = ["_build", "generated/backreferences"]
default_role = "literal"
myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3

# The API, from docstrings

autosummary_generate = True
autodoc_typehints = "none"  # the numpydoc sections give the types
numpydoc_show_class_members = False  # the class template lists them
numpydoc_validation_checks = {
    "all",  # but for these:
    "ES01",  # a summary line may be enough
    "EX01",  # the guide and the gallery have the examples of methods and displays
    "GL01",  # the summary follows the opening quotes, as ruff formats it
    "SA01",  # links are in the text
}
numpydoc_validation_exclude = {
    # Short docstrings: WeightingNet documents what these methods share.
    r"\.(VRI|WNet)\.",
}

# The gallery

sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "auto_examples",
    "backreferences_dir": "generated/backreferences",
    "doc_module": ("sklearn_clidmu",),
    "within_subsection_order": ExplicitOrder(["plot_quickstart.py", "plot_audit.py", "*"]),
    "download_all_examples": False,
    "show_signature": False,
    "min_reported_time": 1e9,  # the time on one machine does not help a reader
    "write_computation_times": False,
}

# The pages

html_theme = "pydata_sphinx_theme"
html_title = "sklearn-clidmu"
html_static_path = ["_static"]
html_css_files = ["custom.css"]
html_show_sourcelink = False
toc_object_entries_show_parents = "hide"
html_copy_source = False
html_sidebars = {
    name: [] for name in ("index", "installation", "api", "design", "paper", "literature", "faq")
}
html_theme_options = {
    "logo": {"text": "sklearn-clidmu"},
    "navbar_align": "left",
    "header_links_before_dropdown": 5,
    "github_url": "https://github.com/sklearn-clidmu/sklearn-clidmu",
    "footer_start": ["copyright"],
    "footer_end": [],
}

# Formulas become MathML, which browsers render: MathJax would need a network.
html_math_renderer = "mathml"


def visit_math(translator, node):
    """Write an inline formula."""
    translator.body.append(tex2mathml(node.astext(), as_block=False))
    raise nodes.SkipNode


def visit_math_block(translator, node):
    """Write a display formula."""
    formula = tex2mathml(node.astext(), as_block=True)
    translator.body.append(f'<div class="formula">{formula}</div>')
    raise nodes.SkipNode


def setup(app):
    """Register the math renderer."""
    app.add_html_math_renderer("mathml", (visit_math, None), (visit_math_block, None))
