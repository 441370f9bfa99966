"""The review page in Chromium: keyboard, filters, download, narrow and dark windows."""

import base64
import re
from types import SimpleNamespace

import chromium
import numpy as np
import pandas as pd
import pytest
from test_review import HOSTILE

from sklearn_clidmu import apply_review, find_label_issues

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(chromium.FOUND is None, reason="needs Chromium or Chrome"),
]

CLASSES = ['a "b", c', HOSTILE, "two\r\nlines", "žluťoučký 🐎", ""]
N_ROWS, N_ISSUES = 300, 120


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with chromium.Chromium(tmp_path_factory.mktemp("profile")) as started:
        started.resize(1280, 900)
        yield started


@pytest.fixture(scope="module")
def reviewed(tmp_path_factory):
    """Labels, their issues, and the page of them; issue i is row i, those first most suspect."""
    rng = np.random.RandomState(0)
    true = rng.randint(0, 5, N_ROWS)
    given = np.where(np.arange(N_ROWS) < N_ISSUES, (true + 1) % 5, true)
    names = np.array(CLASSES, dtype=object)
    scores = np.linspace(1, 0, N_ROWS)
    issues = find_label_issues(scores, names[given], suggested=names[true])
    path = tmp_path_factory.mktemp("page") / "review.html"
    texts = [f"row number {row} {HOSTILE}" for row in range(N_ROWS)]
    issues.to_html(path, show=texts, X=rng.normal(size=(N_ROWS, 2)), n_neighbors=2)
    return SimpleNamespace(y=names[given], true=names[true], issues=issues, url=path.as_uri())


@pytest.fixture
def page(browser, reviewed):
    """The page, without decisions."""
    browser.open(reviewed.url)
    browser("localStorage.clear()")
    browser.open(reviewed.url)
    yield browser
    assert browser.complaints() == []


def text(page, selector):
    return page(f"document.querySelector({selector!r}).innerText")


def focused_row(page):
    return page("document.activeElement.closest('.card')?.getAttribute('aria-label')")


def listed_rows(page):
    cards = page("[...document.querySelectorAll('.card')].map(c => c.getAttribute('aria-label'))")
    return [int(name.removeprefix("Row ")) for name in cards]


def choose(page, name, value):
    """Set a filter as a person does, whose choice raises an event."""
    page(f"$({name!r}).value = {value!r}; $({name!r}).dispatchEvent(new Event('input'))")


def download(page, folder):
    options = {"behavior": "allow", "downloadPath": str(folder), "eventsEnabled": True}
    page.send("Browser.setDownloadBehavior", **options)
    page("$('download').click()")
    page.wait("Browser.downloadProgress", state="completed")
    [path] = folder.iterdir()
    return path


def test_page_says_how_many_labels_are_wrong(page):
    assert text(page, "#summary").startswith("120 label issues among 300 labels in 5 classes.")
    assert text(page, "#progress") == "0 of 120 decided"
    assert page("document.querySelectorAll('#matrix button').length") == 5


def test_keys_decide_and_move_on(page):
    page.press("n")
    assert focused_row(page) == "Row 0"
    page.press("k", "s", "d")
    assert focused_row(page) == "Row 3"
    states = page("[...document.querySelectorAll('.status')].slice(0, 4).map(s => s.innerText)")
    kept, changed, dropped, none = states
    assert (kept, dropped, none) == ("kept", "dropped", "")
    assert changed.startswith("changed to ")
    assert text(page, "#progress") == "3 of 120 decided"
    page.press("ArrowLeft", "u")
    assert focused_row(page) == "Row 2"
    assert text(page, "#progress") == "2 of 120 decided"
    page.press("p", "p", "p", "p", "ArrowRight")
    assert focused_row(page) == "Row 1"


def test_keys_held_down_decide_once(page):
    page.press("n", "k")
    event = {"key": "k", "text": "k", "windowsVirtualKeyCode": ord("K"), "autoRepeat": True}
    for _ in range(5):
        page.send("Input.dispatchKeyEvent", type="keyDown", **event)
    assert text(page, "#progress") == "1 of 120 decided"
    assert focused_row(page) == "Row 1"


def test_keys_choose_another_class(page):
    page.press("n", "c")
    assert page("document.activeElement.tagName") == "SELECT"
    page.press("ArrowDown", "ArrowDown", "Enter")
    assert focused_row(page) == "Row 1"
    assert page("outcome(issues[0])") == "change"
    assert page("issues[0].label") == 1
    page.press("/")
    assert page("document.activeElement.id") == "search"
    page.press("k")  # a letter of a word, and no decision
    assert page("$('search').value") == "k"
    assert text(page, "#progress") == "1 of 120 decided"
    page.press("Escape")
    assert page("document.activeElement.id") != "search"


def test_buttons_decide_and_keep_the_focus(page):
    page("document.querySelector('.card button').focus()")
    page.press("Enter")
    assert text(page, ".status") == "kept"
    assert page("document.activeElement.getAttribute('aria-pressed')") == "true"
    page("document.querySelector('.card .undo').focus()")
    page.press("Enter")
    assert text(page, ".status") == ""
    assert focused_row(page) == "Row 0"


def test_keys_go_on_to_the_next_page(page):
    assert listed_rows(page) == list(range(50))
    page("go(49)")
    page.press("k")
    assert focused_row(page) == "Row 50"
    assert listed_rows(page) == list(range(50, 100))
    assert text(page, "#range") == "51\u2013100 of 120"
    page("$('next').click()")
    assert listed_rows(page) == list(range(100, 120))
    assert page("$('next').disabled")


def test_filters_and_orders_show_the_issues_asked_for(page, reviewed):
    of_class = np.flatnonzero(reviewed.y[:N_ISSUES] == CLASSES[0]).tolist()
    code = str(sorted(CLASSES).index(CLASSES[0]))
    choose(page, "given", code)
    assert listed_rows(page) == of_class
    choose(page, "sort", "trust")
    assert listed_rows(page) == of_class[::-1]
    page.press("n", "k")
    choose(page, "state", "done")
    assert listed_rows(page) == of_class[-1:]
    choose(page, "state", "open")
    choose(page, "sort", "row")
    assert listed_rows(page) == of_class[:-1]
    for name in ("given", "state"):
        choose(page, name, "")
    choose(page, "search", "NUMBER 11")
    assert listed_rows(page) == [11, *range(110, 120)]
    choose(page, "search", "nowhere")
    assert text(page, "#range") == "No issues to show"
    choose(page, "search", "")
    page("document.querySelector('#matrix button').click()")
    shown = listed_rows(page)
    assert shown
    assert len({(reviewed.y[row], reviewed.true[row]) for row in shown}) == 1


def test_decisions_are_still_there_when_the_page_is_opened_again(page, reviewed):
    page.press("n", "k", "d")
    page.open(reviewed.url)
    assert text(page, "#progress") == "2 of 120 decided"
    assert text(page, ".status") == "kept"
    assert not page("$('unsaved').checkVisibility()")


def test_tabs_with_the_same_page_keep_the_decisions_of_both(page):
    page.press("n", "k")
    # What the other tab stores, and the event that a browser raises in this one.
    page("""localStorage.setItem(KEY, "[[0,0],[1,-1]]");
        dispatchEvent(new StorageEvent("storage", { key: KEY }))""")
    assert text(page, "#progress") == "2 of 120 decided"
    assert page("document.querySelectorAll('.status')[1].innerText") == "dropped"
    page.press("d")  # row 1, which has the focus
    page.press("s")
    assert page("JSON.parse(localStorage.getItem(KEY)).map(one => one[0])") == [0, 1, 2]


def test_page_says_where_decisions_are_not_kept(browser, reviewed, tmp_path):
    path = tmp_path / "review.html"
    find_label_issues([0.9, 0.1], ["a", "b"], suggested=["b", "b"]).to_html(path)
    content = base64.b64encode(path.read_bytes()).decode()
    browser.open(f"data:text/html;base64,{content}")  # of no origin, so without a store
    browser.press("n", "k")
    assert browser("$('unsaved').checkVisibility()")
    assert text(browser, "#progress") == "1 of 1 decided"


def test_downloaded_decisions_are_applied_to_the_labels(page, reviewed, tmp_path):
    for row in range(6):
        page.press(*(["n"] if row == 0 else []), "ksdksd"[row])
    page.press("c", "ArrowDown", "ArrowDown", "ArrowDown", "Enter")
    y, kept, confirmed = apply_review(reviewed.y, download(page, tmp_path))
    expected = reviewed.y.copy()
    expected[[1, 4]] = reviewed.true[[1, 4]]
    expected[6] = sorted(CLASSES)[2]
    np.testing.assert_array_equal(y, expected)
    assert np.flatnonzero(~kept).tolist() == [2, 5]
    looked_at = np.isin(np.arange(N_ROWS), [0, 1, 3, 4, 6])
    np.testing.assert_array_equal(confirmed, np.where(looked_at, expected, None))


def test_text_of_the_caller_is_never_markup(page):
    assert page("document.title") == "Label review"
    assert page("document.querySelectorAll('script').length") == 2
    assert page("document.querySelectorAll('img, [onerror]').length") == 0
    assert HOSTILE in page("document.querySelector('.row-text').textContent")


def test_page_needs_no_network(page, reviewed):
    urls = [
        message["params"]["request"]["url"]
        for message in page.messages
        if message["method"] == "Network.requestWillBeSent"
    ]
    assert urls == [reviewed.url]


@pytest.mark.parametrize("kind", ["none", "text", "table", "image"])
def test_page_is_not_wider_than_a_phone(browser, tmp_path, kind):
    rng = np.random.RandomState(0)
    labels = np.array([f"class {'x' * 60} {code}" for code in range(30)])[np.arange(300) % 30]
    issues = find_label_issues(rng.uniform(size=300), labels, suggested=np.roll(labels, 1))
    show = {
        "text": ["w" * 500] * 300,
        "table": pd.DataFrame(rng.normal(size=(300, 40))).rename(columns=lambda c: f"{c}" * 20),
        "image": rng.uniform(size=(300, 20, 600)),
    }.get(kind)
    issues.to_html(tmp_path / "review.html", show=show, X=rng.normal(size=(300, 2)))
    browser.resize(390, 800)
    browser.open((tmp_path / "review.html").as_uri())
    width = browser("document.documentElement.scrollWidth")
    browser.resize(1280, 900)
    assert width == 390


def luminance(color):
    """Relative luminance of the WCAG."""
    channels = np.array(re.findall(r"[\d.]+", color)[:3], dtype=float) / 255
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return linear @ [0.2126, 0.7152, 0.0722]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colors_follow_the_scheme_and_have_contrast(page, scheme):
    page.resize(1280, 900, scheme)
    page.press("n", "k")
    pairs = page("""[...document.querySelectorAll("p, span, td, th, button, select, strong, kbd")]
        .filter(e => e.checkVisibility() && !e.disabled && !e.closest(":disabled") && e.innerText)
        .map(e => {
            const seen = (one) => getComputedStyle(one).backgroundColor;
            let behind = e;
            while (seen(behind) === "rgba(0, 0, 0, 0)") behind = behind.parentElement;
            return [getComputedStyle(e).color, seen(behind)];
        })""")
    back = page("getComputedStyle(document.body).backgroundColor")
    page.resize(1280, 900)
    assert (luminance(back) < 0.05) == (scheme == "dark")
    opaque = {tuple(pair) for pair in pairs if pair[1].startswith("rgb(")}
    assert len(opaque) > 5
    for color, behind in opaque:
        dark, light = sorted([luminance(color), luminance(behind)])
        assert (light + 0.05) / (dark + 0.05) >= 4.5, (color, behind)


def test_controls_have_names(page):
    tree = page.send("Accessibility.getFullAXTree")["nodes"]
    kinds = {"button", "combobox", "searchbox", "progressbar", "list", "navigation", "group"}
    controls = [node for node in tree if node.get("role", {}).get("value") in kinds]
    assert {node["role"]["value"] for node in controls} >= kinds - {"group"}
    assert [node for node in controls if not node["name"]["value"]] == []
