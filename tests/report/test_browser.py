"""The pages in a real browser: headless Chromium, driven by playwright."""

import dataclasses
import math
import shutil

import pytest
from patience import PATIENCE_S

from counterpoint.report import TraceReport, compare
from counterpoint.trace import ArtefactLimits

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium")
MAX_BYTES = 3_000_000


@pytest.fixture(scope="module")
def browser():
    api = pytest.importorskip("playwright.sync_api", reason="playwright is missing: pip install 'counterpoint[test]'")
    with api.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS, timeout=1000 * PATIENCE_S)
        yield browser
        browser.close()


@pytest.fixture
def opened(browser, tmp_path):
    """Opens a page from a file; at the end it must have said nothing and asked for nothing."""
    contexts, complaints = [], []

    def open_page(html, *, scheme="light", width=1200, height=900, touch=False):
        context = browser.new_context(
            color_scheme=scheme, viewport={"width": width, "height": height}, has_touch=touch, offline=True
        )
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(1000 * PATIENCE_S)
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: complaints.append(f"dialog {dialog.message}"))
        page.on("request", lambda r: complaints.append(r.url) if not r.url.startswith(("file:", "data:")) else None)
        path = tmp_path / f"page-{len(contexts)}.html"
        path.write_text(html, encoding="utf-8")
        page.goto(path.as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not complaints


@pytest.fixture(scope="module")
def trace(make_trace):
    trace = make_trace("Once upon a time, é 👩 sang.\nShe was happy.")
    # Marked so that some tokens are artefacts and some are not.
    ranks = sorted(step.cond.rank for step in trace.steps)
    return trace.with_limits(ArtefactLimits(rank=ranks[-4] - 1, prob=1.0))


def detail(page):
    return page.locator("#detail").inner_text()


def probability(text):
    return float(text.replace("−", "-"))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_token_shows_its_numbers(opened, trace, scheme):
    page = opened(TraceReport(trace).html(), scheme=scheme)
    page.keyboard.press("Home")
    for step in trace.steps:
        rows = page.evaluate(
            "[...document.querySelectorAll('#detail table')].map(t => [...t.rows].map(r => [...r.cells].map(c => c.innerText)))"
        )
        distributions = (step.cond, *step.branches, step.guided)
        assert f"step {step.index}, token {step.token_id}, guided" in detail(page)
        assert ("artefact" in detail(page)) == step.artefact
        for cells, seen in zip(rows[0][1:], distributions, strict=True):
            assert probability(cells[1]) == pytest.approx(seen.prob, rel=0.06, abs=0.0051 if seen.prob > 0.09 else 1e-9)
            assert probability(cells[2]) == pytest.approx(seen.logprob, abs=6e-4) and cells[3] == str(seen.rank)
        measures = [probability(cells[1]) for cells in rows[1]]
        assert measures == pytest.approx([step.push, step.entropy, step.shift, *step.divergence], abs=6e-4)
        for table, seen in zip(rows[2:], distributions, strict=True):
            assert len(table) == 1 + len(seen.top) + (seen.rank > len(seen.top))
        page.keyboard.press("ArrowRight")


def test_hover_shows_and_leaving_returns(opened, trace):
    page = opened(TraceReport(trace).html())
    assert "Point at a token" in detail(page)
    page.locator("#t2").hover()
    assert "step 2," in detail(page)
    page.locator("h1").hover()
    assert "Point at a token" in detail(page)
    page.locator("#t1").click()
    page.locator("#t3").hover()
    assert "step 3," in detail(page)
    page.locator("h1").hover()
    assert "step 1," in detail(page)


def test_keys(opened, trace):
    page = opened(TraceReport(trace).html())

    def press(key):
        page.keyboard.press(key)
        chosen = page.evaluate("document.querySelector('.t.on')?.id")
        return None if chosen is None else int(chosen[1:])

    last = len(trace.steps) - 1
    assert [press(k) for k in ("ArrowRight", "ArrowRight", "ArrowLeft", "End", "ArrowRight")] == [0, 1, 0, last, last]
    bad = [step.index for step in trace.artefacts]
    assert press("Escape") is None and "Point at" in detail(page)
    assert [press("a") for _ in range(len(bad) + 1)] == [*bad, bad[0]]
    assert press("A") == bad[-1]
    assert press("Home") == 0
    changed = [step.index for step in trace.steps if step.is_changed and step.index]
    assert press("c") == changed[0]
    press("Home")
    below = press("ArrowDown")
    assert below > 0 and press("ArrowUp") == 0
    page.locator("#text").focus()
    assert press("ArrowRight") == 1


def test_charts_lead_to_their_token(opened, trace):
    page = opened(TraceReport(trace).html(), height=1400)
    box = page.locator(".plot").nth(1).bounding_box()
    wanted = 4
    page.mouse.click(box["x"] + box["width"] * (wanted + 0.5) / len(trace.steps), box["y"] + 20)
    assert page.evaluate("document.querySelector('.t.on').id") == f"t{wanted}"
    at = page.evaluate("document.querySelector('.cursor').style.left")
    assert float(at.rstrip("%")) == pytest.approx(100 * (wanted + 0.5) / len(trace.steps), abs=0.01)
    # The drawn line passes through the probability of the token.
    numbers = page.evaluate("document.querySelector('path.s-cond').getAttribute('d')")
    ys = [float(pair.split()[1]) for pair in numbers.replace("M", "L").split("L")[1:]]
    lowest = math.floor(
        min(s.logprob / math.log(10) for step in trace.steps for s in (step.cond, *step.branches, step.guided))
    )
    expected = 100 * (trace.steps[wanted].cond.logprob / math.log(10)) / max(lowest, -8)
    assert ys[wanted] == pytest.approx(min(expected, 100), abs=0.06)


def test_theme_button(opened, trace):
    page = opened(TraceReport(trace).html(), scheme="light")
    paper = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(paper)
    page.locator("#theme").click()
    dark = page.evaluate(paper)
    page.locator("#theme").click()
    assert dark != light and page.evaluate(paper) == light


def test_hostile_text_is_shown_and_not_run(opened, make_trace):
    text = "</script><script>document.title='ran'</script><img src=x onerror=alert(1)>\u202eabc\x1b[0m👩‍🚀 é\x00"
    page = opened(TraceReport(make_trace(text, negative=text)).html())
    assert page.title() == "Trace: tiny" and page.evaluate("document.images.length + document.scripts.length") == 2
    shown = page.locator("#text").text_content()
    assert "<img src=x onerror=alert(1)>⟨U+202E⟩abc␛[0m👩‍🚀 é␀" in shown
    assert page.evaluate("[...document.querySelectorAll('.chip')].map(t => t.dataset.chip)").count("·") >= 3
    page.locator("summary").click()
    page.keyboard.press("Escape")
    for _ in range(5):
        page.keyboard.press("ArrowRight")


def test_character_across_tokens_is_whole(opened, make_trace):
    trace = make_trace("x👩y")
    page = opened(TraceReport(trace).html())
    assert page.locator("#text").text_content() == "x👩y"
    page.locator("#t1").click()
    assert r"\xf0" in detail(page)


def test_long_trace_is_small_and_quick(opened, make_trace):
    short = make_trace("Once upon a time there was a girl who sang é 👩. ", num_alternatives=5)
    steps = tuple(dataclasses.replace(short.steps[i % (len(short.steps) - 1)], index=i) for i in range(2000))
    html = TraceReport(dataclasses.replace(short, steps=steps)).html()
    assert len(html.encode()) < MAX_BYTES
    page = opened(html)
    assert page.locator("#text .t").count() == 2000
    # The work of a key, layout included, beside the work of laying all of the page out anew. Medians, in turns.
    key, layout = page.evaluate("""() => {
        const median = (times) => times.sort((a, b) => a - b)[Math.floor(times.length / 2)];
        const timed = (work) => {
            const start = performance.now();
            work();
            document.body.getBoundingClientRect();
            return performance.now() - start;
        };
        const [keys, layouts] = [[], []];
        for (const key of [...Array(40).fill("ArrowDown"), ...Array(40).fill("ArrowRight"), "End", "Home", "a", "c"]) {
            keys.push(timed(() => document.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }))));
            layouts.push(timed(() => (document.body.style.width = `${1000 + (keys.length % 2)}px`)));
        }
        document.body.style.width = "";
        return [median(keys), median(layouts)];
    }""")
    assert key < 10 * layout  # about as long, on any machine
    # Scrolling through all of it, beside frames in which it is laid out anew.
    scrolled, laid_out = page.evaluate("""async () => {
        const frames = (work) => new Promise((resolve) => {
            const times = [];
            let last = performance.now();
            const step = (now) => {
                times.push(now - last);
                last = now;
                work(times.length);
                if (times.length < 60) requestAnimationFrame(step);
                else resolve(times.sort((a, b) => a - b)[30]);
            };
            requestAnimationFrame(step);
        });
        const scrolled = await frames(() => window.scrollBy(0, 120));
        return [scrolled, await frames((at) => (document.body.style.width = `${1000 + (at % 2)}px`))];
    }""")
    assert scrolled < 2 * laid_out


def test_phone(opened, trace):
    page = opened(TraceReport(trace).html(), width=360, height=740, touch=True)
    assert page.evaluate("document.scrollingElement.scrollWidth <= innerWidth")
    assert not page.locator("#detail").is_visible()
    page.locator("#t2").tap()
    assert page.locator("#detail").is_visible() and "step 2," in detail(page)
    page.locator("#t2").tap()
    assert not page.locator("#detail").is_visible()


def test_print(opened, trace):
    page = opened(TraceReport(trace).html(), scheme="dark")
    page.emulate_media(media="print")
    assert not page.locator("#detail").is_visible() and page.locator("#t0").is_visible()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.pdf().startswith(b"%PDF")


def test_notebook_frame(opened, trace):
    page = opened("<!doctype html><title>notebook</title><body>" + TraceReport(trace)._repr_html_())
    frame = page.frame_locator("iframe")
    frame.locator("#t2").click()
    assert "step 2," in frame.locator("#detail").inner_text()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_comparison(opened, model, scheme):
    options = {"negative": "A sad dog sat alone.", "max_tokens": 10, "seed": 1, "n": 2}
    compared = compare(model, "A <b>happy</b> girl sang.", scales=[1, 3, 6], spaces=["log", "prob"], **options)
    page = opened(compared.html(), scheme=scheme)
    assert page.locator(".cell").count() == len(compared.groups)
    shown_cells = [
        (cell, shown) for (_, cells), shown in zip(compared.groups, page.locator(".cell").all()) for cell in cells
    ]
    assert len(shown_cells) == 6
    for cell, shown in shown_cells:
        space = f", {cell.guide.space}" if cell.guide.scale != 1 else ""
        assert f"scale {cell.guide.scale:g}{space}" in shown.inner_text()
        assert f"{cell.metrics.num_artefacts} of {cell.metrics.num_tokens} tokens" in shown.inner_text()
    points = page.locator(".chart a")
    assert points.count() == 6
    points.nth(3).focus()
    page.keyboard.press("Enter")
    number = page.evaluate("document.querySelector(':target').id")
    assert points.nth(3).get_attribute("aria-label") in page.locator(f"#{number} > summary").inner_text()
    assert page.evaluate("document.scrollingElement.scrollWidth <= innerWidth")
