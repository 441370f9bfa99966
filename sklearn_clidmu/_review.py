"""The labels that follow from the decisions of a review."""

from __future__ import annotations

import csv
import io
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sklearn_clidmu._validation.arrays import as_numpy, check_same_length
from sklearn_clidmu._validation.labels import (
    as_objects,
    check_labels,
    confirmed_labels,
    is_missing,
    is_null,
    missing_as_none,
    plain_labels,
)

COLUMNS = ("row", "given_label", "decision", "label")


class ReviewedLabels(NamedTuple):
    """Labels after a review, from :func:`apply_review`; each of shape (n_samples,)."""

    y: np.ndarray  # the corrected labels
    kept: np.ndarray  # False for dropped rows
    confirmed: np.ndarray  # the labels that were kept or chosen, None elsewhere


def apply_review(y: Any, decisions: Any, confirmed: Any = None) -> ReviewedLabels:
    """Apply the decisions made on a review page to the labels.

    Parameters
    ----------
    y : array-like of shape (n_samples,)
        The given labels of the rows that were reviewed, in the same order.
    decisions : path or data frame
        The CSV file that was downloaded from the page of :meth:`LabelIssues.to_html
        <sklearn_clidmu.label_issues.LabelIssues.to_html>`, or a pandas, polars or pyarrow table
        with its columns: ``row``, counted from 0; ``given_label``, which must be that in y;
        ``decision``, "keep", "change" or "drop"; and ``label``, the new one of a "change".
    confirmed : array-like of shape (n_samples,), default=None
        Labels confirmed in earlier rounds, None elsewhere. None is a first round.

    Returns
    -------
    ReviewedLabels
        Named tuple of arrays of shape (n_samples,): ``y``, the corrected labels, for other
        classifiers; ``kept``, a mask that is False for dropped rows; and ``confirmed``, the labels
        that were kept or chosen in all rounds, and None elsewhere, for
        :meth:`CLIDMUClassifier.fit`. Pass it with the original y.

    Raises
    ------
    ValueError
        If a column is missing, if y is not the one reviewed, or if a decision or a confirmed label
        is not valid.

    Examples
    --------
    >>> from pandas import DataFrame
    >>> from sklearn_clidmu import apply_review
    >>> decisions = DataFrame(
    ...     [[0, "cat", "change", "dog"], [2, "dog", "drop", "dog"]],
    ...     columns=["row", "given_label", "decision", "label"],
    ... )
    >>> y, kept, confirmed = apply_review(["cat", "dog", "dog"], decisions)
    >>> y.tolist(), kept.tolist(), confirmed.tolist()
    (['dog', 'dog', 'dog'], [True, True, False], ['dog', None, None])
    """
    labels = check_labels(y)
    given, plain = missing_as_none(labels), plain_labels(labels[~is_missing(labels, np.nan)])
    is_text = any(isinstance(label, str) for label in given)
    known = {_spelling(label, is_text): label for label in given if label is not None}
    found, kept = np.full(len(given), None), np.full(len(given), True)
    if confirmed is not None:
        right, before = confirmed_labels(confirmed, plain)
        check_same_length(y=labels, confirmed=right)
        found[right] = as_objects(before)
    reviewed = set()
    for cell, label, decision, new in _read_decisions(decisions):
        number = _spelling(cell)
        row = int(number) if number.isdecimal() else len(given)
        if row >= len(given) or _spelling(given[row], is_text) != _spelling(label, is_text):
            present = repr(given[row]) if row < len(given) else f"{len(given)} rows"
            raise ValueError(
                f"decisions have the label {label!r} in row {cell}, and y has {present}: pass "
                "the labels that were reviewed, in the same order. Of a file pass the path, since "
                "pandas.read_csv changes labels such as '007' and 'NA'; spreadsheets change some, "
                "too."
            )
        if row in reviewed:
            raise ValueError(f"decisions must have one line a row, got two for row {row}.")
        if str(decision) not in ("keep", "change", "drop"):
            raise ValueError(
                f"decisions must be 'keep', 'change' or 'drop', got {decision!r} in row {row}."
            )
        reviewed.add(row)
        if decision == "change":
            found[row] = _new_label(new, known, plain.dtype, is_text)
        elif decision == "keep":
            found[row] = given[row]
        kept[row] = decision != "drop"
    corrected = np.where([is_null(label) for label in found], labels.astype(object), found)
    corrected = corrected.astype(str if labels.dtype.kind == "U" else labels.dtype)
    return ReviewedLabels(corrected, kept, found)


def _spelling(label: Any, is_text: bool = False) -> str:
    """Text of a label; numbers and dates as before a spreadsheet or frame rewrites them."""
    text = "" if is_null(label) else str(label)
    plain = re.sub(r"([ T]00:00:00)?(\.0+)?$", "", text)  # of dates and numbers
    return text if is_text else re.sub(r"^-(?=0$)", "", plain).capitalize()


def _new_label(cell: Any, known: dict[str, Any], dtype: np.dtype, is_text: bool) -> Any:
    """Label of a "change", which y may not have yet."""
    text = _spelling(cell, is_text)
    if text in known:
        return known[text]
    if is_text and text and isinstance(cell, str):
        return text
    with suppress(ValueError, OverflowError):
        if dtype.kind in "iuf":
            new = np.array(text).astype(dtype).item()
            if np.isfinite(new) if dtype.kind == "f" else new == int(text):  # NumPy 1 wraps around
                return new
    kind = "str" if is_text else dtype
    raise ValueError(f"decisions have the label {cell!r}, and y has labels of type {kind}.")


def _read_decisions(decisions: Any) -> list[tuple[Any, ...]]:
    """Cells of :data:`COLUMNS`, row by row; those of a file are texts."""
    table = as_numpy(decisions)
    if isinstance(table, (str, os.PathLike)):
        table = _read_csv(table)
    elif hasattr(type(table), "to_pydict"):  # of pyarrow
        table = table.to_pydict()
    names = table if isinstance(table, dict) else getattr(table, "columns", None)
    if names is None:
        raise ValueError(
            f"decisions must be a path or a data frame, got a {type(decisions).__name__}."
        )
    missing = [name for name in COLUMNS if name not in names]
    if missing:
        raise ValueError(
            f"decisions must have the columns {', '.join(COLUMNS)}, got none named {missing[0]}."
        )
    return list(zip(*(table[name] for name in COLUMNS), strict=True))


def _read_csv(path: Any) -> dict[str, list[str]]:
    """Columns of a file; cells may be separated as by any spreadsheet."""
    try:
        text = Path(path).read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"decisions must be a file in UTF-8, got {path}: {error}.") from error
    separator = max(",;\t", key=text.partition("\n")[0].count)
    limit = csv.field_size_limit(len(text) + 1)  # of a process, by default 131072
    try:
        lines = list(csv.reader(io.StringIO(text, newline=""), delimiter=separator))
    finally:
        csv.field_size_limit(limit)
    names, *rows = [line for line in lines if any(line)] or [[]]
    needed = max((j + 1 for j, name in enumerate(names) if name in COLUMNS), default=0)
    for row in rows:
        row += [""] * (len(names) - len(row)) * (len(row) >= needed)  # empty cells may be left out
        if len(row) != len(names):
            raise ValueError(
                f"decisions must have {len(names)} cells in every line of {path}, got {row}."
            )
    return {name: [row[j] for row in rows] for j, name in enumerate(names)}
