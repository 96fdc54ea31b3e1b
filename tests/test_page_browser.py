"""The search page in real headless Chromium, as a visitor uses it."""

import concurrent.futures
import os
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from browsing import (
    ARGUMENTS,
    CHROMIUM,
    Server,
    api,
    faults,
    loaded,
    names,
    notice,
    search,
    until,
)
from page_stand_in import write, write_index
from PIL import Image
from runs import free_port

pytestmark = pytest.mark.skipif(
    CHROMIUM is None,
    reason="no Chromium: apt-get install chromium fonts-dejavu-core runs the tests of the page",
)
HOSTILE = "<img src=x onerror=document.title='taken'>.jpg"


@pytest.fixture(scope="module")
def galleries(tmp_path_factory):
    """60 photos and one with a hostile name; and 10,000 that are the same files."""
    small = tmp_path_factory.mktemp("small")
    write(small, 60)
    red = next((small / "photos").glob("* red.jpg"))
    shutil.copy(red, small / "photos" / HOSTILE)
    names = sorted(path.name for path in (small / "photos").iterdir())
    big = tmp_path_factory.mktemp("big")
    (big / "photos" / "east").mkdir(parents=True)
    many = [f"{'' if i % 20 else 'east/'}{i:05d} {names[i % 60]}" for i in range(10_000)]
    for number, name in enumerate(many):
        os.link(small / "photos" / names[number % 60], big / "photos" / name)
    return write_index(small, names), write_index(big, many)


@pytest.fixture(scope="module")
def servers(galleries):
    started = [Server(gallery, free_port()) for gallery in galleries]
    yield [server.wait() for server in started]
    for server in started:
        server.kill()


@pytest.fixture(scope="module")
def small(servers):
    return servers[0]


@pytest.fixture(scope="module")
def big(servers):
    return servers[1]


@pytest.fixture
def lone(galleries):
    """A server for one test, which may kill it."""
    server = Server(galleries[0], free_port()).wait()
    yield server
    server.kill()


@pytest.fixture(scope="module")
def chromium():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def page(chromium):
    context = chromium.new_context(viewport={"width": 1280, "height": 900})
    context.set_default_timeout(60_000)
    yield context.new_page()
    context.close()


def test_1_typing_and_enter_show_photos_in_the_order_of_the_api(page, small):
    page.goto(small.url)
    page.locator("#query").fill("a man in a blue shirt")
    page.keyboard.press("Enter")
    page.wait_for_selector(".card")
    until(lambda: loaded(page) >= 20, "20 photos are loaded")
    assert names(page) == [result["path"] for result in api(small, "a man in a blue shirt")]


def test_2_red_shirt_finds_red_figures(page, small):
    search(page, small, "red shirt")
    found = names(page)[:10]
    assert sum(name.endswith(" red.jpg") or name == HOSTILE for name in found) >= 8, found


@pytest.mark.parametrize(
    "words",
    ["🧥🎒 red", "امرأة ترتدي معطفا أحمر", "<script>document.title='taken'</script>", "'\"&%00"],
)
def test_3_any_sentence_can_be_searched(page, small, words):
    search(page, small, words)
    assert page.locator("#query").input_value() == words
    assert page.title().startswith(words)


def test_3_no_sentence_and_a_long_one_are_told_apart(page, small):
    page.goto(small.url)
    page.keyboard.press("Enter")
    assert page.locator("#found").is_hidden() and page.locator("#title").is_visible()
    page.locator("#query").fill("x" * 501)
    page.keyboard.press("Enter")
    until(lambda: "500" in notice(page), "the limit is named")


def test_4_a_hostile_file_name_stays_text(page, small):
    search(page, small, "red")
    assert HOSTILE in names(page)
    assert page.locator("img[src=x]").count() == 0 and "taken" not in page.title()
    page.locator(".card", has_text="<img").click()
    assert page.locator("#path").inner_text() == HOSTILE


def test_5_examples_are_found_and_what_is_no_photo_is_refused(page, small, tmp_path):
    photo = sorted((small.gallery.parent / "photos").glob("* red.jpg"))[3]
    page.goto(small.url)
    page.locator("#file").set_input_files(photo)
    page.wait_for_selector(".card")
    assert names(page)[0] == photo.name
    bomb, disguised, huge = (tmp_path / name for name in ("bomb.png", "page.jpg", "huge.jpg"))
    Image.new("1", (9000, 9000)).save(bomb)
    disguised.write_text("<html><script>alert(1)</script></html>")
    with huge.open("wb") as file:
        file.truncate(50 * 2**20)
    for file, told in ((bomb, "50,000,000"), (disguised, "first bytes"), (huge, "10 MB")):
        page.locator("#file").set_input_files(file)
        until(lambda told=told: told in notice(page), told)


def test_6_a_deleted_photo_leaves_a_placeholder(page, small):
    gone = small.gallery.parent / "photos" / api(small, "red")[2]["path"]
    moved = gone.rename(gone.parent.parent / "moved.jpg")
    try:
        search(page, small, "red")
        until(lambda: page.locator(".frame.gone").count(), "the placeholder")
        until(lambda: loaded(page) >= 8, "the others are there")
        assert page.locator(".card").nth(2).locator(".gone").count() == 1
    finally:
        moved.rename(gone)


def test_7_a_killed_server_is_told_and_retried(page, lone):
    search(page, lone, "red")
    os.kill(lone.process.pid, signal.SIGSTOP)
    page.locator("#query").fill("a green shirt")
    page.keyboard.press("Enter")
    until(lambda: "Searching" in notice(page), "the search is under way")
    lone.kill()
    until(lambda: "does not answer" in notice(page), "the fault is told")
    lone.start()
    lone.wait()
    page.locator("#again").click()
    until(lambda: names(page)[:3] == [r["path"] for r in api(lone, "a green shirt", 3)], "results")
    assert page.locator("#notice").is_hidden()


def test_8_back_and_forward_restore_the_search(page, small):
    page.goto(small.url)
    for words in ("red", "blue"):
        page.locator("#query").fill(words)
        page.keyboard.press("Enter")
        until(lambda words=words: names(page)[:1] == [api(small, words, 1)[0]["path"]], words)
    page.locator(".alike").first.dispatch_event("click")
    until(lambda: "like=" in page.url and page.locator("#example").is_visible(), "more like this")
    for step, words in ((page.go_back, "blue"), (page.go_back, "red"), (page.go_forward, "blue")):
        step()
        until(lambda words=words: names(page)[:1] == [api(small, words, 1)[0]["path"]], words)
        assert page.url.endswith(f"?q={words}") and page.locator("#query").input_value() == words


def test_8_exclusions_are_part_of_the_address(page, small):
    search(page, small, "red blue")
    before = names(page)
    page.locator("#leave").click()
    page.locator("#without").fill("blue")
    page.keyboard.press("Enter")
    until(lambda: names(page) != before, "another order")
    assert (
        page.url.endswith("?q=red+blue&without=blue")
        and page.locator(".chip").inner_text() == "blue"
    )
    page.locator(".chip button").click()
    until(lambda: names(page) == before, "the first order")


def test_8_a_folder_is_part_of_the_address(page, big):
    search(page, big, "red")
    until(page.locator("#folder").is_visible, "the list of folders")
    page.locator("#folder").select_option("east")
    until(lambda: "500 photos in east," in page.locator("#headline").inner_text(), "its photos")
    assert page.url.endswith("?q=red&folder=east")
    page.go_back()
    until(lambda: "10,000 photos," in page.locator("#headline").inner_text(), "all photos")


def test_9_everything_works_with_keys_alone(page, small):
    page.goto(small.url)
    keys = page.keyboard
    until(lambda: page.evaluate("document.activeElement.id") == "query", "the box has the focus")
    keys.type("a red shirt")
    keys.press("Enter")
    page.wait_for_selector(".card")
    for key in ("ArrowDown", "ArrowRight", "ArrowRight", "ArrowDown", "ArrowUp", "ArrowLeft"):
        keys.press(key)
    assert page.evaluate("document.activeElement.dataset.index") == "1"
    keys.press("Enter")
    page.wait_for_selector(".word")
    assert page.locator("#photo-title").inner_text().startswith("Match 2")
    for _ in range(20):
        if page.evaluate("document.activeElement.className") == "word":
            break
        keys.press("Tab")
    assert page.locator("#heat.lit").count() == 1
    keys.press("ArrowRight")
    until(lambda: page.locator("#photo-title").inner_text().startswith("Match 3"), "the next photo")
    keys.press("Escape")
    until(lambda: page.evaluate("document.activeElement.dataset.index") == "2", "back in the grid")
    keys.press("/")
    assert page.evaluate("document.activeElement.id") == "query"


@pytest.mark.parametrize("width", [360, 768, 1440])
def test_10_nothing_is_wider_than_the_window(page, small, width):
    page.set_viewport_size({"width": width, "height": 800})
    page.goto(f"{small.url}/docs")
    page.wait_for_selector("article")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    search(page, small, "a very-long-" + "word" * 60 + " in red")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.locator(".card").first.click()
    page.wait_for_selector(".word")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("document.querySelector('dialog').scrollWidth") <= width


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_11_names_contrast_and_focus(page, small, theme):
    page.emulate_media(color_scheme=theme)
    page.goto(small.url)
    until(lambda: page.locator("#gallery").inner_text(), "the gallery is there")
    assert not faults(page)
    search(page, small, "a giraffe in red")
    assert not faults(page)
    page.keyboard.press("Escape")
    page.keyboard.press("ArrowDown")
    outline = "getComputedStyle(document.activeElement).outlineStyle"
    assert page.evaluate(outline) == "solid"
    page.keyboard.press("Enter")
    page.wait_for_selector(".word")
    assert not faults(page)
    assert page.evaluate("document.documentElement.lang") == "en"


def test_12_the_page_is_small_quiet_and_asks_nobody_else(page, small):
    told, asked = [], []
    page.on("console", lambda message: told.append(message.text))
    page.on("pageerror", lambda error: told.append(str(error)))
    page.on("response", lambda response: asked.append(response))
    search(page, small, "red")
    page.locator(".card").first.click()
    page.wait_for_selector(".word")
    page.locator(".word").first.hover()
    assert not told
    assert all(one.url.startswith(small.url) for one in asked)
    own = [one for one in asked if "/api/" not in one.url]
    assert sum(len(one.body()) for one in own) <= 100_000 and len(own) <= 6


def test_13_ten_thousand_photos_answer_within_a_second(page, big):
    page.goto(big.url)
    until(lambda: "10,000" in page.locator("#gallery").inner_text(), "the gallery is there")
    pictures = []
    page.on("request", lambda request: "/small" in request.url and pictures.append(request.url))
    seconds = []
    for words in ("a red shirt", "a blue coat", "a green dress"):
        page.locator("#query").fill(words)
        before = page.locator("#grid").get_attribute("data-for")
        began = time.monotonic()
        page.keyboard.press("Enter")
        until(lambda b=before: page.locator("#grid").get_attribute("data-for") != b, "results")
        until(lambda: loaded(page) > 0, "the first photo")
        seconds.append(time.monotonic() - began)
    assert min(seconds) <= 1.0, seconds  # the best of three: the machine may be loaded
    for total in (96, 200):
        page.locator("#more").click()
        until(lambda total=total: page.locator(".card").count() == total, "more photos")
    assert len(set(pictures)) < 48 * 2 + 200, "photos far below are loaded when they come near"


def test_14_parallel_searches_are_all_right(big):
    colours = ("red", "blue", "green", "yellow", "black", "white", "gray", "purple")
    texts = [f"{colour} {thing}" for colour in colours for thing in ("coat", "hat", "shirt", "bag")]
    expected = {text: api(big, text) for text in texts}

    def timed(text):
        began = time.monotonic()
        return api(big, text) == expected[text], time.monotonic() - began

    slowest = []
    for _ in range(3):
        with concurrent.futures.ThreadPoolExecutor(len(texts)) as pool:
            done = list(pool.map(timed, texts))
        assert all(right for right, _ in done)
        slowest.append(np.percentile([seconds for _, seconds in done], 95))
    assert min(slowest) <= 2.0, slowest


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_15_pictures_to_look_at(chromium, small, theme, tmp_path):
    """Kept by `pytest tests/test_page_browser.py -k pictures --basetemp=pictures`."""
    for width, height in ((360, 740), (768, 1024), (1440, 900)):
        size = {"width": width, "height": height}
        context = chromium.new_context(viewport=size, color_scheme=theme)
        page = context.new_page()
        search(page, small, "a man in a red shirt")
        until(lambda page=page: loaded(page) >= 4, "photos")
        file = Path(page.screenshot(path=tmp_path / f"{width}.png") and tmp_path / f"{width}.png")
        with Image.open(file) as picture:
            assert picture.size == (width, height)
            corner = np.asarray(picture.convert("L"))[:12, :12].mean()
        assert corner < 60 if theme == "dark" else corner > 200
        context.close()


def test_the_theme_can_be_switched_and_stays(page, small):
    page.emulate_media(color_scheme="light")
    page.goto(small.url)
    page.get_by_role("button", name="Switch to the dark theme").click()
    page.reload()
    assert page.evaluate("getComputedStyle(document.documentElement).colorScheme") == "dark"
    assert page.get_by_role("button", name="Switch to the light theme").is_visible()


def test_a_missing_gallery_is_told_and_opened_when_it_comes(page, galleries, tmp_path):
    server = Server(tmp_path / "gallery", free_port()).wait()
    try:
        page.goto(f"{server.url}/?q=red")
        until(lambda: "cannot be searched" in notice(page), "the fault is told")
        assert "python -m ivt_jax index" in notice(page)
        shutil.copytree(galleries[0], tmp_path / "gallery")
        page.wait_for_selector(".card")
        assert page.locator("#notice").is_hidden()
    finally:
        server.kill()


def test_changed_folders_and_poor_matches_are_told(page, small):
    new = small.gallery.parent / "photos" / "new.jpg"
    shutil.copy(next(new.parent.glob("* red.jpg")), new)
    server = Server(small.gallery, free_port()).wait()
    try:
        search(page, server, "a giraffe")
        assert page.locator("#hint.weak").is_visible()
        until(lambda: "1 new" in page.locator("#gallery").inner_text(), "the new photo is told")
        search(page, server, "red")
        assert page.locator("#hint.weak").count() == 0
    finally:
        server.kill()
        new.unlink()
