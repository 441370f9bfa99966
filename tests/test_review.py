"""The page on which label issues are reviewed, and the labels that follow from the decisions."""

import csv
import io
import json
import re
from base64 import b64decode
from hashlib import sha256
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import polars as pl
import pytest
from matplotlib.image import imread
from PIL import Image
from scipy.sparse import coo_array
from scipy.spatial.distance import cdist

from sklearn_clidmu import apply_review, find_label_issues

HOSTILE = '</script><img src="x" onerror="document.title=1"><!--<script>&amp;"\u2028'
NAN = float("nan")
ROWS = np.random.RandomState(0).normal(size=(6, 3))
LABELS = ["cat", "dog", "cat", "dog", "cow", "cat"]
SUGGESTED = ["dog", "dog", "cow", "cat", "cow", "dog"]
SCORES = [0.9, 0.1, 0.6, 0.8, 0.2, 0.95]


def some_issues(labels=LABELS, suggested=SUGGESTED):
    """Rows 5, 0, 3 and 2 are issues, in this order."""
    return find_label_issues(SCORES, labels, suggested=suggested)


@pytest.fixture
def page(tmp_path):
    """Function that writes the page of issues and returns its text."""

    def write(issues, **arguments):
        path = tmp_path / "review.html"
        issues.to_html(path, **arguments)
        return path.read_text("utf-8")

    return write


def read_data(text):
    """What a page is told of the issues."""
    [found] = re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', text, re.DOTALL)
    return json.loads(found)


class Tags(HTMLParser):
    """Tags and attributes of a page, in their order."""

    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        varying = {"data-key"}
        self.found.append((tag, [(name, v) for name, v in attrs if name not in varying]))


# The page


def test_page_has_the_issues_most_suspect_first_and_the_counts_of_all_labels(page):
    data = read_data(page(some_issues()))
    classes = data["classes"]
    assert classes == ["cat", "cow", "dog"]
    assert data["counts"] == [3, 1, 2]
    assert data["rate"] == pytest.approx(4 / 6)
    listed = [
        (data["rows"][place][0], classes[data["rows"][place][2]], classes[suggested], score)
        for suggested, score, [place] in data["issues"]
    ]
    assert listed == [
        (5, "cat", "dog", 0.95),
        (0, "cat", "dog", 0.9),
        (3, "dog", "cat", 0.8),
        (2, "cat", "cow", 0.6),
    ]


def test_page_shows_nearest_rows_that_agree_with_all_distances(page):
    rows = np.round(ROWS)  # some are alike
    rows[1] = rows[5]
    data = read_data(page(some_issues(), X=rows, n_neighbors=3))
    number = [row for row, *_ in data["rows"]]
    distances = cdist(rows, rows)
    for _, _, [place, *near] in data["issues"]:
        row, found = number[place], [number[one] for one in near]
        others = np.delete(distances[row], row)
        assert row not in found
        np.testing.assert_allclose(distances[row, found], np.sort(others)[:3])
    few = read_data(page(some_issues(), X=rows, n_neighbors=50))
    assert {len(near) for _, _, near in few["issues"]} == {6}


@pytest.mark.parametrize("library", [pd.DataFrame, pl.DataFrame])
def test_page_shows_the_columns_of_a_frame(page, library):
    frame = library({"size": [0.5, 1, 2, 1 / 3, 4, 5], "name": list("uvwxyz")})
    data = read_data(page(some_issues(), show=frame))
    assert data["kind"] == "table"
    assert data["columns"] == ["size", "name"]
    contents = {row: content for row, _, _, content in data["rows"]}
    assert contents[0] == ["0.5", "u"]
    assert contents[3] == ["0.333333", "x"]
    assert set(contents) == {0, 2, 3, 5}


def test_page_takes_columns_of_the_same_name_and_sparse_features(page):
    frame = pd.DataFrame(ROWS, columns=["a", "b", "a"], index=[0, 0, 1, 1, 2, 2])
    data = read_data(page(some_issues(), show=frame, X=ROWS))
    assert data["columns"] == ["a", "b", "a"]
    names = ["columns", "column_names", "to_native"]
    named = read_data(page(some_issues(), show=pd.DataFrame(ROWS, columns=names)))
    assert named["columns"] == names
    assert data["rows"][3][3] == [f"{value:.6g}" for value in ROWS[3]]
    sparse = read_data(page(some_issues(), show=frame, X=coo_array(ROWS)))
    mixed = read_data(page(some_issues(), show=frame, X=pd.DataFrame(ROWS, columns=["a", 1, 2.5])))
    assert data == sparse == mixed


def test_page_shows_texts_and_cuts_long_ones(page):
    texts = ["first", "", "é\n<b>", "x" * 6000, "", "last"]
    data = read_data(page(some_issues(), show=texts))
    contents = {row: content for row, _, _, content in data["rows"]}
    assert data["kind"] == "text"
    assert [contents[0], contents[2], contents[5]] == ["first", "é\n<b>", "last"]
    assert contents[3] == "x" * 4999 + "…"


def read_image(uri):
    kind, _, content = uri.partition(",")
    assert kind == "data:image/png;base64"
    return np.round(imread(io.BytesIO(b64decode(content)), "png") * 255)


@pytest.mark.parametrize("shape", [(4, 7), (4, 7, 1), (4, 7, 3), (4, 7, 4)])
def test_page_shows_images_pixel_by_pixel(page, shape):
    images = np.random.RandomState(0).randint(0, 256, (6, *shape)).astype(np.uint8)
    data = read_data(page(some_issues(), show=images))
    assert data["kind"] == "image"
    for row, _, _, uri in data["rows"]:
        np.testing.assert_array_equal(read_image(uri), np.squeeze(images[row]))


def test_page_scales_images_of_numbers_by_their_range_and_thins_out_large_ones(page):
    images = np.linspace(-1, 3, 6 * 2 * 600).reshape(6, 2, 600)
    data = read_data(page(some_issues(), show=images))
    for row, _, _, uri in data["rows"]:
        expected = (images[row, ::3, ::3] + 1) / 4 * 255
        np.testing.assert_allclose(read_image(uri), expected, atol=0.5 + 1e-6)


def test_page_shows_images_of_different_sizes(page):
    images = [np.full((2 + row, 3), float(row)) for row in range(6)]
    images[1][0] = NAN, np.inf, -np.inf  # neither changes the range of the others
    data = read_data(page(some_issues(), show=images, X=ROWS, n_neighbors=5))
    for row, _, _, uri in data["rows"]:
        expected = np.nan_to_num(images[row] * 51, nan=0, posinf=255, neginf=0)
        np.testing.assert_allclose(read_image(uri), expected, atol=0.5 + 1e-6)


@pytest.mark.parametrize("number", [7.0, NAN])
def test_page_shows_images_without_a_range(page, number):
    data = read_data(page(some_issues(), show=np.full((6, 2, 3), number)))
    for _, _, _, uri in data["rows"]:
        np.testing.assert_array_equal(read_image(uri), np.zeros((2, 3)))


def test_page_copies_image_files(page, tmp_path):
    paths = [tmp_path / f"{row}.gif" for row in range(6)]
    for path in paths:
        path.write_bytes(b"GIF89a" + path.name.encode())
    data = read_data(page(some_issues(), show=paths))
    for row, _, _, uri in data["rows"]:
        kind, _, content = uri.partition(",")
        assert kind == "data:image/gif;base64"
        assert b64decode(content) == paths[row].read_bytes()


@pytest.mark.parametrize("where", ["labels", "suggested", "texts", "columns", "cells", "names"])
def test_page_holds_text_of_the_caller_as_data_only(page, where):
    labels = [HOSTILE if one == "cat" else one for one in LABELS] if where == "labels" else LABELS
    suggested = [HOSTILE, *SUGGESTED[1:]] if where == "suggested" else SUGGESTED
    if where == "names":
        labels = pd.Series(labels, index=[HOSTILE, *"bcdef"])
    show = {
        "texts": [HOSTILE] * 6,
        "columns": pd.DataFrame({HOSTILE: range(6)}),
        "cells": pd.DataFrame({"a": [HOSTILE] * 6}),
    }.get(where)
    issues = some_issues(labels, suggested)
    text = page(issues, show=show)
    assert Tags(text).found == Tags(page(some_issues())).found
    assert HOSTILE in json.dumps(read_data(text), ensure_ascii=False).replace('\\"', '"')


def test_page_allows_its_own_script_alone_and_no_network(page):
    text = page(some_issues(["{{data}}", *LABELS[1:]], ["{{digest}}", *SUGGESTED[1:]]))
    [(_, policy)] = [
        attributes
        for tag, attributes in Tags(text).found
        if tag == "meta" and ("http-equiv", "Content-Security-Policy") in attributes
    ]
    directives = dict(one.strip().split(" ", 1) for one in policy[1].split(";"))
    [code] = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    assert directives["default-src"] == "'none'"
    assert directives["img-src"] == "data:"
    algorithm, _, digest = directives["script-src"].strip("'").partition("-")
    assert (algorithm, b64decode(digest)) == ("sha256", sha256(code.encode()).digest())
    assert {"{{data}}", "{{digest}}"} < set(read_data(text)["classes"])


def test_page_names_rows_and_labels_of_any_type(page):
    scores = [0.9, NAN, 0.2, 0.1]
    labels = pd.Series([0.5, NAN, 1.5, 1.5], index=["a", "b", "c", "d"])
    issues = find_label_issues(scores, labels, suggested=[1.5, 0.5, 1.5, 1.5])
    data = read_data(page(issues, X=[[0], [1], [2], [3]], n_neighbors=2))
    assert data["classes"] == ["0.5", "1.5"]
    assert data["counts"] == [1, 2]
    assert data["rows"] == [[0, "a", 0, None], [1, "b", -1, None], [2, "c", 1, None]]
    assert data["issues"] == [[1, 0.9, [0, 1, 2]]]


def test_page_shows_labels_that_have_no_order(page):
    issues = find_label_issues([NAN, 0.9], [None, 1], suggested=["a", 2])
    assert read_data(page(issues))["classes"] == ["1", "2", "a"]


def test_page_offers_no_marker_of_missing_labels_as_a_class(page):
    scores = [*SCORES[:5], np.nan]
    issues = find_label_issues(scores, [*LABELS[:5], "?"], suggested=SUGGESTED)
    data = read_data(page(issues, X=ROWS))
    assert data["classes"] == ["cat", "cow", "dog"]
    assert sum(data["counts"]) == 5
    assert {label for row, _, label, _ in data["rows"] if row == 5} <= {-1}


@pytest.mark.parametrize("argument", ["show", "X"])
def test_page_refuses_rows_in_another_order_than_the_labels(page, argument):
    frame = pd.DataFrame(ROWS, columns=list("abc"), index=[4, 0, 3, 1, 5, 2])
    labels = pd.Series(LABELS, index=frame.index)
    issues = find_label_issues(SCORES, labels, suggested=SUGGESTED)
    for other in (frame.iloc[::-1], frame.sort_index()):
        with pytest.raises(ValueError, match=rf"^{argument} has the row names .* another order"):
            page(issues, **{argument: other})
        assert page(issues, **{argument: other.set_axis(issues.row_names)})
    for other in (frame, frame.set_axis(list("uvwxyz"))):  # the names are others
        assert page(issues, **{argument: other})


def test_page_shows_large_numbers_in_full(page):
    frame = pd.DataFrame({"id": [1234567.0, 1234568.0], "price": [0.1 + 0.2, 2000000.01]})
    data = read_data(page(find_label_issues([0.9, 0.8], [0, 1], suggested=[1, 0]), show=frame))
    assert [row[3] for row in data["rows"]] == [["1234567", "0.3"], ["1234568", "2000000.01"]]


def test_page_without_suggestions_or_issues_is_written(page):
    data = read_data(page(find_label_issues([0.9, 0.1], [True, False])))
    assert data["issues"] == [[-1, 0.9, [0]]]
    none = read_data(page(find_label_issues([0.1, 0.1], [1, 2]), X=np.eye(2), show=["a", "b"]))
    assert (none["issues"], none["rows"]) == ([], [])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"show": ["a"] * 4}, "show must have the 6 rows that the labels belong to, got 4"),
        ({"X": ROWS[:4]}, "X must have the 6 rows"),
        ({"show": ROWS}, r"show must be a data frame.*got an array of shape \(6, 3\)"),
        ({"show": [np.zeros((8, 8))] * 5 + ["none"]}, r"show must have .* got one of shape \(\)"),
        ({"show": np.zeros((6, 8, 8, 2))}, r"show must have images.* got one of shape \(8, 8, 2\)"),
        ({"show": np.full((6, 2, 2), "a")}, "show must have images of numbers.* type <U1"),
        ({"show": np.full((6, 2, 2), 1j)}, "show must have images of numbers.* type complex128"),
        ({"show": np.zeros((6, 0, 5))}, r"show must have images.* got one of shape \(0, 5\)"),
        ({"show": dict.fromkeys("abcdef", [1] * 6)}, "show must be a data frame .* got a dict"),
        ({"show": pd.DataFrame(index=range(6))}, "show must have columns, got a data frame witho"),
        ({"X": np.full((6, 2), NAN)}, "X of to_html must be numbers without .* contains NaN"),
        ({"X": pd.DataFrame({"a": ["b"] * 6})}, "X of to_html must be numbers without .* 'b'"),
        ({"X": np.full((6, 2), pd.NA)}, "X of to_html must be numbers without .*NAType"),
        ({"X": ROWS, "n_neighbors": 0}, "n_neighbors must be a positive integer, got 0"),
    ],
)
def test_page_names_the_invalid_argument(page, arguments, message):
    with pytest.raises(ValueError, match=message):
        page(some_issues(), **arguments)


def test_page_shows_frames_of_narwhals_and_an_index_of_pandas(page):
    narwhals = pytest.importorskip("narwhals")
    texts = [f"row {i}" for i in range(6)]
    for frame in (pl.DataFrame({"text": texts}), pd.DataFrame({"text": texts})):
        data = read_data(page(some_issues(), show=narwhals.from_native(frame)))
        assert data == read_data(page(some_issues(), show=frame))
    assert read_data(page(some_issues(), show=pd.Index(texts))) == read_data(
        page(some_issues(), show=texts)
    )


def test_page_shows_a_pyarrow_table_with_its_names(page):
    pyarrow = pytest.importorskip("pyarrow")
    columns = {"text": list("abcdef"), "size": list(range(6))}
    data = read_data(page(some_issues(), show=pyarrow.table(columns)))
    assert data == read_data(page(some_issues(), show=pd.DataFrame(columns)))


@pytest.mark.parametrize("mode", ["1", "L", "RGB", "RGBA", "F", "I;16", "P", "LA", "CMYK"])
def test_page_shows_images_of_pillow(page, mode):
    image = Image.new(mode, (5, 4))
    data = read_data(page(some_issues(), show=[image] * 6))
    assert data["kind"] == "image"
    expected = np.asarray(image.convert("RGBA"))[..., :3]
    found = read_image(data["rows"][0][3])
    np.testing.assert_array_equal(found[..., :3] if found.ndim == 3 else found, expected[0, 0, 0])


@pytest.mark.parametrize("name", ["notes.txt", "scan.tiff", None])
def test_page_refuses_files_that_are_no_images_for_browsers(page, tmp_path, name):
    (tmp_path / "a.png").touch()
    last = name and tmp_path / name
    with pytest.raises(ValueError, match=rf"show must have paths of images.*{name}"):
        page(some_issues(), show=[tmp_path / "a.png"] * 5 + [last])


def test_page_too_large_for_browsers_is_refused_before_it_is_read(page, tmp_path):
    with open(tmp_path / "large.png", "wb") as file:
        file.truncate(10**9)  # of which nothing is written
    with pytest.raises(ValueError, match=r"page would have 5,333 MB.*show smaller images"):
        page(some_issues(), show=[tmp_path / "large.png"] * 6)


def test_issues_are_a_table_in_notebooks():
    issues = some_issues([HOSTILE, *LABELS[1:]])
    text = issues._repr_html_()
    tags = [tag for tag, _ in Tags(text).found]
    assert set(tags) == {"p", "table", "thead", "tbody", "tr", "th", "td"}
    assert tags.count("tr") == 1 + len(issues)
    assert "4 label issues among 6 labels" in text
    many = find_label_issues(np.ones(30), np.arange(30) % 2)._repr_html_()
    assert "and 20 more" in many
    assert "<table>" not in find_label_issues([0.1], ["a"])._repr_html_()


# The decisions


def write_csv(path, lines):
    text = "row,name,given_label,decision,label\r\n" + "".join(f"{line}\r\n" for line in lines)
    path.write_text(text, encoding="utf-8-sig", newline="")
    return path


def test_review_changes_and_drops_and_confirms(tmp_path):
    lines = ["5,,cat,keep,cat", "0,,cat,change,dog", "3,,dog,drop,dog"]
    path = write_csv(tmp_path / "d.csv", lines)
    for decisions in (path, str(path), pd.read_csv(path), pl.read_csv(path)):
        y, kept, confirmed = apply_review(LABELS, decisions)
        assert y.tolist() == ["dog", *LABELS[1:]]
        assert np.flatnonzero(~kept).tolist() == [3]
        assert confirmed.tolist() == ["dog", None, None, None, None, "cat"]


@pytest.mark.parametrize(
    ("y", "change", "expected"),
    [
        (np.array([3, 5, 3]), "5", [5, 5, 3]),
        (np.array([3, 5, 3]), "7", [7, 5, 3]),
        (np.array([0.5, NAN, 0.25]), "0.25", [0.25, NAN, 0.25]),
        (np.array([True, False, True]), "False", [False, False, True]),
        (np.array(["a", "b", "a"]), "a longer one", ["a longer one", "b", "a"]),
        (np.array(["a", None, "a"], dtype=object), "b, c", ["b, c", None, "a"]),
        (pd.Series(["a", "b", "a"], index=[7, 8, 9]), "b", ["b", "b", "a"]),
        (["", "x", ""], "x", ["x", "x", ""]),
    ],
)
def test_review_keeps_the_type_of_the_labels(y, change, expected):
    first = str(np.asarray(y)[0])
    decisions = pd.DataFrame(
        {"row": [0], "given_label": [first], "decision": ["change"], "label": [change]}
    )
    mended = apply_review(y, decisions).y
    np.testing.assert_array_equal(mended, np.array(expected, dtype=mended.dtype))
    assert mended.dtype.kind == np.asarray(y).dtype.kind


@pytest.mark.parametrize(
    ("y", "cells"),
    [
        ([1, 2, 1], ["1.0", "2.0"]),
        ([1.0, 2.0, 1.0], ["1", "2"]),
        ([-0.0, 2.0, 0.0], ["0", "2"]),
        ([True, False, True], ["TRUE", "FALSE"]),
        ([1, 2.0, None], ["1.0", "2.0"]),
        ([2**53, 2**53 + 1, 2**53], [str(2**53), str(2**53 + 1)]),
        (["1", "1.0", "1"], ["1", "1.0"]),
        (["None", "a", None], ["None", "a"]),
        (["a", "nan", NAN], ["a", "nan"]),
        (["a b", "a\rb", "\n"], ["a b", "a\rb"]),
    ],
)
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_review_reads_labels_as_spreadsheets_write_them(tmp_path, y, cells, separator):
    first, second = (f'"{cell}"' for cell in cells)
    lines = [["label", "row", "decision", "given_label"], [second, "0.0", "change", first]]
    lines += [["", "1", "keep", second]]
    text = "".join(separator.join(line) + "\r\n" for line in lines)
    (tmp_path / "d.csv").write_text(text, encoding="utf-8", newline="")
    mended, _, confirmed = apply_review(y, tmp_path / "d.csv")
    assert mended.tolist()[:2] == confirmed.tolist()[:2] == [y[1], y[1]]
    assert confirmed[2] is None


def test_review_reads_frames_with_missing_cells():
    rows = {"row": [0, 1.0], "given_label": [3, 5], "decision": ["keep", "change"]}
    y, _, _ = apply_review([3, 5, 7], pd.DataFrame({**rows, "label": [None, 7]}))
    assert y.tolist() == [3, 7, 7]


@pytest.mark.parametrize("label", ["NA", "007"])
def test_review_refuses_labels_that_a_reader_has_changed(tmp_path, label):
    y = ["cat", label, "cat"]
    path = write_csv(tmp_path / "d.csv", [f"0,,cat,change,{label}"])
    assert apply_review(y, path).y.tolist() == [label, label, "cat"]
    with pytest.raises(ValueError, match=r"decisions have the label (nan|7), and y has labels of"):
        apply_review(y, pd.read_csv(path).astype(object))
    path = write_csv(tmp_path / "d.csv", [f"1,,{label},keep,{label}"])
    with pytest.raises(ValueError, match=r"pass the path, since pandas\.read_csv changes labels"):
        apply_review(y, pd.read_csv(path))


@pytest.mark.parametrize("decision", ["change", "keep"])
def test_review_takes_an_empty_cell_for_no_new_class(tmp_path, decision):
    path = write_csv(tmp_path / "d.csv", [f"0,,cat,{decision},"])
    if decision == "keep":
        assert apply_review(LABELS, path).confirmed[0] == "cat"
    else:
        with pytest.raises(ValueError, match="decisions have the label '', and y has labels of"):
            apply_review(LABELS, path)


def test_review_names_what_is_wrong_with_a_file(tmp_path):
    path = write_csv(tmp_path / "d.csv", ["0,,cat,keep,cat", "1,,dog"])
    with pytest.raises(
        ValueError, match=r"must have 5 cells in every line .*got \['1', '', 'dog'\]"
    ):
        apply_review(LABELS, path)
    path.write_text("row,given_label,decision,label\n0,žluť,keep,žluť\n", encoding="cp1250")
    with pytest.raises(ValueError, match="decisions must be a file in UTF-8"):
        apply_review(["žluť"], path)
    with pytest.raises(ValueError, match="decisions must be a path or a data frame, got a list"):
        apply_review(LABELS, [(0, "cat", "keep", "cat")])


def test_review_reads_lines_whose_last_cells_were_left_out(tmp_path):
    path = tmp_path / "d.csv"
    path.write_text("row,given_label,decision,label,comment\n0,cat,keep,cat,sure\n1,dog,drop,dog\n")
    assert apply_review(LABELS, path).kept[:2].tolist() == [True, False]


def test_review_does_not_change_its_input(tmp_path):
    y = np.array(LABELS)
    apply_review(y, write_csv(tmp_path / "d.csv", ["0,,cat,change,dog"]))
    assert y.tolist() == LABELS


def test_review_reads_long_labels_and_skips_empty_lines(tmp_path):
    labels, limit = ["a" * 200_000, "b"], csv.field_size_limit()
    path = write_csv(
        tmp_path / "d.csv", [f"0,,{labels[0]},change,b", ",,,,", "1,,b,keep,b", ",,,,"]
    )
    assert apply_review(labels, path).confirmed.tolist() == ["b", "b"]
    assert csv.field_size_limit() == limit


def test_review_reads_tables_of_pyarrow():
    pyarrow = pytest.importorskip("pyarrow")
    columns = {"row": [0], "given_label": [1], "decision": ["change"], "label": [2]}
    assert apply_review([1, 2], pyarrow.table(columns)).y.tolist() == [2, 2]


def test_review_refuses_a_label_that_the_type_of_y_cannot_hold():
    columns = {"row": [0], "given_label": [1], "decision": ["change"], "label": [300]}
    with pytest.raises(ValueError, match="have the label 300, and y has labels of type int8"):
        apply_review(np.array([1, 2], np.int8), pd.DataFrame(columns))


@pytest.mark.parametrize("lines", [[], [""]], ids=["none", "a blank line"])
def test_review_of_no_decisions_is_the_labels(tmp_path, lines):
    y, kept, confirmed = apply_review(LABELS, write_csv(tmp_path / "d.csv", lines))
    assert y.tolist() == LABELS
    assert kept.all()
    assert confirmed.tolist() == [None] * 6


def test_review_adds_to_the_labels_confirmed_before(tmp_path):
    first = apply_review(
        LABELS, write_csv(tmp_path / "1.csv", ["0,,cat,change,dog", "2,,cat,keep,"])
    )
    lines = ["0,,cat,change,cow", "3,,dog,keep,dog"]
    second = apply_review(LABELS, write_csv(tmp_path / "2.csv", lines), first.confirmed)
    assert second.confirmed.tolist() == ["cow", None, "cat", "dog", None, None]
    assert second.y.tolist() == ["cow", *LABELS[1:]]
    numbers = pd.Series([NAN, 2.0])  # with the marker of pandas
    decisions = {"row": [0], "given_label": [1], "decision": ["keep"], "label": [1]}
    y, _, confirmed = apply_review([1, 1], pd.DataFrame(decisions), numbers)
    assert (y.tolist(), confirmed.tolist()) == ([1, 2], [1, 2])


@pytest.mark.parametrize(
    ("y", "confirmed", "message"),
    [
        (LABELS, ["cat"], "y has 6, confirmed has 1"),
        (LABELS, ["cat"] * 5, "y has 6, confirmed has 5"),
        ([1, 2], ["dog", None], "confirmed has labels that are text, for example 'dog'"),
        (["1", "2"], [1, None], "confirmed has labels that are numbers, for example 1"),
        ([1, 2], [1.7, None], "confirmed has the label 1.7, and y has labels of type int64"),
        (np.array([1, 2], np.int8), [300, None], "confirmed has the label 300, and y has labels"),
        ([True, False], [2, None], "confirmed has the label 2, and y has labels of type bool"),
        ([1, 2], [True, False], "confirmed must be labels, got a boolean mask"),
        ([None, None], [1, None], "y must have labels, got none"),
    ],
)
def test_review_names_what_is_wrong_with_the_labels_confirmed_before(y, confirmed, message):
    none = pd.DataFrame(columns=["row", "given_label", "decision", "label"])
    with pytest.raises(ValueError, match=message):
        apply_review(y, none, confirmed)


@pytest.mark.parametrize(
    ("y", "label", "kind"),
    [
        ([True, False], "2", "bool"),
        ([True, False], "1", "bool"),
        ([True, False, None], "2", "bool"),
        ([1.0, 2.0], "nan", "float64"),
        ([1.0, 2.0], "inf", "float64"),
    ],
)
def test_review_refuses_new_labels_that_no_row_can_have(y, label, kind):
    columns = {"row": [1], "given_label": [y[1]], "decision": ["change"], "label": [label]}
    with pytest.raises(ValueError, match=f"the label '{label}', and y has labels of type {kind}"):
        apply_review(y, pd.DataFrame(columns))


@pytest.mark.parametrize("gap", [False, True])
@pytest.mark.parametrize("unit", ["ns", "us", "s", "D"])
def test_review_takes_dates_of_any_unit(page, unit, gap, tmp_path):
    days = np.array(["2020-01-01", "2021-06-01", "2020-01-01"], f"M8[{unit}]")
    if gap:
        days[2] = "NaT"
    issues = find_label_issues([0.9, 0.1, 0.2], days, suggested=days[[1, 1, 0]])
    names = [day + " 00:00:00" * (unit != "D") for day in ("2020-01-01", "2021-06-01")]
    assert read_data(page(issues))["classes"] == names
    columns = {"row": [0], "given_label": days[:1], "decision": "change", "label": days[[1]]}
    np.testing.assert_array_equal(apply_review(days, pd.DataFrame(columns)).y, days[[1, 1, 2]])
    path = write_csv(tmp_path / "d.csv", [f"0,,{names[0]},change,{names[1]}"])
    first = apply_review(days, path)
    again = apply_review(days, write_csv(path, []), first.confirmed)
    iso = [name.replace(" ", "T") for name in names]
    for found in (
        first,
        again,
        apply_review(days, write_csv(path, [f"0,,{iso[0]},change,{iso[1]}"])),
    ):
        np.testing.assert_array_equal(found.y, days[[1, 1, 2]])
        assert found.y.dtype == days.dtype
        assert found.confirmed[0].year == 2021


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1,,cat,keep,cat", "have the label 'cat' in row 1, and y has 'dog'"),
        ("6,,cat,keep,cat", "in row 6, and y has 6 rows"),
        ("-1,,cat,keep,cat", "in row -1, and y has 6 rows"),
        ("0,,cat,burn,cat", "got 'burn' in row 0"),
        ("0,,cat,keep,cat\r\n0,,cat,drop,cat", "got two for row 0"),
    ],
)
def test_review_refuses_decisions_of_other_labels(tmp_path, line, message):
    with pytest.raises(ValueError, match=message):
        apply_review(LABELS, write_csv(tmp_path / "d.csv", [line]))


def test_review_refuses_labels_of_another_type_and_tables_without_the_columns():
    decisions = pd.DataFrame(
        {"row": [0], "given_label": [1], "decision": ["change"], "label": ["many"]}
    )
    with pytest.raises(ValueError, match="have the label 'many', and y has labels of type int"):
        apply_review([1, 2], decisions)
    with pytest.raises(ValueError, match=r"must have the columns row, .*got none named label"):
        apply_review([1, 2], decisions.drop(columns="label"))
