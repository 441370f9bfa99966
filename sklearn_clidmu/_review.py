"""Review of label issues: a page on which a person decides, and the labels that follow."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import math
import os
import re
import struct
import zlib
from contextlib import suppress
from importlib.resources import files
from numbers import Integral
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from sklearn.neighbors import NearestNeighbors
from sklearn.utils import _safe_indexing, check_array
from sklearn.utils.validation import _num_samples

from sklearn_clidmu._validation import as_numpy, check_labels, is_missing, is_null

COLUMNS = ("row", "given_label", "decision", "label")
"""Columns that a file or a frame of decisions must have."""

LONGEST_TEXT = 5000  # characters of a text or of a cell on the page
LARGEST_SIDE = 256  # pixels of an image on the page that was passed as an array
LARGEST_PAGE = 400_000_000  # bytes; Chromium reads no text of 2**29 characters
IMAGE_KINDS = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".gif": "image/gif",
    ".webp": "image/webp",
    ".avif": "image/avif",
    ".bmp": "image/bmp",
    ".svg": "image/svg+xml",
}


def review_page(issues: Any, show: Any, X: Any, n_neighbors: int) -> str:
    """Write the page of ``LabelIssues.to_html``."""
    n_rows = len(issues.mask)
    for name, table in (("show", show), ("X", X)):
        if table is not None and _num_samples(table) != n_rows:
            raise ValueError(
                f"{name} must have the {n_rows} rows that the labels belong to, got "
                f"{_num_samples(table)}."
            )
    if not isinstance(n_neighbors, Integral) or n_neighbors < 1:
        raise ValueError(f"n_neighbors must be a positive integer, got {n_neighbors!r}.")
    data = _page_data(issues, show, X, n_neighbors)
    # No text of the caller's can end the script element or start another.
    text = json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    check_size(len(text))
    template = files("sklearn_clidmu").joinpath("review.html").read_text("utf-8")
    code = template.rpartition("<script>")[2].partition("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
    key = hashlib.sha256(text.encode()).hexdigest()[:16]  # the same page keeps its decisions
    page = template.replace("{{digest}}", digest).replace("{{key}}", key)
    return page.replace("{{data}}", text)


def _page_data(issues: Any, show: Any, X: Any, n_neighbors: int) -> dict[str, Any]:
    """Collect what the script of the page reads."""
    nearest = np.empty((len(issues), 0), dtype=int)
    if X is not None and len(issues):
        nearest = nearest_rows(as_numpy(X), issues.index, n_neighbors)
    involved = np.column_stack([issues.index, nearest])
    rows, places = np.unique(involved, return_inverse=True)
    given, suggested = _objects(issues.given_labels), _objects(issues.suggested_labels)
    classes = sorted({*given, *suggested} - {None})
    codes: dict[Any, int] = {None: -1, **{label: code for code, label in enumerate(classes)}}
    given_codes = np.array([codes[label] for label in given])
    kind, columns, contents = _contents(show, rows)
    names: list[str | None] = [None] * len(rows)
    if issues.row_names is not None:
        names = [str(name) for name in issues.row_names[rows]]
    labeled = ~np.isnan(issues.scores) & (given_codes >= 0)
    return {
        "rate": issues.noise_rate,
        "doubt": issues.doubt,
        "classes": list(map(str, classes)),
        "counts": np.bincount(given_codes[labeled], minlength=len(classes)).tolist(),
        "kind": kind,
        "columns": columns,
        # Of each row: its number, name, given label and content.
        "rows": list(zip(rows.tolist(), names, given_codes[rows].tolist(), contents, strict=True)),
        # Of each issue: suggested label, score, and places in "rows": its own, the nearest rows'.
        "issues": [
            [codes[suggested[row]], round(float(issues.scores[row]), 4), place.tolist()]
            for row, place in zip(issues.index, places.reshape(involved.shape), strict=True)
        ],
    }


def nearest_rows(X: Any, rows: np.ndarray, n_neighbors: int) -> np.ndarray:
    """Nearest other rows of some rows, the nearest first, shape (n, n_neighbors)."""
    X = check_array(X, accept_sparse="csr", input_name="X")
    n_neighbors = min(n_neighbors, X.shape[0] - 1)
    found = NearestNeighbors(n_neighbors=n_neighbors + 1).fit(X)
    nearest = found.kneighbors(X[rows], return_distance=False)
    # The row itself goes to the end; where it has many copies, it need not be among them.
    order = np.argsort(nearest == rows[:, None], axis=1, kind="stable")
    return np.take_along_axis(nearest, order, axis=1)[:, :n_neighbors]


def _objects(labels: np.ndarray) -> list[Any]:
    """Labels as Python objects, None for a missing one."""
    missing = is_missing(labels, np.nan)
    return [None if none else label for label, none in zip(labels.tolist(), missing, strict=True)]


def _contents(show: Any, rows: np.ndarray) -> tuple[str, list[str], list[Any]]:
    """Kind of the contents, names of columns ("table" only), and the contents of some rows."""
    if show is None:
        return "none", [], [None] * len(rows)
    if hasattr(show, "columns"):
        if hasattr(show, "iloc"):  # of pandas, whose names of columns may repeat
            frame = show.iloc[rows]
            columns = [frame.iloc[:, j] for j in range(frame.shape[1])]
        else:
            frame = _safe_indexing(show, rows)
            columns = [_safe_indexing(frame, j, axis=1) for j in range(frame.shape[1])]
        cells = [list(map(_text, column)) for column in columns]
        return "table", list(map(str, show.columns)), list(map(list, zip(*cells, strict=True)))
    show = as_numpy(show)
    ndim = getattr(show, "ndim", 1)
    if ndim not in (1, 3, 4):
        raise ValueError(
            "show must be a data frame, a sequence of texts or paths, or images of shape "
            f"(n_samples, height, width[, channels]), got an array of shape {show.shape}: make a "
            "data frame of it."
        )
    values = list(map(as_numpy, _safe_indexing(show, rows)))
    if any(isinstance(value, Path) for value in values):
        return "image", [], _image_files(values)
    if any(getattr(value, "ndim", 0) for value in values):
        return "image", [], [_data_uri(png(one), "image/png") for one in _pixels(values, show)]
    return "text", [], list(map(_text, values))


def _text(value: Any) -> str:
    text = f"{value:.6g}" if isinstance(value, (float, np.floating)) else str(value)
    return text if len(text) <= LONGEST_TEXT else text[: LONGEST_TEXT - 1] + "…"


def _extremes(image: Any) -> tuple[float, float]:
    """Lowest and highest of the finite numbers of an image."""
    image = np.asarray(as_numpy(image), dtype=float)
    finite = np.isfinite(image)
    low = np.min(image, initial=np.inf, where=finite)
    return float(low), float(np.max(image, initial=-np.inf, where=finite))


def _pixels(images: list[Any], whole: Any) -> list[np.ndarray]:
    """Images as uint8, scaled by the range of the whole, with every k-th pixel of large ones."""
    for shape in map(np.shape, images):
        if len(shape) not in (2, 3) or (*shape, 1)[2] not in (1, 3, 4):
            raise ValueError(
                "show must have images of shape (height, width) or with 1 (grey), 3 (RGB) or 4 "
                f"(RGBA) channels in a last axis, got one of shape {shape}."
            )
    steps = [max(math.ceil(max(image.shape[:2]) / LARGEST_SIDE), 1) for image in images]
    images = [image[::step, ::step] for image, step in zip(images, steps, strict=True)]
    if all(image.dtype == np.uint8 for image in images):
        return images
    lows, highs = zip(*map(_extremes, whole), strict=True)
    low, high = min(lows), max(highs)
    scaled = [(image.astype(float) - low) * (255 / ((high - low) or 1)) for image in images]
    return [np.nan_to_num(np.round(image.clip(0, 255))).astype(np.uint8) for image in scaled]


def png(pixels: np.ndarray) -> bytes:
    """Write an image of uint8, shape (h, w) or (h, w, channels), as a PNG file."""
    height, width = pixels.shape[:2]
    lines = pixels.reshape(height, -1)
    color = {1: 0, 3: 2, 4: 6}[lines.shape[1] // width]
    header = struct.pack(">2I5B", width, height, 8, color, 0, 0, 0)
    filtered = np.pad(lines, ((0, 0), (1, 0))).tobytes()  # each line begins with its filter, none
    chunks = (b"IHDR" + header, b"IDAT" + zlib.compress(filtered), b"IEND")
    parts = [struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def _image_files(paths: list[Any]) -> list[str]:
    for path in paths:
        if not isinstance(path, Path) or path.suffix.lower() not in IMAGE_KINDS:
            raise ValueError(
                f"show must have paths of images that browsers show, {', '.join(IMAGE_KINDS)}, "
                f"got {path}."
            )
    check_size(sum(path.stat().st_size for path in paths) * 4 / 3)  # as base64
    return [_data_uri(path.read_bytes(), IMAGE_KINDS[path.suffix.lower()]) for path in paths]


def check_size(n_bytes: float) -> None:
    """Check that browsers can open a page of this size."""
    if n_bytes > LARGEST_PAGE:
        raise ValueError(
            f"the page would have {n_bytes / 1e6:,.0f} MB, and browsers open no more than "
            f"{LARGEST_PAGE / 1e6:.0f}: show smaller images or shorter texts, fewer neighbors, or "
            "fewer issues, with find_label_issues(..., threshold=0.9)."
        )


def _data_uri(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


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
        <sklearn_clidmu.label_issues.LabelIssues.to_html>`, or a pandas or polars frame. Columns:

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
    values = _objects(labels)
    is_text = any(isinstance(label, str) for label in values)
    known = {_spelling(label, is_text): label for label in values if label is not None}
    found, kept = np.full(len(labels), None), np.ones(len(labels), dtype=bool)
    if confirmed is not None:
        found[:] = _objects(check_labels(confirmed, "confirmed"))
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
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    names, *lines = [line for line in reader if line] or [[]]
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
    with suppress(ValueError):
        if not is_text:
            kind = labels.dtype if labels.dtype.kind in "iuf" else int
            return np.array(_spelling(cell, is_text)).astype(kind).item()
        if cell and isinstance(cell, str):
            return cell
    raise ValueError(
        f"decisions have the label {cell!r}, and y has labels of type "
        f"{'str' if is_text else labels.dtype}."
    )
