"""The labels that follow from the decisions of a review."""

from __future__ import annotations

import csv
import io
import os
import re
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np

from sklearn_clidmu._validation import (
    as_numpy,
    check_labels,
    is_missing,
    is_null,
    missing_as_none,
)

COLUMNS = ("row", "given_label", "decision", "label")
"""Columns that a file or a frame of decisions must have."""


class ReviewedLabels(NamedTuple):
    """Labels after a review, from :func:`apply_review`; each of shape (n_samples,)."""

    y: np.ndarray
    """Labels, with the confirmed ones in the place of those that were given."""
    kept: np.ndarray
    """False for the rows that were dropped, bool."""
    confirmed: np.ndarray
    """Labels that a person kept or chose, None elsewhere, object."""


def apply_review(y: Any, decisions: Any, confirmed: Any = None) -> ReviewedLabels:
    """Apply the decisions made on a review page to the labels.

    Parameters
    ----------
    y : array-like of shape (n_samples,)
        The given labels of the rows that were reviewed, in the same order.
    decisions : path or data frame
        The CSV file that was downloaded from the page of :meth:`LabelIssues.to_html
        <sklearn_clidmu.label_issues.LabelIssues.to_html>`, or a pandas, polars or pyarrow
        table. Columns:

        - ``row``: row number, counted from 0;
        - ``given_label``: the label in y, by which it is checked that y is the one reviewed;
        - ``decision``: "keep", "change" or "drop";
        - ``label``: the new label of a "change"; ignored else.

        Other columns are ignored.
    confirmed : array-like of shape (n_samples,), default=None
        Labels confirmed in earlier rounds, None elsewhere. None is a first round.

    Returns
    -------
    ReviewedLabels
        Named tuple of arrays of shape (n_samples,):

        - ``y``: the mended labels, for other classifiers;
        - ``kept``: a mask that is False for dropped rows;
        - ``confirmed``: the labels that were kept or chosen, in all rounds, and None elsewhere; for
          :meth:`CLIDMUClassifier.fit`, together with y as it was given.

    Raises
    ------
    ValueError
        If a column is missing, if y is not the one reviewed, or if a decision is not valid.

    Examples
    --------
    >>> import pandas as pd
    >>> from sklearn_clidmu import apply_review
    >>> decisions = pd.DataFrame({
    ...     "row": [0, 1, 3],
    ...     "given_label": ["cat", "dog", "cat"],
    ...     "decision": ["keep", "change", "drop"],
    ...     "label": ["cat", "horse", "cat"],
    ... })
    >>> mended, kept, confirmed = apply_review(["cat", "dog", "dog", "cat"], decisions)
    >>> mended.tolist()
    ['cat', 'horse', 'dog', 'cat']
    >>> kept.tolist()
    [True, True, True, False]
    >>> confirmed.tolist()
    ['cat', 'horse', None, None]
    """
    labels = check_labels(y)
    values = missing_as_none(labels)
    is_text = any(isinstance(label, str) for label in values)
    known = {_spelling(label, is_text): label for label in values if label is not None}
    found, kept = np.full(len(labels), None), np.ones(len(labels), dtype=bool)
    if confirmed is not None:
        found[:] = missing_as_none(check_labels(confirmed, "confirmed"))
    reviewed = set()
    for cell, given, decision, label in _read_decisions(decisions):
        number = _spelling(cell, is_text=False)
        row = int(number) if number.isdecimal() else len(labels)
        if row >= len(labels) or _spelling(values[row], is_text) != _spelling(given, is_text):
            present = repr(values[row]) if row < len(labels) else f"{len(labels)} rows"
            raise ValueError(
                f"decisions have the label {given!r} in row {number}, and y has {present}: pass "
                "the labels that were reviewed, in the same order. Of a file pass the path, since "
                "pandas.read_csv changes labels such as '007' and 'NA'."
            )
        if row in reviewed or str(decision) not in ("keep", "change", "drop"):
            fault = "two decisions" if row in reviewed else f"the decision {decision!r}"
            raise ValueError(
                f"decisions have {fault} in row {row}: there must be one a row, 'keep', 'change' "
                "or 'drop'."
            )
        reviewed.add(row)
        if decision == "drop":
            kept[row] = False
        elif decision == "keep":
            found[row] = values[row]
        else:
            text = _spelling(label, is_text)
            found[row] = known[text] if text in known else _new_label(label, labels, is_text)
    mended = np.where(is_missing(found, np.nan), labels.astype(object), found)
    mended = mended.astype(str if labels.dtype.kind == "U" else labels.dtype)
    return ReviewedLabels(mended, kept, found)


def _read_decisions(decisions: Any) -> list[tuple[Any, ...]]:
    """Cells of :data:`COLUMNS`, row by row; those of a file are texts."""
    if isinstance(decisions, (str, os.PathLike)):
        names, table = _read_csv(decisions)
    elif hasattr(type(as_numpy(decisions)), "to_pydict"):  # of pyarrow
        table = decisions.to_pydict()
        names = list(table)
    elif hasattr(decisions, "columns"):
        names, table = list(decisions.columns), decisions
    else:
        raise ValueError(
            f"decisions must be a path or a data frame, got a {type(decisions).__name__}."
        )
    missing = [name for name in COLUMNS if name not in names]
    if missing:
        raise ValueError(
            f"decisions must have the columns {', '.join(COLUMNS)}, got none named {missing[0]}."
        )
    return list(zip(*(table[name] for name in COLUMNS), strict=True))


def _read_csv(path: Any) -> tuple[list[str], dict[str, Any]]:
    """Names of the columns, and the columns; cells may be separated as by any spreadsheet."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            text = file.read()
    except UnicodeDecodeError as error:
        raise ValueError(f"decisions must be a file in UTF-8, got {path}: {error}.") from error
    separator = max(",;\t", key=text.partition("\n")[0].count)
    limit = csv.field_size_limit(max(len(text), 131072))  # of a process, by default 131072
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
        names, *lines = [line for line in reader if any(line)] or [[]]
    finally:
        csv.field_size_limit(limit)
    for line in lines:
        if len(line) != len(names):
            raise ValueError(
                f"decisions must have {len(names)} cells in every line of {path}, got {line}."
            )
    return names, {name: [line[j] for line in lines] for j, name in enumerate(names)}


def _spelling(label: Any, is_text: bool) -> str:
    """Text of a label; numbers and booleans as they are before a spreadsheet rewrites them."""
    text = "" if is_null(label) else str(label)
    if is_text:
        return text
    if text.upper() in ("TRUE", "FALSE"):
        return text.capitalize()
    try:
        return str(int(text))  # exact, however large
    except ValueError:
        return re.sub(r"^(-?\d+)\.0+$", r"\1", text)


def _new_label(cell: Any, labels: np.ndarray, is_text: bool) -> Any:
    """Label that y does not have yet."""
    with suppress(ValueError, OverflowError):
        if not is_text:
            kind = labels.dtype if labels.dtype.kind in "iuf" else int
            return np.array(_spelling(cell, is_text)).astype(kind).item()
        if cell and isinstance(cell, str):
            return cell
    raise ValueError(
        f"decisions have the label {cell!r}, and y has labels of type "
        f"{'str' if is_text else labels.dtype}."
    )
