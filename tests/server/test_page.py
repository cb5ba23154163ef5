"""The page at / in a real browser."""

import shutil

import pytest
from patience import PATIENCE_S, http, wait_for
from server.conftest import make_model, serving

CHROMIUM = shutil.which("chromium")


@pytest.fixture(scope="module")
def site(server):
    return server


@pytest.fixture
def page(browser_page, site):
    browser_page.goto(f"{site.base}/#kind=text")
    return browser_page


@pytest.fixture
def browser_page():
    sync_api = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("there is no chromium")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"], timeout=1000 * PATIENCE_S)
        opened = browser.new_page()
        opened.set_default_timeout(1000 * PATIENCE_S)
        complaints = []
        opened.on(
            "console", lambda message: complaints.append(message.text) if message.type in ("error", "warning") else None
        )
        opened.on("pageerror", lambda error: complaints.append(str(error)))
        opened.complaints = complaints
        yield opened
        browser.close()


def write(page, **fields):
    for name, value in ({"tokens": "12", "temperature": "0"} | fields).items():
        page.locator(f"#{name}").fill(value)
    page.click("#write")


def finished(page, side):
    page.locator(f"#{side}-state", has_text=" s, ").wait_for()


def test_both_sides_are_written_and_a_token_explains_itself(page, site):
    write(page, prompt="Once upon", negative="In the end")
    finished(page, "unguided")
    finished(page, "guided")
    body = {"prompt": "Once upon", "max_tokens": 12, "temperature": 0}
    for side, more in (
        ("unguided", {}),
        ("guided", {"negative_prompt": "In the end", "guidance_scale": 3, "guidance": {"space": "prob"}}),
    ):
        steps = http.post(f"{site.base}/v1/completions", json=body | more | {"trace": 1}).json()["choices"][0]["trace"]
        assert page.locator(f"#{side} .token").all_text_contents() == [s["text"] or s["label"] for s in steps]
    page.click("#guided .token:nth-child(2)")
    assert "Token 1," in page.inner_text("#why")
    assert page.locator("#why table").count() == 3
    page.keyboard.press("ArrowRight")
    assert "Token 2," in page.inner_text("#why")
    assert page.locator('.token[aria-pressed="true"]').count() == 1
    assert page.complaints == []


def test_a_model_with_a_template_is_asked_in_chats(browser_page, site):
    page = browser_page
    page.goto(site.base)
    page.locator("#system-field").wait_for()
    assert "pirate" in page.input_value("#system") and page.input_value("#kind") == "chat"
    write(page, system="Talk like a pirate.", negative="Talk like a clerk.", prompt="What is up?")
    finished(page, "unguided")
    finished(page, "guided")
    turns = [{"role": "system", "content": "Talk like a pirate."}, {"role": "user", "content": "What is up?"}]
    body = {"messages": turns, "max_tokens": 12, "temperature": 0, "trace": 1}
    guided = {"negative_prompt": "Talk like a clerk.", "guidance_scale": 3, "guidance": {"space": "prob"}}
    for side, more in (("unguided", {}), ("guided", guided)):
        steps = http.post(f"{site.base}/v1/chat/completions", json=body | more).json()["choices"][0]["trace"]
        assert page.locator(f"#{side} .token").all_text_contents() == [s["text"] or s["label"] for s in steps]
    link = page.url
    page.goto("about:blank")
    page.goto(link)
    assert page.input_value("#kind") == "chat" and page.input_value("#system") == "Talk like a pirate."
    page.select_option("#kind", "text")
    assert page.locator("#system-field").is_hidden() and "Sentiment" in page.input_value("#prompt")
    assert page.complaints == []


def test_a_model_without_a_template_has_no_kinds(browser_page):
    with serving(make_model(template=None)) as running:
        browser_page.goto(running.base)
        browser_page.locator("#model", has_text="tiny").wait_for()
        assert browser_page.locator("#kind-field").is_hidden() and "Sentiment" in browser_page.input_value("#prompt")


def test_a_mistake_is_shown_as_the_server_says_it(page):
    write(page, prompt="The old house", negative="The old house")
    page.locator("#guided-state.wrong", has_text="changes nothing").wait_for()
    finished(page, "unguided")


def test_the_key(browser_page, model):
    with serving(model, api_key="right") as running:
        browser_page.goto(f"{running.base}/#kind=text")
        browser_page.locator("#key-field").wait_for()  # asked for once the server wants one
        write(browser_page, key="wrong")
        browser_page.locator("#guided-state.wrong", has_text="API key").wait_for()
        write(browser_page, key="right")
        finished(browser_page, "guided")


def test_the_page_begins_with_a_pair_that_works_and_a_link_brings_settings_back(page, site):
    assert page.input_value("#space") == "prob" and page.input_value("#negative") and page.input_value("#prompt")
    assert page.locator("#key-field").is_hidden() and page.locator("[data-example]").count() == 3
    write(page, prompt="Once upon", negative="In the end", temperature="0.85", seed="3")
    finished(page, "guided")
    assert "prompt=Once+upon" in page.url and "key" not in page.url
    text = page.inner_text("#guided")
    page.goto("about:blank")
    page.goto(f"{site.base}/#prompt=Once+upon&negative=In+the+end&temperature=0.85&seed=3&tokens=12")
    page.click("#write")
    finished(page, "guided")
    assert page.inner_text("#guided") == text
    page.click('[data-example="1"]')
    finished(page, "guided")
    assert "horror" in page.input_value("#prompt")
    assert page.complaints == []


def test_old_complaints_go_and_the_chosen_token_is_in_every_table(page):
    write(page, prompt="Same", negative="Same")
    page.locator("#guided-state.wrong").wait_for()
    page.fill("#negative", "Other")
    assert page.inner_text("#guided-state") == ""
    write(page, prompt="Once upon", negative="In the end", temperature="5", seed="1")
    finished(page, "guided")
    page.click("#guided .token:nth-child(3)")
    assert page.locator("#why table").count() == page.locator("#why table .chosen").count() == 3


def test_a_grid_of_scales(page, site):
    page.goto(f"{site.base}/compare#prompt=Once+upon&negative=In+the+end&scales=1,2&temperature=0&tokens=6")
    page.click("#write")
    page.locator("#grid section:nth-child(3) p", has_text=" s, ").wait_for()
    assert page.locator("#grid h2").all_inner_texts() == ["Scale 1: unguided", "Scale 2, log", "Scale 2, prob"]
    body = {"prompt": "Once upon", "max_tokens": 6, "temperature": 0, "negative_prompt": "In the end"}
    for at, space in ((2, "log"), (3, "prob")):
        given = body | {"guidance_scale": 2, "guidance": {"space": space}, "trace": 1}
        steps = http.post(f"{site.base}/v1/completions", json=given).json()["choices"][0]["trace"]
        shown = page.locator(f"#grid section:nth-child({at}) .token").all_text_contents()
        assert shown == [s["text"] or s["label"] for s in steps]
    page.fill("#scales", "1, many")
    page.click("#write")
    assert "give numbers" in page.inner_text("#state")
    assert page.complaints == []


@pytest.mark.parametrize("path", ["", "compare"])
@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_is_wider_than_the_window(page, site, path, width):
    page.set_viewport_size({"width": width, "height": 800})
    page.goto(f"{site.base}/{path}")
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_stopping_frees_the_rows(browser_page, model, gate):
    with serving(model) as running:
        browser_page.goto(running.base)
        write(browser_page, tokens="400")

        def is_written():  # a step at a time: the page asks twice, and one may come long before the other
            gate.allow(1)
            browser_page.wait_for_timeout(50)
            return browser_page.locator("#guided .token").count() > 0

        wait_for(is_written)
        browser_page.click("#halt")
        browser_page.locator("#guided-state", has_text="stopped after").wait_for()
        wait_for(lambda: running.service.worker.num_jobs == 0)
        passed = gate.num_passed
        gate.open()
        running.wait_idle()
        assert gate.num_passed < passed + 10


def test_hostile_text_is_shown_and_not_run(page):
    hostile = "<img src=x onerror=document.title='run'>"
    write(page, prompt=hostile, negative="<script>document.title='run'</script>")
    finished(page, "guided")
    page.locator("#guided .token").first.press("Enter")
    assert page.title() == "Counterpoint" and page.locator("#guided img, #why img").count() == 0


def test_the_page_loads_nothing_from_elsewhere(site):
    answer = http.get(site.base)
    assert answer.headers["content-security-policy"].startswith("default-src 'self'")
    assert "http" not in answer.text.replace("http-equiv", "")
    for path in ("/page/../app.py", "/page/%2e%2e/app.py", "/page/..%2fapp.py", "/page//etc/passwd"):
        assert http.get(site.base + path).status_code == 404
