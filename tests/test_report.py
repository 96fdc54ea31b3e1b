"""The report is whole, inert, needs no other file, and its commands make the run again."""

import dataclasses
import json
import re
import shlex
from html.parser import HTMLParser

import pytest
from browsing import ARGUMENTS, CHROMIUM, ROOT, faults
from scored_runs import HOSTILE, STEPS, options, write_runs

from configs import demo
from ivt_jax.__main__ import main
from ivt_jax.config import load_config
from ivt_jax.errors import UserError
from ivt_jax.reporting.gather import gather
from ivt_jax.reporting.recorded import events, read_record
from ivt_jax.reporting.report import report_page
from ivt_jax.reporting.sections import training_command
from ivt_jax.training.goodput import Goodput

LAST = demo.get_config("finetune").training.steps
VOID = {"meta", "link", "br", "hr", "img", "input"}


class Page(HTMLParser):
    """Reads a page strictly: every element is closed where it should be."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"<{tag}> has an attribute twice: {names}"
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        self.open.remove(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> closes another element"

    def handle_data(self, data):
        if self.open[-1:] != ["style"]:
            self.words.append(data)

    def all(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return write_runs(tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="module")
def gathered(runs):
    _, ours, base = runs
    return gather(options(ours, base=base))


@pytest.fixture(scope="module")
def written(gathered):
    return report_page(gathered)


def test_it_is_whole_and_needs_nothing_else(written):
    page = Page(written)
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for tag, attributes in page.elements:
        assert tag not in ("script", "link", "iframe", "object", "base", "form")
        assert not any(name.startswith("on") for name in attributes)
        for name in ("src", "href", "xlink:href", "action", "poster"):
            target = attributes.get(name, "#results")
            assert target.startswith(("#", "data:image/")), f"<{tag} {name}={target[:60]}>"
            if target.startswith("#"):
                assert target[1:] in ids
    assert not re.search(r"url\(|@import", written)
    assert "default-src 'none'" in written


def test_headings_tables_and_pictures_are_told(written):
    page = Page(written)
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in zip(levels, levels[1:], strict=False))
    assert all(attributes.get("scope") in ("row", "col") for attributes in page.all("th"))
    assert len(page.all("caption")) == len(page.all("table"))
    pictures = page.all("svg")
    assert len(pictures) >= 6
    for picture in pictures:
        assert picture["role"] == "img" and len(picture["aria-label"]) > 20
    assert [attributes["lang"] for attributes in page.all("html")] == ["en"]


def test_nothing_of_the_data_is_read_as_html(written):
    """Every caption of the data would be a script."""
    page = Page(written)
    assert not page.all("script") and len(page.all("title")) == 1
    assert "<script" not in written
    assert "&lt;script&gt;alert(&quot;1&quot;)&lt;/script&gt; &amp; &lt;/title&gt;" in written
    assert HOSTILE.strip().split()[0] in page.text


def test_hostile_names_and_events_are_inert(gathered, runs, tmp_path):
    record = gathered.record
    config = record.config.copy_and_resolve_references()
    config.init.run = '"><img src=x onerror=alert(1)>'
    config.data.mixture = {"<b>mine</b>": 1.0}
    (tmp_path / "<i>run").mkdir()
    lines = json.dumps({"key": "<svg onload=x>", "reason": "</td><script>"}) + "\nno json\n"
    (tmp_path / "<i>run" / "substituted.jsonl").write_text(lines)
    hostile = dataclasses.replace(
        record, config=config, path=tmp_path / "<i>run", strange=["a<b>.c"], torn=1
    )
    page = Page(report_page(dataclasses.replace(gathered, record=hostile)))
    tags = {tag for tag, _ in page.elements}
    assert not tags & {"b", "i", "img", "script"}
    for words in ("<i>run", "<b>mine</b>", '"><img src=x', "</td><script>", "a<b>.c"):
        assert words in page.text, words


def test_scores_are_those_of_the_evaluation(written, gathered):
    text = Page(written).text
    for run in gathered.runs:
        for value in run.evaluation.metrics.values():
            assert f"{value:.2f}" in text
    assert f"Not finished: step 7 of {LAST} was reached, step 7 is saved." in text
    assert "Fine-tuning of an IVT encoder" in text


def test_the_same_run_gives_the_same_bytes(written, runs):
    _, ours, base = runs
    assert report_page(gather(options(ours, base=base))) == written


def test_its_commands_have_the_values_of_the_run(written, gathered):
    config = gathered.record.config
    workdir = f"{gathered.record.path}-again"
    command = training_command(config, stage="finetune", workdir=workdir, start="")
    assert " ".join(command.split()) in Page(written).text
    words = shlex.split(command.replace("\\\n", " "))
    assert words[:4] == ["python", "-m", "finetune.main", "--config=configs/base.py"]
    pairs = [word.removeprefix("--config.").split("=", 1) for word in words[5:]]
    again = load_config(str(ROOT / "configs" / "base.py"), [(a, b) for a, b in pairs])
    assert again.to_dict() == config.to_dict()


def test_what_happened_is_told(runs, tmp_path):
    """One event of every kind, as the run folder of a troubled training has them."""
    run = tmp_path / "troubled"
    (run / "checkpoints" / "40.corrupt").mkdir(parents=True)
    (run / "checkpoints" / "30.abandoned").mkdir()
    (run / "stalls").mkdir()
    (run / "stalls" / "process-1.txt").write_text("2026-01-01 10:00:00 data 12\nstack\n")
    (run / "config.json").write_text((runs[1] / "config.json").read_text())
    (run / "skipped-9.json").write_text(json.dumps({"steps": [{"step": 7}, {"step": 9}]}))
    (run / "substituted.jsonl").write_text('{"key": "a", "reason": "truncated"}\n')
    line = {"step": 9, "kind": "train", "loss": None, "skipped": 3.0, "spikes": 1.0}
    (run / "metrics.jsonl").write_text(json.dumps(line) + "\n{torn")
    (run / "lock.json").write_text("{}")
    clock = [0.0]
    for start, step in ((0.0, 9), (100.0, 12)):
        spent = Goodput(run, began=start, clock=lambda: clock[0])
        clock[0] = start + 60
        spent.mark(step)
    found = events(read_record(run))
    told = "\n".join(f"{kind}: {words}" for kind, words in found)
    for words in (
        "restart: A new process took over at step 9 after 0 min 40 s.",
        "skipped steps: 3 steps were left out, 1 of them as spikes.",
        "rollback: Steps 7 to 9 were skipped in a row",
        "rollback: Checkpoint 30 was set aside",
        "damaged checkpoint: Checkpoint 40 was damaged",
        "watchdog: No progress, process-1: 2026-01-01 10:00:00 data 12.",
        "bad images: 1 unreadable images were replaced (truncated).",
        "torn lines: 1 lines",
        "lock: lock.json is there",
    ):
        assert words in told, told
    assert len(found) == 9
    page = Page(report_page(gather(options(run))))
    assert "Goodput: 75.0 % of 160 s were steps that counted" in page.text
    assert "holds no checkpoints" in page.text  # why it has no scores


def test_a_pretraining_says_what_does_not_apply(runs, tmp_path):
    run = tmp_path / "scenes"
    run.mkdir()
    config = json.loads((runs[1] / "config.json").read_text())
    config["data"]["mixture"] = {"synthetic_scenes": 1.0}
    config["evaluation"]["dataset"] = ""
    (run / "config.json").write_text(json.dumps(config))
    text = Page(report_page(gather(options(run)))).text
    assert "Pre-training of an IVT encoder" in text
    assert "this training took no retrieval scores" in text
    assert "Not drawn: metrics.jsonl has no line yet." in text
    assert "python -m pretrain.main" in text
    assert "dataset synthetic_scenes is not in" in text
    with pytest.raises(UserError, match="cannot be compared"):
        gather(options(run, base=runs[2]))


def test_a_file_is_replaced_only_on_demand(runs, tmp_path, capsys):
    out, argv = tmp_path / "r.html", ["report", str(runs[1]), "--data=gone"]
    out.write_text("mine")
    assert main([*argv, f"--out={out}"]) == 2
    assert "is there already" in capsys.readouterr().err
    assert out.read_text() == "mine"
    assert main([*argv, f"--out={out}", "--replace"]) == 0
    said = capsys.readouterr().out
    assert "it has no scores: dataset synthetic_people is not in gone" in said
    assert f"step {STEPS} of {LAST}" in said
    assert Page(out.read_text()).all("main")
    assert main([*argv, f"--out={tmp_path}", "--replace"]) == 2
    assert "is a folder" in capsys.readouterr().err


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium")
def test_it_fits_every_screen(written, tmp_path):
    from playwright.sync_api import sync_playwright

    file = tmp_path / "report.html"
    file.write_text(written)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        for width, dark in ((360, True), (768, False), (1440, True)):
            page = browser.new_page(
                viewport={"width": width, "height": 800}, color_scheme="dark" if dark else "light"
            )
            asked, said = [], []
            page.on("request", lambda request, asked=asked: asked.append(request.url))
            page.on("console", lambda message, said=said: said.append(message.text))
            page.goto(file.as_uri())
            assert page.evaluate("document.documentElement.scrollWidth") == width
            assert faults(page) == [] and said == []
            assert [url for url in asked if not url.startswith("data:")] == [file.as_uri()]
            page.close()
        browser.close()
