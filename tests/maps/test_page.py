"""The review page in headless Chromium: every control, no network, no console error, readable by all."""

import base64
import csv
import io
import json
import re
import shutil
import time
from urllib.parse import unquote

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shapely
from PIL import Image
from pyproj import CRS, Transformer

from helpers import InputError
from helpers.files import sha256
from helpers.land.classes import CLASS_NAMES, SCORE_RAMP, UNCERTAINTY_RAMP
from helpers.land.grid import TILE_M
from helpers.maps import page as review_page
from helpers.maps.page import pictures as page_pictures
from helpers.runs import Run
from helpers.scoring.table import read
from helpers.tiles import store as tilestore
from helpers.tiles.pictures import decode_all, encode

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
ROW, COL = 19480, 1600


@pytest.fixture(scope="module")
def chromium():
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine: install it (on Debian: apt-get install chromium)")
    from playwright.sync_api import sync_playwright
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def county():
    """The page of the default run."""
    path = Run("sample").maps / "99007.html"
    if not path.is_file():
        pytest.fail("expected runs/sample/maps/99007.html of the default run, got none. Run setup_scripts/run_tests.sh "
                    "without naming files, or setup_scripts/run_tutorial.sh first.")
    return path


@pytest.fixture
def visit(chromium, tmp_path):
    """Open a page. At the end, nothing may have failed, been logged, or been requested from another machine."""
    pages, faults = [], []

    def open_page(path, **options):
        context = chromium.new_context(viewport={"width": 1400, "height": 900}, accept_downloads=True, **options)
        page = context.new_page()
        pages.append(context)
        page.on("console", lambda message: faults.append(message.text) if message.type in ("error", "warning")
                else None)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("requestfailed", lambda request: faults.append("failed: " + request.url[:100]))
        page.on("request", lambda request: None if re.match("(file|data|blob):", request.url)
                else faults.append("asked for " + request.url[:100]))
        page.goto(path.as_uri())
        page.wait_for_selector("body[data-ready=true]", timeout=30_000)
        return page
    yield open_page
    for context in pages:
        context.close()
    assert not faults


def shown(page):
    """The map as pixels."""
    page.wait_for_timeout(400)
    page.locator("#over").evaluate("e => e.style.visibility = 'hidden'")
    picture = np.asarray(Image.open(io.BytesIO(page.locator("#map").screenshot())).convert("RGB")).astype(int)
    page.locator("#over").evaluate("e => e.style.visibility = 'visible'")
    return picture


def layer(page, name):
    """The box of a layer, in the panel that is opened for it."""
    page.locator("#over details").first.evaluate("e => e.open = true")
    return page.get_by_role("checkbox", name=name, exact=True)


def told(page, words):
    """Wait until the page says so."""
    from playwright.sync_api import expect
    expect(page.locator("#progress")).to_contain_text(words)


def data_of(path):
    text = path.read_text(encoding="utf-8")
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)[1])


def mean_change(a, b):
    return np.abs(a - b).mean()


def test_the_page_opens_quickly_and_is_small(visit, county):
    assert county.stat().st_size < 25e6
    start = time.monotonic()
    visit(county)
    assert time.monotonic() - start < 3 * (5 if _busy() else 1)


def _busy():
    """Whether the machine does much else, so that times say little."""
    import os
    return os.getloadavg()[0] > os.cpu_count()


def test_each_layer_is_drawn_and_its_opacity_holds(visit, county):
    page = visit(county)
    page.get_by_text("Layers", exact=True).click()
    names = page.locator("#layers label").all_inner_texts()
    assert names == ["Pictures 2010", "Pictures 2016", "Labels 2011", "Predicted 2010", "Predicted 2016",
                     "Change score", "Uncertainty 2016", "Candidates", "County boundary", "Your marks"]
    for name in names[:-1]:  # nothing is marked yet
        box, opacity = layer(page, name), page.get_by_label("Opacity of " + name)
        was = box.is_checked()
        before = shown(page)
        box.click()
        after = shown(page)
        assert box.is_checked() != was
        assert mean_change(before, after) > 0.3, f"{name} shows nothing"
        if not was:
            opacity.fill("10")
            faint = shown(page)
            assert mean_change(before, faint) < 0.5 * mean_change(before, after), name
        box.click()
        assert mean_change(before, shown(page)) < 0.05, f"{name} stays"


def test_the_swipe_parts_the_two_years(visit, county):
    page = visit(county)
    layer(page, "Candidates").click()
    pictures = {}
    for share in ("0", "50", "100"):
        page.locator("#swipe").fill(share)
        pictures[share] = shown(page)
    half = pictures["0"].shape[1] // 2
    assert mean_change(pictures["0"], pictures["100"]) > 5
    assert mean_change(pictures["50"][:, :half - 8], pictures["100"][:, :half - 8]) < 1
    assert mean_change(pictures["50"][:, half + 8:], pictures["0"][:, half + 8:]) < 1
    page.locator("h1").click()
    page.keyboard.press("[")
    assert page.locator("#swipe").input_value() == "95"
    page.keyboard.press("]")
    assert page.locator("#swipe").input_value() == "100"


def test_a_click_shows_the_tile_that_lies_there(visit, county):
    """After a click at a position computed from the scale, the page shows the tile's name and its picture."""
    page, data = visit(county), data_of(county)
    clicked = page.evaluate("""() => {
        const i = Math.floor(D.tiles.row.length / 3), [x, y] = corner(i);
        const box = document.getElementById('map').getBoundingClientRect();
        const [px, py] = map.getPixelFromCoordinate([x + 60, y + 150]);
        return {i: i, x: box.left + px, y: box.top + py};
    }""")
    page.mouse.click(clicked["x"], clicked["y"])
    page.wait_for_selector("#tile-name[data-tile]")
    i = clicked["i"]
    name = data["tiles"]["id"][i]
    assert page.locator("#tile-name").get_attribute("data-tile") == name
    run = Run("sample")
    for year, img in zip((2010, 2016), page.locator(".pictures img").all()):
        stored = tilestore.read(run.tiles, "99007", year, columns=["tile_id", "image"])
        picture = decode_all(stored[stored["tile_id"] == name], (160, 160)).astype(int)[0]
        encoded = img.get_attribute("src").split(",", 1)[1]
        on_page = np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded))).convert("RGB")).astype(int)
        assert np.abs(on_page - picture).mean() < 14
    predicted = read(run.predictions)
    predicted = predicted[(predicted["tile_id"] == name) & (predicted["county"] == "99007")].set_index("year")
    told = page.locator("#tile tbody tr").all_inner_texts()
    best = CLASS_NAMES[int(predicted.loc[2016, "class_id"])]
    number = {"<1%": 0, ">99%": 100}
    shares = {name: number.get(share, share.rstrip("%")) for name, _, share in (line.split("\t") for line in told)}
    shares = {name: float(share) for name, share in shares.items()}
    assert max(shares, key=shares.get) == best and abs(sum(shares.values()) - 100) <= 3
    around = page.locator(".neighbours > *")
    assert around.count() == 9 and around.nth(4).inner_text() == best
    page.locator(".neighbours button").first.focus()
    page.keyboard.press("Enter")
    other = page.locator("#tile-name").get_attribute("data-tile")
    assert other != name
    # The button is gone; the reader is at the new tile's heading, and hears its name.
    assert page.evaluate("document.activeElement.id") == "tile-name"
    assert page.locator("#said").inner_text().startswith(other)
    words = page.locator(".neighbours > *")
    assert not words.evaluate_all("all => all.filter(e => e.scrollWidth > e.clientWidth).length")


def test_candidates_are_ranked_and_next_goes_through_them(visit, county):
    page, data = visit(county), data_of(county)
    scores = [c["score"] for c in data["listed"]]
    assert scores == sorted(scores, reverse=True) and len(scores) > 100
    page.locator("#next").click()
    first = page.locator("#tile-name").get_attribute("data-tile")
    assert page.locator("#list [aria-current=true]").inner_text().startswith("#1")
    page.locator("#next").click()
    assert page.locator("#list [aria-current=true]").inner_text().startswith("#2")
    page.locator("#previous").click()
    assert page.locator("#tile-name").get_attribute("data-tile") == first
    page.keyboard.press("p")
    assert page.locator("#list [aria-current=true]").inner_text().startswith(f"#{len(scores)}")
    page.locator("#list button").nth(4).click()
    assert data["listed"][4]["reason"] in page.locator("#tile").inner_text()
    assert page.locator("#said").inner_text().startswith(page.locator("#tile-name").inner_text())
    assert f"#5 of {len(scores)}" in page.locator("#said").inner_text()


def test_a_candidate_is_half_or_more_everywhere(visit, county):
    page, data = visit(county), data_of(county)
    scores = [c["score"] for c in data["listed"]]
    n = sum(score >= 0.5 for score in scores)
    assert data["candidates"] == n < len(scores) and min(scores) >= 0.1
    assert f"{n:,} candidates" in page.locator("#about").inner_text()
    told(page, f"{n} candidates, with a score of 50% or more; then {len(scores) - n} less likely tiles")
    assert page.evaluate("candidateLayer.getSource().getFeatures().length") == n
    page.keyboard.press("n")
    page.keyboard.press("p")  # the last of the list
    assert "not a candidate" in page.locator("#tile").inner_text()


@pytest.mark.parametrize("swipe", ["50", "20", "90"])
def test_a_chosen_tile_is_not_cut_by_the_swipe(visit, county, swipe):
    page, data = visit(county), data_of(county)
    page.locator("#swipe").fill(swipe)
    page.locator("h1").click()
    page.keyboard.press("n")
    i = data["listed"][0]["tile"]
    sides = [(data["tiles"]["col"][i] + k) * 224 for k in (0, 1)]
    page.evaluate("map.renderSync()")  # pixels are those of the last frame drawn
    left, right = (page.evaluate(f"map.getPixelFromCoordinate([{side}, 0])[0]") for side in sides)
    width = page.evaluate("map.getSize()[0]")
    line = width * int(swipe) / 100
    assert 0 <= left < right <= width and (right <= line or left >= line)


def test_all_that_is_needed_to_review_is_seen_in_a_small_window(visit, county):
    page = visit(county)
    page.set_viewport_size({"width": 1366, "height": 650})
    page.keyboard.press("n")
    for what in ("#marks button", "#tile strong", "#over summary"):
        for box in [one.bounding_box() for one in page.locator(what).all()]:
            assert box["y"] + box["height"] <= 650, what
    before, after = (img.bounding_box() for img in page.locator(".pictures img").all())
    assert before["y"] == after["y"] and after["y"] + after["height"] < 650
    assert before["x"] + before["width"] <= after["x"]
    assert page.locator("#save").bounding_box()["y"] == page.locator("#load").bounding_box()["y"]


# A window of 1366 x 650 has half as many pixels each way at 200%.
@pytest.mark.parametrize("width, height", [(700, 900), (683, 325), (390, 844)])
def test_a_small_window_is_one_column_and_only_the_window_scrolls(visit, county, width, height):
    page = visit(county)
    page.set_viewport_size({"width": width, "height": height})
    page.locator("#next").click()
    for panel in page.locator("details").all():
        panel.evaluate("e => e.open = true")
    page.wait_for_timeout(200)
    assert page.evaluate("document.scrollingElement.scrollWidth") <= width
    inner = page.evaluate("""[...document.querySelectorAll('body *')].filter(e => e.scrollHeight > e.clientHeight + 1
        && ['auto', 'scroll'].includes(getComputedStyle(e).overflowY)).map(e => e.id || e.tagName)""")
    assert not inner
    end = page.locator("#list").evaluate("e => e.getBoundingClientRect().bottom + scrollY")
    assert page.evaluate("document.scrollingElement.scrollHeight") - end < 40, "a blank strip"
    parts = [page.locator(part).bounding_box() for part in ("#map", "#swipe-bar", "#over", "#tile-side", "#list-side")]
    for above, below in zip(parts, parts[1:]):
        assert above["y"] + above["height"] <= below["y"] + 1 and below["width"] > 0.95 * width
    for button in page.locator("button:visible, summary:visible").all()[:40]:
        box = button.bounding_box()
        assert min(box["width"], box["height"]) >= 44, button.inner_text()
    page.locator("#list button").nth(30).click()  # far below the map
    assert page.locator("#map").bounding_box()["y"] >= 0


@pytest.mark.parametrize("width, height", [(1366, 650), (1000, 700)])
def test_the_legend_hides_no_layer(visit, county, width, height):
    page = visit(county)
    page.set_viewport_size({"width": width, "height": height})
    for panel in page.locator("#over details").all():
        panel.evaluate("e => e.open = true")
    hidden = page.evaluate("""[...document.querySelectorAll('#layers input')].filter(input => {
        const box = input.getBoundingClientRect();
        return document.elementFromPoint(box.x + box.width / 2, box.y + box.height / 2) !== input; }).length""")
    assert hidden == 0
    side = page.locator("#map-side").bounding_box()
    for panel in page.locator("#over, #over details").all() if width > 1200 else [page.locator("#over")]:
        box = panel.bounding_box()
        assert box["x"] >= 0 and box["y"] + box["height"] <= side["y"] + side["height"] - 44


def test_the_list_uses_the_space_it_has(visit, county):
    page = visit(county)
    page.keyboard.press("n")
    box = page.locator("#list").bounding_box()
    assert box["height"] > 650 and 900 - 20 < box["y"] + box["height"] <= 900
    assert page.locator("#list").evaluate("e => e.clientWidth >= e.scrollWidth")
    # A list of thousands grows as it is scrolled.
    assert page.locator("#list li").count() == min(200, page.evaluate("D.listed.length"))


def test_the_swipe_line_itself_is_dragged(visit, county):
    page = visit(county, has_touch=True)
    box = page.locator("#map").bounding_box()
    centre = page.evaluate("map.getView().getCenter()")

    def at(share):
        return {"x": box["x"] + share * box["width"], "y": box["y"] + 200}
    page.mouse.move(**at(0.5))
    page.mouse.down()
    page.mouse.move(**at(0.4), steps=3)
    page.mouse.move(**at(0.25), steps=3)
    page.mouse.up()
    assert page.locator("#swipe").input_value() == "25"
    page.mouse.move(**at(0.8))
    assert page.locator("#swipe").input_value() == "25"
    finger = page.context.new_cdp_session(page)
    for kind, points in (("touchStart", [at(0.25)]), ("touchMove", [at(0.5)]), ("touchMove", [at(0.7)]),
                         ("touchEnd", [])):
        finger.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    assert page.locator("#swipe").input_value() == "70"
    line = page.locator("#line").bounding_box()
    assert line["x"] + line["width"] / 2 == pytest.approx(at(0.7)["x"], abs=2)
    assert page.evaluate("map.getView().getCenter()") == centre, "the map stays where it is"


def test_keys_of_a_letter_can_be_switched_off(visit, county):
    page = visit(county)
    page.get_by_text("Keys and sources").click()
    page.locator("#letters").click()
    page.locator("h1").click()
    page.keyboard.press("n")
    assert page.locator("#list [aria-current=true]").count() == 0
    page.reload()
    page.wait_for_selector("body[data-ready=true]")
    page.keyboard.press("n")
    assert page.locator("#list [aria-current=true]").count() == 0
    page.get_by_text("Keys and sources").click()
    page.locator("#letters").click()
    page.keyboard.press("n")
    assert page.locator("#list [aria-current=true]").count() == 1


def saved(page, folder):
    """The file that Save marks writes, and its rows."""
    with page.expect_download() as download:
        page.locator("#save").click()
    path = folder / download.value.suggested_filename
    download.value.save_as(path)
    return path, list(csv.DictReader(io.StringIO(path.read_bytes().decode(), newline="")))


def test_marks_are_saved_and_loaded_again(visit, county, tmp_path):
    page = visit(county)
    page.keyboard.press("n")
    for mark in ("t", "f", "u"):
        page.keyboard.press(mark)
    # Each mark went on to the next tile of the list.
    assert page.locator("#list [aria-current=true]").inner_text().startswith("#4")
    page.locator("#marks").get_by_role("button", name="unsure").click()
    page.locator("#previous").click()
    page.locator("#marks").get_by_role("button", name="true").click()
    assert "4 marked" in page.locator("#progress").inner_text()
    # A second click undoes the first, and stays.
    page.locator("#previous").click()
    page.locator("#marks").get_by_role("button", name="true").click()
    assert "3 marked" in page.locator("#progress").inner_text()
    assert page.locator("#marks [aria-pressed=true]").count() == 0
    assert page.locator("#list [aria-current=true]").inner_text().startswith("#4")
    page.locator("#marks").get_by_role("button", name="true").click()
    path, rows = saved(page, tmp_path)
    assert path.name == "marks_99007.csv" and [r["mark"] for r in rows[:5]] == ["true", "false", "unsure", "true", ""]
    assert rows[0]["tile_id"] == page.evaluate("nameOf(D.listed[0].tile)")

    other = visit(county)  # another reviewer's browser: nothing is marked there
    assert " 0 marked" in other.locator("#progress").inner_text()
    with other.expect_file_chooser() as chooser:
        other.locator("#load").click()
    chooser.value.set_files(path)
    told(other, "4 marked")
    assert other.locator("#list .mark").all_inner_texts()[:5] == ["true", "false", "unsure", "true", ""]
    other.reload()
    other.wait_for_selector("body[data-ready=true]")
    assert "4 marked" in other.locator("#progress").inner_text()


def test_a_key_held_down_marks_one_tile(visit, county):
    page = visit(county)
    page.keyboard.press("n")
    for _ in range(4):  # the browser repeats a key that is held
        page.keyboard.down("t")
    page.keyboard.up("t")
    assert " 1 marked" in page.locator("#progress").inner_text()


def test_the_last_of_the_list_goes_nowhere_when_marked(visit, county):
    page = visit(county)
    page.keyboard.press("n")
    page.keyboard.press("p")
    page.keyboard.press("f")
    assert page.locator("#list [aria-current=true]").inner_text().startswith(f"#{page.locator('#list li').count()}")


def test_a_tile_that_the_list_misses_is_marked_too(visit, county, tmp_path):
    page, data = visit(county), data_of(county)
    missed = page.evaluate("Array.from({length: N}, (_, i) => i).filter(i => !rank.has(i))[40]")
    page.evaluate(f"centre({missed})")
    page.evaluate("map.renderSync()")
    box = page.locator("#map").bounding_box()
    x, y = page.evaluate(f"map.getPixelFromCoordinate(corner({missed}).map(m => m + TILE / 2))")
    page.mouse.click(box["x"] + x, box["y"] + y)
    page.wait_for_selector("#tile-name[data-tile]")
    name = data["tiles"]["id"][missed]
    assert page.locator("#tile-name").inner_text() == name and "Not on the list" in page.locator("#tile").inner_text()
    page.keyboard.press("t")
    assert page.locator("#tile-name").inner_text() == name
    assert " 1 marked" in page.locator("#progress").inner_text()
    path, rows = saved(page, tmp_path)
    assert len(rows) == len(data["listed"]) + 1 and not any(row["mark"] for row in rows[:-1])
    assert (rows[-1]["tile_id"], rows[-1]["mark"]) == (name, "true")
    assert float(rows[-1]["score"]) == data["tiles"]["score"][missed] / 1000 < 0.1
    other = visit(county)
    other.locator("#file").set_input_files(path)
    told(other, "1 marks read.")
    assert other.evaluate(f"marks.get({missed})") == "true"


def test_marks_show_on_the_map(visit, county):
    page = visit(county)
    page.keyboard.press("n")
    page.wait_for_timeout(300)
    before = shown(page)
    page.evaluate("setMark(tile, 'true')")
    x, y = (int(v) for v in page.evaluate(
        "map.getPixelFromCoordinate(corner(tile).map((m, at) => m + TILE * [0.15, 0.85][at]))"))
    around = np.s_[y - 12:y + 12, x - 12:x + 12]
    marked = shown(page)
    assert mean_change(before[around], marked[around]) > 30
    assert mean_change(before, marked) < 1
    page.evaluate("setMark(tile, 'false')")
    assert mean_change(shown(page)[around], marked[around]) > 30
    layer(page, "Your marks").click()
    assert mean_change(shown(page)[around], before[around]) < 3


# Names that look like a formula, hold a separator of CSV files, or look like our own escape.
ODD = ["=1+1", '=HYPERLINK("http://localhost/?"&A1,"x")', "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", " =1", "a,b",
       'a"b', '"a"', "a\nb", "a\r\nb", "'=1+1", "''", "'", "b;c", " b", "b ", "ü\u2028", "__proto__", "constructor",
       "＝1", "<!--<script>", "</script><script>document.title='ran'</script>"]


def test_marks_of_odd_names_are_no_formulas_and_load_again(visit, tmp_path):
    tiles, scores, boundary = tables(5, 6)
    tiles["tile_id"] = scores["tile_id"] = ODD + [f"usual-{k}" for k in range(len(tiles) - len(ODD))]
    tiles[["row", "col"]] = tiles[["row", "col"]].iloc[::-1].to_numpy()
    path = review_page.write(tmp_path / "odd.html", store_of(tmp_path / "store", 5, 6), "99007", (2010, 2016), tiles,
                             scores, "EPSG:26911", boundary, 2011, "Odd", "made up")
    page = visit(path)
    given = {name: ("true", "false", "unsure")[k % 3] for k, name in enumerate(ODD)}
    for name, mark in given.items():
        page.evaluate("([name, mark]) => { choose(D.tiles.id.indexOf(name), false); toggle(mark); }", [name, mark])
    file, rows = saved(page, tmp_path)
    cells = [cell for row in rows for cell in row.values()]
    assert len(rows) >= len(ODD) and not any(re.match(r"[\s=+\-@＝]", cell) for cell in cells)
    assert {re.sub("^'", "", row["tile_id"]): row["mark"] for row in rows if row["mark"]} == given
    marks = "Object.fromEntries([...marks].map(([i, mark]) => ['id ' + nameOf(i), mark]))"
    other = visit(path)
    other.locator("#file").set_input_files(file)
    told(other, f"{len(ODD)} marks read.")
    other.reload()
    other.wait_for_selector("body[data-ready=true]")
    assert other.evaluate(marks) == {"id " + name: mark for name, mark in given.items()}
    assert other.title() == "Odd"


def test_a_file_of_something_else_is_refused_in_words(visit, county, tmp_path):
    page = visit(county)
    wrong = tmp_path / "wrong.csv"
    wrong.write_text("where,verdict\n1,2\n")
    page.locator("#file").set_input_files(wrong)
    told(page, "tile_id and mark")
    first = page.evaluate("nameOf(D.listed[0].tile)")
    wrong.write_text(f"tile_id,mark\nutm99-00000-00000,true\n{first},perhaps\n")
    page.locator("#file").set_input_files(wrong)
    told(page, "2 lines")
    assert " 0 marked" in page.locator("#progress").inner_text()


@pytest.mark.parametrize("text", ["\ufefftile_id;row;col;score;mark\r\n{};1;1;0,9;TRUE\r\n{};1;1;0,9;Unsure\r\n",
                                  'tile_id,mark\n"{}","TRUE"\n"{}",unsure\n'])
def test_what_a_spreadsheet_makes_of_a_file_is_read(visit, county, tmp_path, text):
    page, path = visit(county), tmp_path / "excel.csv"
    path.write_text(text.format(*page.evaluate("[0, 1].map(k => nameOf(D.listed[k].tile))")), encoding="utf-8")
    page.locator("#file").set_input_files(path)
    told(page, "2 marks read.")
    assert page.locator("#list .mark").all_inner_texts()[:3] == ["true", "unsure", ""]


def test_nothing_is_marked_by_a_file_without_marks(visit, county, tmp_path):
    page, path = visit(county), tmp_path / "empty.csv"
    path.write_text("tile_id,mark\n")
    page.locator("#file").set_input_files(path)
    told(page, "0 marks read.")
    assert " 0 marked" in page.locator("#progress").inner_text()


def test_the_keyboard_moves_and_chooses(visit, county):
    page = visit(county)
    page.locator("#map").focus()
    start = page.evaluate("[map.getView().getCenter(), map.getView().getResolution()]")
    page.keyboard.press("+")
    page.wait_for_timeout(500)
    assert page.evaluate("map.getView().getResolution()") < start[1]
    page.keyboard.press("ArrowUp")
    page.wait_for_timeout(500)
    assert page.evaluate("map.getView().getCenter()")[1] > start[0][1]
    page.keyboard.press("Enter")
    assert page.locator("#tile-name").get_attribute("data-tile")
    page.keyboard.press("Home")
    assert page.evaluate("map.getView().getCenter()") == start[0]
    page.get_by_title("Zoom in").click()
    page.wait_for_timeout(500)
    zoomed = page.evaluate("map.getView().getResolution()")
    page.get_by_title("Zoom out").click()
    page.wait_for_timeout(500)
    assert zoomed < page.evaluate("map.getView().getResolution()")
    number, unit = page.locator("#scale").inner_text().split()
    length = float(number) * {"m": 1, "km": 1000}[unit] / page.evaluate("map.getView().getResolution()")
    assert page.locator("#scale div").bounding_box()["width"] == pytest.approx(length, abs=1) and 40 < length <= 110
    assert page.locator("#north").is_visible()


@pytest.mark.parametrize("width", [1400, 1000, 600])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(visit, county, width, scheme):
    from axe_playwright_python.sync_playwright import Axe
    page = visit(county, color_scheme=scheme)
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
    assert (max(ground) < 60) if scheme == "dark" else (min(ground) > 240)
    page.set_viewport_size({"width": width, "height": 900})
    page.keyboard.press("n")
    page.keyboard.press("t")
    for panel in page.locator("details").all():
        panel.evaluate("e => e.open = true")
    found = [v for v in Axe().run(page).response["violations"] if v["impact"] in ("serious", "critical")]
    assert not found, [(v["id"], v["nodes"][0]["html"][:150]) for v in found]


# Machado, Oliveira and Fernandes 2009: how the two commonest kinds of colour blindness see linear RGB.
DEFICIENT = {"deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
                              [-0.011820, 0.042940, 0.968881]],
             "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
                            [-0.003882, -0.048116, 1.051998]]}


def seen(colour, matrix):
    """A colour in CIE Lab, as an eye sees it."""
    rgb = np.array(list(bytes.fromhex(colour[1:]))) / 255
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    linear = np.clip(np.array(matrix) @ linear, 0, 1)
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ linear
    f = np.cbrt(np.maximum(xyz / [0.9505, 1, 1.089], 1e-6))
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("eye", DEFICIENT)
def test_ramps_grow_darker_without_red_and_green(eye):
    for ramp in (SCORE_RAMP, UNCERTAINTY_RAMP):
        lightness = [seen(colour, DEFICIENT[eye])[0] for colour in ramp]
        assert (np.diff(lightness) < -8).all()


@pytest.mark.parametrize("rows, cols", [(6, 24), (120, 480)])
def test_drawn_classes_can_be_told_apart_without_red_and_green(visit, tmp_path, monkeypatch, rows, cols):
    """Six stripes of the classes, as the map draws them, in a small and in a large county: of two that a colour-blind
    eye gives one colour, the patterns differ."""
    monkeypatch.setattr(page_pictures, "_pyramid", _two_pictures)
    tiles, scores, boundary = tables(rows, cols)
    tiles["class_after"] = (tiles["col"] - COL) * 6 // cols
    path = review_page.write(tmp_path / "stripes.html", "nowhere", "99007", (2010, 2016), tiles, scores, "EPSG:26911",
                        boundary, 2011, "Stripes", "made up")
    page = visit_quietly(visit, path)
    for name in ("Candidates", "County boundary", "Predicted 2016"):
        layer(page, name).click()
    page.get_by_label("Opacity of Predicted 2016").fill("100")
    page.locator("h1").click()
    picture = shown(page)
    (left, top), (right, bottom) = (page.evaluate(f"map.getPixelFromCoordinate([extent[{x}], extent[{y}]])")
                                    for x, y in ((0, 3), (2, 1)))
    width, middle = (right - left) / 6, int((top + bottom) / 2)
    # Not beside the swipe's line, which is in the middle of the map.
    patches = [picture[middle - 24:middle + 24, int(left + (k + 0.3) * width):int(left + (k + 0.3) * width) + 48]
               for k in range(6)]
    for eye in DEFICIENT.values():
        for a in range(6):
            for b in range(a):
                one, other = (look(patches[k], eye) for k in (a, b))
                apart = np.linalg.norm(one[0] - other[0]) > 20 or np.abs(one[1] - other[1]).max() > 3
                assert apart, (CLASS_NAMES[a], CLASS_NAMES[b], one, other)


def look(patch, eye):
    """A patch's ground colour, and what is drawn on it: how far lightness varies along rows, columns, diagonals."""
    colours, counts = np.unique(patch.reshape(-1, 3), axis=0, return_counts=True)
    lightness = patch.mean(axis=2) / 2.55
    i, j = np.indices(lightness.shape)
    along = [np.std([lightness[of == k].mean() for k in range(12)])
             for of in (i % 12, j % 12, (i + j) % 12, (i - j) % 12)]
    ground = "#%02x%02x%02x" % tuple(int(v) for v in colours[counts.argmax()])
    return seen(ground, eye), np.array(along + [lightness.std()])


def test_the_legend_names_what_is_drawn(visit, county):
    page = visit(county)
    page.get_by_text("Legend", exact=True).click()
    words = page.locator("#legend").inner_text()
    for name in ("Candidate: 50% or more", "Chosen tile", "County boundary", "Your marks", "unsure",
                 "No prediction", "the probability that", *CLASS_NAMES):
        assert name in words, name


def test_scores_of_the_rule_are_nowhere_called_chances(visit, tmp_path):
    tiles, scores, boundary = tables(4, 4)
    path = review_page.write(tmp_path / "rule.html", store_of(tmp_path / "store", 4, 4), "99007", (2010, 2016), tiles,
                        scores, "EPSG:26911", boundary, 2011, "By the rule", "made up", calibrated=False)
    page = visit(path)
    page.keyboard.press("n")
    page.get_by_text("Legend", exact=True).click()
    for part in ("#progress", "#about", "#legend"):
        assert "by the rule of 2017, no probability" in page.locator(part).inner_text()
    for part in ("#list", "#progress", "#about", "#legend", "#said"):
        assert "%" not in page.locator(part).inner_text(), part
    assert "chance" not in page.locator("body").inner_text().lower()
    assert "Change score" not in page.locator("body").inner_text()


# ---- texts from a store, a table or a run

HARM = "<img src=x onerror=document.body.dataset.ran=1>"


def harmful(folder, **texts):
    """A page all of whose texts try to be HTML."""
    tiles, scores, boundary = tables(4, 4)
    tiles["tile_id"] = scores["tile_id"] = [f"{HARM}{k}" for k in range(len(tiles))]
    crs = CRS("EPSG:26911").to_wkt().replace("NAD83 / UTM zone 11N", HARM)
    given = dict({"crs": crs, "title": HARM, "source": HARM, "reason": HARM}, **texts)
    return review_page.write(folder / "harm.html", store_of(folder / "store", 4, 4), "99007", (2010, 2016), tiles,
                             scores.assign(reason=given["reason"]), given["crs"], boundary, 2011, given["title"],
                             given["source"], run_name=HARM)


def test_no_text_becomes_html(visit, tmp_path):
    page = visit(harmful(tmp_path))
    page.keyboard.press("n")
    page.keyboard.press("t")
    for panel in page.locator("details").all():
        panel.evaluate("e => e.open = true")
    page.mouse.move(300, 300)
    page.wait_for_timeout(300)
    assert page.locator("img:not(.pictures img)").count() == 0 and page.locator("h1").inner_text() == HARM
    assert page.evaluate("document.body.dataset.ran") is None


@pytest.mark.parametrize("reason", ["<!--<script", "<!-- <SCRIPT >", "</script>", "]]>", "\u2028{{script}}"])
def test_no_text_ends_the_script_that_holds_it(visit, tmp_path, reason):
    page = visit(harmful(tmp_path, reason=reason))
    page.keyboard.press("n")
    assert reason in page.locator("#tile").inner_text()


def test_only_the_page_s_own_scripts_run(chromium, county):
    """Other scripts, styles, handlers and addresses are refused, and so is a text where HTML is expected."""
    page = chromium.new_page()
    page.goto(county.as_uri())
    page.wait_for_selector("body[data-ready=true]", timeout=30_000)
    refused = page.evaluate("""async () => {
        const refused = new Set();
        document.addEventListener('securitypolicyviolation', event => refused.add(event.effectiveDirective));
        const made = (tag, text) => { const e = document.createElement(tag); e.append(text); document.body.append(e); };
        for (const act of [() => made('script', 'document.body.dataset.ran = 1'),
                           () => made('style', 'h1 { letter-spacing: 99px }'),
                           () => document.querySelector('h1').setAttribute('style', 'letter-spacing: 99px'),
                           () => { document.querySelector('h1').innerHTML = '<b>x</b>'; },
                           () => { new Image().src = 'http://localhost:9/x.png'; },
                           () => fetch('http://localhost:9/').catch(() => 0)])
            try { act(); } catch (e) { /* said by the event too */ }
        await new Promise(done => setTimeout(done, 500));
        return [...refused];
    }""")
    assert set(refused) >= {"style-src-elem", "style-src-attr", "img-src", "connect-src", "require-trusted-types-for"}
    assert page.evaluate("document.body.dataset.ran") is None and page.locator("h1 b").count() == 0
    assert page.locator("h1").evaluate("e => getComputedStyle(e).letterSpacing") == "normal"
    page.close()


# ---- counties made up, to try the layout of the file

def store_of(folder, rows, cols, years=(2010, 2016)):
    """A tile store whose pictures tell where they are: red grows to the east, green to the south, blue with time."""
    row, col = positions(rows, cols)
    for k, year in enumerate(years):
        def picture(r, c, k=k):
            tile = np.full((224, 224, 3), [20 + 10 * c, 20 + 10 * r, 60 + 120 * k], dtype=np.uint8)
            return encode(tile)
        frame = pd.DataFrame({"tile_id": [f"utm11-{ROW - r:05d}-{COL + c:05d}" for r, c in zip(row, col)],
                              "row": ROW - row, "col": COL + col, "scene_id": "s", "acquired": "2016",
                              "image": [picture(r, c) for r, c in zip(row, col)], "label": 1, "group": 2,
                              "purity": 1.0, "class_2017": 1, "split": "map"})
        where = folder / f"county=99007/year={year}"
        where.mkdir(parents=True)
        pq.write_table(pa.Table.from_pandas(frame, schema=tilestore.SCHEMA, preserve_index=False), where / "a.parquet")
        tilestore.write_manifest(str(folder), "99007", year, tiles=len(frame), crs="EPSG:26911")
    return str(folder)


def positions(rows, cols):
    """Rows and columns of a county that is no rectangle: of a small one the corner in the north-west is missing."""
    row, col = (a.ravel() for a in np.mgrid[0:rows, 0:cols])
    inside = (row >= rows / 3) | (col >= cols / 3) | (rows * cols > 1000)
    return row[inside], col[inside]


def tables(rows, cols):
    row, col = positions(rows, cols)
    tiles = pd.DataFrame({"tile_id": [f"utm11-{ROW - r:05d}-{COL + c:05d}" for r, c in zip(row, col)],
                          "row": ROW - row, "col": COL + col, "group": 2, "class_before": 1, "class_after": 5})
    p = np.full((len(tiles), 6), 0.02)
    p[:, 5] = 0.9
    tiles["probabilities_before"], tiles["probabilities_after"] = list(p[:, ::-1]), list(p)
    scores = tiles[["tile_id"]].assign(score=np.linspace(1, 0, len(tiles)) ** 4, reason="New; roofs </script>.",
                                       new_m2=5000.0)
    boundary = shapely.box(COL * TILE_M, (ROW - rows + 1) * TILE_M, (COL + cols) * TILE_M, (ROW + 1) * TILE_M)
    return tiles, scores, boundary


def test_a_tile_s_place_is_given_in_degrees_and_copied(visit, tmp_path):
    path = write(tmp_path / "page.html", store_of(tmp_path / "store", 4, 4), 4, 4)
    page = visit(path, permissions=["clipboard-read", "clipboard-write"])
    page.keyboard.press("n")
    i = data_of(path)["listed"][0]["tile"]
    tiles = data_of(path)["tiles"]
    x, y = (TILE_M * (tiles[name][i] + 0.5) for name in ("col", "row"))
    lat, lon = Transformer.from_crs("EPSG:26911", "EPSG:4326").transform(x, y)
    expected = f"{lat:.5f}, {lon:.5f}"
    words = page.locator("#tile").inner_text()
    assert expected in words and f"{x:.0f} m E, {y:.0f} m N (EPSG:26911)" in words
    page.get_by_role("button", name="Copy").click()
    page.get_by_role("button", name="Copied").wait_for()
    assert page.evaluate("navigator.clipboard.readText()") == expected
    # If a browser gives no clipboard, the page selects the place.
    page.keyboard.press("p")
    page.evaluate("Object.defineProperty(navigator, 'clipboard', {value: undefined})")
    page.get_by_role("button", name="Copy").click()
    page.get_by_role("button", name="Selected: press Ctrl+C").wait_for()
    assert page.evaluate("getSelection().toString()") in page.locator("#tile p").nth(1).inner_text()
    assert page.evaluate("getSelection().toString()").count(".") == 2


def test_no_probability_reads_as_certain(visit, tmp_path):
    page = visit(write(tmp_path / "page.html", store_of(tmp_path / "store", 4, 4), 4, 4))
    values = [1, 0.999, 0.996, 0.995, 0.9949, 0.5, 0.0051, 0.0049, 0]
    assert page.evaluate("values => values.map(percent)", values) == [
        ">99%", ">99%", ">99%", ">99%", "99%", "50%", "1%", "<1%", "<1%"]
    page.keyboard.press("n")
    assert ">99%" in page.locator("#list button").first.inner_text()
    assert ">99%" in page.locator("#tile strong").inner_text()
    assert not re.search(r"\b(100|0)%", page.locator("aside").inner_text())


def write(path, store, rows, cols):
    tiles, scores, boundary = tables(rows, cols)
    return review_page.write(path, store, "99007", (2010, 2016), tiles, scores, "EPSG:26911", boundary, 2011,
                        "A <county>", "made up")


def test_pictures_beside_the_file_are_loaded_when_looked_at(visit, tmp_path, monkeypatch):
    monkeypatch.setattr(page_pictures, "TILES_INSIDE", 10)
    page_path = write(tmp_path / "large #1 of 50%.html", store_of(tmp_path / "store", 9, 13), 9, 13)
    folder = "large #1 of 50%_pictures"
    pictures = list((tmp_path / folder / "2016" / "4").glob("*.webp"))
    n = len(positions(9, 13)[0])
    assert len(pictures) == n < 9 * 13 and page_path.stat().st_size < 1.5e6
    page = visit(page_path)
    loaded = []
    page.on("request", lambda request: loaded.append(request.url))
    assert page.locator("h1").inner_text() == "A <county>"
    page.keyboard.press("n")
    page.wait_for_timeout(600)
    finest = {url for url in loaded if "/2016/4/" in url}
    # The page loads the pictures around the first tile, and no others.
    assert 4 <= len(finest) < n / 2
    page.keyboard.press("Home")
    page.wait_for_timeout(400)
    # The first tile of the list is the northernmost on the left: five columns are missing before it.
    src = page.locator(".pictures img").nth(1).get_attribute("src")
    picture = np.asarray(Image.open(tmp_path / unquote(src)).convert("RGB")).reshape(-1, 3).mean(axis=0)
    assert picture == pytest.approx([70, 20, 180], abs=4)
    # A coarser level shows four tiles where they lie: south is down, east is right.
    coarse = np.asarray(Image.open(tmp_path / f"{folder}/2016/3/1-2.webp").convert("RGB")).astype(int)
    # Beyond the county a picture is empty, not pale.
    edge = np.asarray(Image.open(tmp_path / f"{folder}/2016/2/0-0.webp").convert("RGBA")).astype(int)
    assert edge[:100, :, 3].max() == 0 and edge[200, 200, 3] == 255
    assert (coarse[30, 30, :2] == pytest.approx([40, 60], abs=6)
            and coarse[200, 200, :2] == pytest.approx([50, 70], abs=6))


def test_a_county_of_sixty_five_thousand_tiles_stays_usable(visit, tmp_path, monkeypatch):
    monkeypatch.setattr(page_pictures, "_pyramid", _two_pictures)
    page_path = write(tmp_path / "huge.html", "nowhere", 241, 272)
    assert page_path.stat().st_size < 25e6 and len(data_of(page_path)["tiles"]["row"]) == 65_552
    page = visit_quietly(visit, page_path)
    start = time.monotonic()
    layer(page, "Change score").click()
    for _ in range(5):
        page.keyboard.press("n")
    assert page.locator("#list [aria-current=true]").inner_text().startswith("#5")
    assert time.monotonic() - start < 10


def _two_pictures(store, county, year, rows, grid, levels, px):
    """Pictures of the coarse levels alone: another test looks at the finest."""
    for z in range(levels):
        side = 2 ** (levels - 1 - z)
        for x in range(-(-grid["width"] // side) if z < 4 else 0):
            for y in range(-(-grid["height"] // side)):
                yield z, x, y, page_pictures._webp(Image.new("RGB", (px, px), (90, 90, 90)))


def visit_quietly(visit, path):
    """Open the page zoomed out, where only coarse pictures are looked at."""
    page = visit(path)
    layer(page, "Pictures 2010").click()
    layer(page, "Pictures 2016").click()
    page.evaluate("picture = () => 'data:,'")
    return page


def test_scores_of_other_tiles_are_refused(tmp_path):
    tiles, scores, boundary = tables(2, 2)
    with pytest.raises(InputError, match="3 tiles and 2 scores"):
        review_page.write(tmp_path / "x.html", "nowhere", "99007", (2010, 2016), tiles, scores[1:], "EPSG:26911", boundary,
                     2011, "t", "s")


def test_the_library_is_whole_and_its_licence_beside_it():
    assert sha256(review_page.FOLDER / "ol.js") == LIBRARY_SHA256
    assert "OpenLayers Contributors" in (review_page.FOLDER / "ol.LICENSE.md").read_text()
    assert "sourceMappingURL" not in (review_page.FOLDER / "ol.js").read_text(encoding="utf-8")


LIBRARY_SHA256 = "1f368b331c84442335873a40cf40a3a1bb8a2be8f765c40c1402ed339d7b12ca"


def test_a_source_line_claims_no_more_than_is_known():
    def told(scene, labels, crs="EPSG:26911", **options):
        before, after = ({"crs": crs, "year": year, "label_year": year + 1, "label_source": labels, "scenes": [scene]}
                         for year in (2010, 2016))
        return review_page.source_line(before, after, **options)
    assert told("/somewhere/m_1.tif", "/labels/nlcd.tif", drawn=True) == (
        "Drawn for this tutorial, not real land: pictures of 2010 and 2016, labels of 2011 and 2017. EPSG:26911 (NAD83 "
        "/ UTM zone 11N).")
    assert told("https://example.org/naip/m_1.tif", "https://example.org/wcs/nlcd_2011.tif?x=1") == (
        "NAIP (USDA): pictures of 2010 and 2016, labels of 2011 and 2017 (nlcd_2011.tif). EPSG:26911 (NAD83 / UTM zone "
        "11N).")
    own = told("/scenes/naip.tif", "/labels/mine.tif", crs="EPSG:32633")
    assert own.startswith("Own scenes: ") and "NAIP" not in own and "NLCD" not in own and own.endswith("EPSG:32633.")


def test_the_folder_of_pictures_is_weighed(tmp_path, monkeypatch):
    monkeypatch.setattr(page_pictures, "TILES_INSIDE", 1)
    page = write(tmp_path / "large.html", store_of(tmp_path / "store", 4, 4), 4, 4)
    folder, size = review_page.pictures_of(page)
    assert folder == tmp_path / "large_pictures" and size == sum(f.stat().st_size for f in folder.rglob("*.webp")) > 0
    monkeypatch.setattr(page_pictures, "TILES_INSIDE", 1000)
    assert review_page.pictures_of(write(page, str(tmp_path / "store"), 4, 4)) == (None, 0)


def test_a_folder_of_pictures_keeps_other_people_s_files(tmp_path, monkeypatch):
    page, folder = tmp_path / "large.html", tmp_path / "large_pictures"
    others = [folder / "notes.txt", folder / "2016" / "3" / "mine.webp", folder / "trip" / "1" / "0-0.webp"]
    for file in others:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("mine")
    old = folder / "2016" / "9" / "7-7.webp"  # of a larger county, before
    old.parent.mkdir()
    old.write_text("old")
    monkeypatch.setattr(page_pictures, "TILES_INSIDE", 1)
    write(page, store_of(tmp_path / "store", 4, 4), 4, 4)
    assert not old.parent.exists() and all(file.read_text() == "mine" for file in others)
