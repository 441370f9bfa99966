"""The page on which a person reviews label issues."""

from __future__ import annotations

import json
import math
import struct
import zlib
from base64 import b64encode
from collections.abc import Mapping
from hashlib import sha256
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.neighbors import NearestNeighbors
from sklearn.utils import _safe_indexing, check_array

from sklearn_clidmu._validation.arrays import as_numpy
from sklearn_clidmu._validation.labels import missing_as_none

LONGEST_TEXT = 5000  # characters of a text or of a cell on the page
LARGEST_SIDE = 256  # pixels of an image on the page that was passed as an array
LARGEST_PAGE = 400_000_000  # bytes; Chromium reads no text of 2**29 characters
IMAGE_KINDS = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".gif": "gif", ".bmp": "bmp"}
IMAGE_KINDS |= {".webp": "webp", ".avif": "avif", ".svg": "svg+xml"}
PNG_COLORS = {1: 0, 3: 2, 4: 6}  # color types of a PNG file by the number of channels


def review_page(issues: Any, show: Any, X: Any, n_neighbors: int) -> str:
    """Write the page of ``LabelIssues.to_html``; its script draws one JSON text."""
    shown = issues.index[:, None]  # of each issue its row, and the nearest ones
    if X is not None and len(issues):
        shown = _with_nearest_rows(issues.index, X, n_neighbors)
    rows, places = np.unique(shown, return_inverse=True)
    given, suggested = map(missing_as_none, (issues.given_labels, issues.suggested_labels))
    for row in np.flatnonzero(np.isnan(issues.scores)):
        given[row] = None  # what is there may be the marker of a missing label
    labels = {*given, *suggested} - {None}
    # Rows without a score may have a suggestion of another type.
    classes = sorted(labels, key=lambda label: (type(label).__name__, label))
    codes = {None: -1} | {label: code for code, label in enumerate(classes)}
    given_codes = np.array([codes[label] for label in given])
    labeled = given_codes >= 0
    names = [None] * len(rows) if issues.row_names is None else map(str, issues.row_names[rows])
    kind, columns, contents = _contents(show, rows)
    data = {
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
            for row, place in zip(issues.index, places.reshape(shown.shape), strict=True)
        ],
    }
    # No text of the caller's can end the script element or start another.
    text = json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    _check_size(len(text))
    template = files("sklearn_clidmu").joinpath("review.html").read_text("utf-8")
    code = template.rpartition("<script>")[2].partition("</script>")[0]
    digest = b64encode(sha256(code.encode()).digest()).decode()
    key = sha256(text.encode()).hexdigest()[:16]  # the same page keeps its decisions
    page = template.replace("{{digest}}", digest).replace("{{key}}", key)
    return page.replace("{{data}}", text)


def _with_nearest_rows(rows: np.ndarray, X: Any, n_neighbors: int) -> np.ndarray:
    """Rows, each followed by the nearest others, shape (n, 1 + n_neighbors)."""
    try:
        X = check_array(as_numpy(X), accept_sparse="csr", input_name="X")
    except (TypeError, ValueError) as error:  # TypeError of pandas.NA among objects
        raise ValueError(
            f"X of to_html must be numbers without missing values ({error}): pass scaled features, "
            "or leave X out."
        ) from error
    search = NearestNeighbors(n_neighbors=min(n_neighbors + 1, X.shape[0])).fit(X)
    nearest = search.kneighbors(X[rows], return_distance=False)
    # The row itself need not be the first of its copies, nor among them where there are many.
    order = np.argsort(nearest != rows[:, None], axis=1, kind="stable")
    return np.column_stack([rows, np.take_along_axis(nearest, order, axis=1)[:, 1:]])


def _contents(show: Any, rows: np.ndarray) -> tuple[str, list[str], list[Any]]:
    """Kind of the contents, names of columns ("table" only), and the contents of some rows."""
    if show is None:
        return "none", [], [None] * len(rows)
    if hasattr(type(show), "to_native"):  # of narwhals
        show = show.to_native()
    if hasattr(show, "columns"):
        if not len(show.columns):
            raise ValueError("show must have columns, got a data frame without any.")
        frame = _safe_indexing(show, rows)
        columns = [map(_text, _safe_indexing(frame, j, axis=1)) for j in range(frame.shape[1])]
        # The columns of pyarrow are arrays.
        names = show.column_names if hasattr(type(show), "column_names") else show.columns
        return "table", list(map(str, names)), list(zip(*columns, strict=True))
    show = as_numpy(show)
    if isinstance(show, Mapping):
        raise ValueError("show must be a data frame or a sequence, got a dict: make a data frame.")
    if getattr(show, "ndim", 1) not in (1, 3, 4):
        raise ValueError(
            "show must be a data frame, a sequence of texts or paths, or images of shape "
            f"(n_samples, height, width[, channels]), got an array of shape {show.shape}."
        )
    by_position = getattr(show, "iloc", show)
    values = [_as_array(by_position[row]) for row in rows.tolist()]
    if any(isinstance(value, Path) for value in values):
        images = _read_images(values)
    elif any(getattr(value, "ndim", 0) for value in values):
        images = [("png", _png(pixels)) for pixels in _scaled(values)]
    else:
        return "text", [], list(map(_text, values))
    uris = [f"data:image/{kind};base64,{b64encode(file).decode()}" for kind, file in images]
    return "image", [], uris


def _text(value: Any) -> str:
    text = str(value)
    if isinstance(value, (float, np.floating)):  # ids of a column with gaps are large numbers
        text = f"{value:.{6 if abs(float(value)) < 1e5 else 12}g}"
    return text if len(text) <= LONGEST_TEXT else text[: LONGEST_TEXT - 1] + "…"


def _as_array(value: Any) -> Any:
    """Convert images of other libraries to NumPy; return others unchanged."""
    if not hasattr(value, "getpalette"):  # of Pillow
        return as_numpy(value)
    plain = value.mode in ("L", "RGB", "I", "I;16", "F")
    return np.asarray(value if plain else value.convert("RGBA"))


def _read_images(paths: list[Any]) -> list[tuple[str, bytes]]:
    """Kinds and contents of files of images that browsers show."""
    for path in paths:
        if not isinstance(path, Path) or path.suffix.lower() not in IMAGE_KINDS:
            kinds = ", ".join(IMAGE_KINDS)
            raise ValueError(f"show must have paths of images, named {kinds}, got {path}.")
    _check_size(sum(path.stat().st_size for path in paths) * 4 / 3)  # as base64
    return [(IMAGE_KINDS[path.suffix.lower()], path.read_bytes()) for path in paths]


def _scaled(images: list[Any]) -> list[np.ndarray]:
    """Images as uint8; other numbers are scaled by the range of them all."""
    for shape, dtype in ((np.shape(image), np.asarray(image).dtype) for image in images):
        drawable = len(shape) in (2, 3) and (*shape, 1)[2] in PNG_COLORS and min(shape) > 0
        if not drawable or dtype.kind not in "biuf":
            raise ValueError(
                "show must have images of numbers, of shape (height, width) or with 1 (grey), 3 "
                f"(RGB) or 4 (RGBA) channels in a last axis, got one of shape {shape} and type "
                f"{dtype}."
            )
    if all(image.dtype == np.uint8 for image in images):
        return images
    finite = (image[np.isfinite(image)] for image in images)
    ends = [end(part) for part in finite if part.size for end in (np.min, np.max)]
    low, high = float(min(ends, default=0)), float(max(ends, default=0))
    limits = low, max(high, np.nextafter(low, np.inf))  # two numbers, also of a single one
    scaled = (np.interp(image, limits, (0, 255)) for image in images)
    return [np.nan_to_num(image).round().astype(np.uint8) for image in scaled]


def _png(image: np.ndarray) -> bytes:
    """Write an image of uint8 as a PNG file; of a large one with every k-th pixel."""
    step = math.ceil(max(image.shape[:2]) / LARGEST_SIDE)
    pixels = image[::step, ::step]
    height, width, n_channels = (*pixels.shape, 1)[:3]
    header = struct.pack(">2I5B", width, height, 8, PNG_COLORS[n_channels], 0, 0, 0)
    lines = np.pad(pixels.reshape(height, -1), ((0, 0), (1, 0)))  # begin with their filter, none
    file = b"\x89PNG\r\n\x1a\n"
    for chunk in (b"IHDR" + header, b"IDAT" + zlib.compress(lines.tobytes()), b"IEND"):
        file += struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return file


def _check_size(n_bytes: float) -> None:
    """Check that browsers can open a page of this size."""
    if n_bytes > LARGEST_PAGE:
        raise ValueError(
            f"the page would have {n_bytes / 1e6:,.0f} MB, and browsers open no more than "
            f"{LARGEST_PAGE / 1e6:.0f}: show smaller images or shorter texts, fewer neighbors, or "
            "fewer issues, with find_label_issues(..., threshold=0.9)."
        )
