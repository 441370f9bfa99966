"""The page on which a person reviews label issues."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import struct
import zlib
from importlib.resources import files
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.neighbors import NearestNeighbors
from sklearn.utils import _safe_indexing, check_array
from sklearn.utils.validation import _num_samples

from sklearn_clidmu._validation import as_numpy, missing_as_none

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
        if table is not None and _num_samples(as_numpy(table)) != n_rows:
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
    both = issues.given_labels, issues.suggested_labels
    given, suggested = map(missing_as_none, both)
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


def _contents(show: Any, rows: np.ndarray) -> tuple[str, list[str], list[Any]]:
    """Kind of the contents, names of columns ("table" only), and the contents of some rows."""
    if show is None:
        return "none", [], [None] * len(rows)
    if hasattr(type(show), "to_native"):  # of narwhals
        show = show.to_native()
    if hasattr(show, "columns"):
        if hasattr(show, "iloc"):  # of pandas, whose names of columns may repeat
            frame = show.iloc[rows]
            columns = [frame.iloc[:, j] for j in range(frame.shape[1])]
        else:
            frame = _safe_indexing(show, rows)
            columns = [_safe_indexing(frame, j, axis=1) for j in range(frame.shape[1])]
        cells = [list(map(_text, column)) for column in columns]
        # The columns of pyarrow are arrays.
        names = show.column_names if hasattr(type(show), "column_names") else show.columns
        return "table", list(map(str, names)), list(map(list, zip(*cells, strict=True)))
    show = as_numpy(show)
    ndim = getattr(show, "ndim", 1)
    if ndim not in (1, 3, 4):
        raise ValueError(
            "show must be a data frame, a sequence of texts or paths, or images of shape "
            f"(n_samples, height, width[, channels]), got an array of shape {show.shape}: make a "
            "data frame of it."
        )
    if hasattr(type(show), "get_indexer"):  # an index of pandas
        show = show.to_series()
    values = list(map(_as_array, _safe_indexing(show, rows)))
    if any(isinstance(value, Path) for value in values):
        return "image", [], _image_files(values)
    if any(getattr(value, "ndim", 0) for value in values):
        return "image", [], [_data_uri(png(one), "image/png") for one in _pixels(values, show)]
    return "text", [], list(map(_text, values))


def _as_array(value: Any) -> Any:
    """Convert images of other libraries to NumPy; return others unchanged."""
    if hasattr(value, "getpalette"):  # of Pillow
        plain = value.mode in ("1", "L", "RGB", "RGBA", "I", "I;16", "F")
        return np.asarray(value if plain else value.convert("RGBA"))
    return as_numpy(value)


def _text(value: Any) -> str:
    text = f"{value:.6g}" if isinstance(value, (float, np.floating)) else str(value)
    return text if len(text) <= LONGEST_TEXT else text[: LONGEST_TEXT - 1] + "…"


def _extremes(image: Any) -> tuple[float, float]:
    """Lowest and highest of the finite numbers of an image."""
    image = np.asarray(_as_array(image), dtype=float)
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
