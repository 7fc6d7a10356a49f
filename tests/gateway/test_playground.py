"""The page at `/` in a real browser, against the real stack."""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from threading import Event

import httpx2
import pytest
from playwright.sync_api import Browser, FloatRect, Locator, Page, Route, expect

from gateway.observe import playground
from gateway.reasons import REASONS
from scripts.local.dynamo import DemoDynamo
from scripts.local.process import free_port
from scripts.local.triton import Triton
from tests.browser import Visit, chromium, load_axe, violations, visiting
from tests.conftest import DEFAULT_CONFIG, WITHOUT_CACHE, StartGateway, running_gateway
from tests.gateway.client import Gateway, chat, eventually
from tests.gateway.scripted import Scripted, scripted_upstream

_KEY = "sk-playground-0123456789"
_PYTHON = "Write a Python function to sort a list"
_FILES = ("/", "/playground.css", "/playground.js")
_POLICIES = """\
  - name: strong_weak
    type: routellm
    router: mf
    threshold: 0.3
    timeout_ms: 30000
    strong: {api_base: "${DYNAMO_API_BASE}", model: llama-3.3-nemotron-super-49b-v1}
    weak: {api_base: "${DYNAMO_API_BASE}", model: llama-3.1-8b-instruct}
  - name: nobody_there
    url: http://x:8000/v2/models/task_router_ensemble/infer
    timeout_ms: 30000
    llms: [{name: Unknown, api_base: "http://127.0.0.1:9", model: none}]
  - name: <b>scripted</b>
    url: http://x:8000/v2/models/task_router_ensemble/infer
    timeout_ms: 30000
    llms:
      - {name: Unknown, api_base: "${SCRIPTED}", model: scripted, fallbacks: [Other]}
      - {name: Other, api_base: "${DYNAMO_API_BASE}", model: llama-3.1-8b-instruct}
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    expect.set_options(timeout=60_000)
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def upstream() -> Iterator[Scripted]:
    """Streams whatever a test wants."""
    with scripted_upstream(status=200, headers={"content-type": "text/event-stream"}, models=["scripted"]) as upstream:
        yield upstream


@pytest.fixture(scope="module")
def gateway(
    triton: Triton, dynamo: DemoDynamo, upstream: Scripted, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    """The default configuration, a RouteLLM policy, one whose only model is not there, and one of a scripted model."""
    folder = tmp_path_factory.mktemp("playground")
    config = folder / "config.yaml"
    text = DEFAULT_CONFIG.read_text().replace("    llms:", "    timeout_ms: 30000\n    llms:")
    config.write_text(WITHOUT_CACHE + text + _POLICIES)
    environ = {"DYNAMO_API_BASE": dynamo.url, "TRITON_GRPC_URL": triton.grpc_url, "SCRIPTED": upstream.url}
    with running_gateway(config, folder, **environ) as started:  # type: ignore[arg-type]
        yield started


def _fill(page: Page, prompt: str, policy: str = "", other: str = "none", max_tokens: int = 16) -> None:
    expect(page.locator("#policy option")).not_to_have_count(1)
    page.get_by_label("Prompt", exact=True).fill(prompt)
    page.get_by_label("Policy", exact=True).select_option(policy)
    page.get_by_label("Compare with").select_option(other)
    page.get_by_label("Max tokens").fill(str(max_tokens))


def _send(page: Page) -> None:
    """Sends, which takes back the status of the request before, and waits for the end."""
    page.get_by_role("button", name="Send").click()
    expect(page.get_by_role("status")).to_contain_text("Done")


def _figure(card: Locator, name: str) -> str:
    return card.locator("dl div").filter(has_text=name).locator("dd").inner_text()


def test_a_prompt_is_routed_and_streamed(gateway: Gateway, browser: Browser) -> None:
    """The page shows model, label, reason, scores, times and tokens as the gateway tells them, and the answer."""
    with visiting(browser, gateway.url) as visit:
        page = visit.page
        _fill(page, _PYTHON)
        _send(page)
        card = page.get_by_role("article")
        told = gateway.post("/v1/route", chat(_PYTHON)).json()
        expect(card.locator(".policy")).to_have_text(told["policy"])
        expect(card.locator(".model strong")).to_have_text(told["model"])
        expect(card.locator(".chip")).to_have_text([told["label"], "decided"])
        expect(card.locator(".why")).to_contain_text("judged to be Code Generation")
        best = sorted(told["scores"].items(), key=lambda item: -item[1])
        rows = card.get_by_role("list", name="Scores of").get_by_role("listitem")
        assert rows.count() == 12 and rows.first.inner_text().split("\n") == [best[0][0], f"{best[0][1]:.3f}"]
        assert re.fullmatch(r"[\d.]+ m?s", _figure(card, "Decision"))
        assert re.fullmatch(r"[\d.]+ m?s", _figure(card, "First byte"))
        assert re.fullmatch(r"[\d.]+ m?s", _figure(card, "Whole answer"))
        assert _figure(card, "Tokens in prompt") == _figure(card, "Tokens read") == str(told["tokens_read"])
        assert _figure(card, "Tokens cut") == "0" and _figure(card, "Confidence").endswith(" %")
        assert card.locator(".answer").inner_text().strip()
        expect(card.locator(".usage")).to_contain_text("16 out")


def test_a_policy_is_switched(gateway: Gateway, browser: Browser) -> None:
    """Another policy's scores are shown in place of the first one's; a RouteLLM policy's win rate by its threshold."""
    with visiting(browser, gateway.url) as visit:
        for policy, rows in (("complexity_router", 7), ("strong_weak", 2), ("task_router", 12)):
            _fill(visit.page, _PYTHON, policy)
            _send(visit.page)
            card = visit.page.get_by_role("article")
            expect(card.locator(".policy")).to_have_text(policy)
            expect(card.locator(".scores li")).to_have_count(rows)
            if policy == "strong_weak":
                expect(card.locator(".why")).to_contain_text("the threshold of 0.300")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_two_policies_side_by_side(gateway: Gateway, browser: Browser, scheme: str, tmp_path: Path) -> None:
    """Both decide and answer, beside one another; the README's pictures are taken of it."""
    view = {"width": 1440, "height": 900}
    with visiting(browser, gateway.url, viewport=view, color_scheme=scheme, reduced_motion="reduce") as visit:
        page = visit.page
        policies = ("task_router", "strong_weak") if scheme == "light" else ("complexity_router", "strong_weak")
        _fill(page, _PYTHON, *policies, max_tokens=48)
        _send(page)
        cards = page.get_by_role("article")
        expect(cards.locator(".policy")).to_have_text(list(policies))
        for card in cards.all():
            assert card.locator(".answer").inner_text().strip()
            expect(card.locator(".usage")).to_contain_text("48 out")
        left, right = (card.bounding_box() for card in cards.all())
        assert left and right and left["y"] == right["y"] and left["x"] + left["width"] < right["x"]
        expect(page.get_by_role("list", name="Requests by policy")).to_contain_text(policies[0])
        folder = Path(os.environ.get("SCREENSHOTS") or tmp_path)
        (folder / f"playground-{scheme}.png").write_bytes(_picture(page, lower_half=scheme == "dark"))


def _picture(page: Page, lower_half: bool) -> bytes:
    """From the top to the results, or from there to the bottom."""
    page.get_by_role("heading", name="LLM router playground").click()  # no field has the focus
    results = page.evaluate("document.querySelector('#results').getBoundingClientRect().toJSON()")
    top, bottom = 0, results["bottom"] + 24
    if lower_half:
        top, bottom = results["top"] - 24, page.evaluate("document.querySelector('footer').getBoundingClientRect().top")
    clip: FloatRect = {"x": 0, "y": top, "width": 1440, "height": bottom - top}
    return page.screenshot(full_page=True, clip=clip, caret="initial")


def test_a_stream_is_stopped(gateway: Gateway, browser: Browser) -> None:
    """The answer is shown while it comes, Stop ends it on both sides, and the focus is not lost with the button."""
    with visiting(browser, gateway.url) as visit:
        page = visit.page
        _fill(page, "stop this", max_tokens=20_000)
        page.get_by_role("button", name="Send").click()
        answer = page.locator(".answer[aria-busy=true]")
        expect(answer).to_have_text(re.compile(r"\S"))
        stop = page.get_by_role("button", name="Stop")
        stop.focus()
        page.keyboard.press("Enter")
        expect(page.locator(".chip").last).to_have_text("stopped")
        expect(page.locator(".answer")).to_have_attribute("aria-busy", "false")
        expect(stop).to_be_disabled()
        expect(page.get_by_label("Prompt", exact=True)).to_be_focused()
        expect(page.get_by_role("alert")).to_be_empty()
    assert eventually(lambda: any(line.get("outcome") == "client_gone" for line in gateway.log_lines()))


def test_errors_are_shown(gateway: Gateway, browser: Browser) -> None:
    """A wrong field, and a model that is not there, are named in the alert; the next request begins without one."""
    with visiting(browser, gateway.url) as visit:
        page, alert = visit.page, visit.page.get_by_role("alert")
        _fill(page, "  ")
        page.get_by_role("button", name="Send").click()
        expect(alert).to_have_text("Type a prompt first.")
        expect(page.get_by_label("Prompt", exact=True)).to_be_focused()
        _fill(page, "hi", max_tokens=0)
        page.get_by_role("button", name="Send").click()
        expect(alert).to_contain_text("expected a whole number")
        expect(page.get_by_label("Max tokens")).to_be_focused()
        _fill(page, "hi", "nobody_there", "task_router")
        _send(page)
        answer = gateway.post("/v1/chat/completions", chat("hi", model="nobody_there"))
        assert answer.status_code == 502
        expect(alert).to_have_text(f"nobody_there: {answer.json()['error']['message']}")
        expect(page.get_by_role("article").first.locator(".chip").last).to_have_text("failed")
        expect(page.get_by_role("article").last.locator(".usage")).to_contain_text("16 out")
        _fill(page, "hi")
        _send(page)
        expect(alert).to_be_empty()


def test_keyboard_alone(gateway: Gateway, browser: Browser) -> None:
    """Without a mouse a policy is chosen, a prompt typed and sent, the answer reached and read, a long one stopped."""
    with visiting(browser, gateway.url) as visit:
        page, press = visit.page, visit.page.keyboard.press
        expect(page.locator("#policy option")).not_to_have_count(1)
        press("Tab")
        expect(page.get_by_role("link", name="Skip to the results")).to_be_focused()
        press("Tab")
        expect(page.get_by_label("Prompt", exact=True)).to_be_focused()
        page.keyboard.type("Brainstorm names for a bakery")
        for _ in range(4):  # past the examples
            press("Tab")
        expect(page.get_by_label("Policy", exact=True)).to_be_focused()
        page.keyboard.type("complexity")
        expect(page.get_by_label("Policy", exact=True)).to_have_value("complexity_router")
        press("Tab")
        press("Tab")
        page.keyboard.type("8")  # a field that Tab reaches is selected whole
        press("Control+Enter")
        expect(page.get_by_role("status")).to_contain_text("Done")
        expect(page.locator(".usage")).to_contain_text("8 out")
        for _ in range(2):  # past Send; Stop is off
            press("Tab")
        expect(page.locator(".answer")).to_be_focused()
        for _ in range(2):
            press("Shift+Tab")
        expect(page.get_by_label("Max tokens")).to_be_focused()
        page.keyboard.type("20000")
        press("Enter")
        expect(page.locator(".answer[aria-busy=true]")).to_have_text(re.compile(r"\S"))
        press("Escape")
        expect(page.get_by_role("status")).to_contain_text("stopped")


_EVERY_LOOK = [
    ("dark", 360),
    pytest.param("light", 1440, marks=pytest.mark.rare),
    pytest.param("light", 360, marks=pytest.mark.rare),
    pytest.param("dark", 1440, marks=pytest.mark.rare),
]


@pytest.mark.parametrize(("scheme", "width"), _EVERY_LOOK)
def test_every_look_is_usable(gateway: Gateway, browser: Browser, scheme: str, width: int) -> None:
    """axe finds nothing before a request, after one, and with an error, and nothing is wider than the screen."""
    axe = load_axe()
    view = {"width": width, "height": 800}
    with visiting(browser, gateway.url, viewport=view, color_scheme=scheme, bypass_csp=True) as visit:
        page = visit.page
        backgrounds = {"light": "rgb(244, 245, 248)", "dark": "rgb(17, 20, 27)"}
        expect(page.locator("body")).to_have_css("background-color", backgrounds[scheme])

        def check() -> None:
            assert violations(page, axe) == []
            assert page.evaluate("document.documentElement.scrollWidth") <= width

        expect(page.locator("#policy option")).not_to_have_count(1)
        check()
        _fill(page, _PYTHON, "task_router", "strong_weak", max_tokens=64)
        _send(page)
        expect(page.locator("#decisions tr").first).to_be_visible()
        check()
        _fill(page, "x" * 400, "nobody_there", "complexity_router")
        _send(page)
        expect(page.get_by_role("alert")).not_to_be_empty()
        check()


def test_recent_decisions_appear_live(gateway: Gateway, browser: Browser) -> None:
    """A request of anybody's is in the table and the shares by itself; nothing is asked for while nobody looks."""
    with visiting(browser, gateway.url) as visit:
        page = visit.page
        gateway.post("/v1/chat/completions", chat("hello there", model="complexity_router"))
        row = page.locator("#decisions tr").first
        expect(row.locator("td[data-name=Policy]")).to_have_text("complexity_router")
        expect(row.locator("td[data-name=Status]")).to_have_text("200")
        expect(page.get_by_role("list", name="Requests by policy")).to_contain_text("complexity_router")
        expect(page.get_by_role("contentinfo")).to_contain_text("The table of recent decisions holds names and figures")
        page.clock.install()
        page.reload()
        expect(row).to_be_visible()
        asked = _asked(visit.urls)
        page.clock.run_for(2_000)
        _wait_for_more(visit, asked)
        _look(page, "hidden")
        page.clock.run_for(10_000)  # one that was on its way may still set a timer
        asked = _asked(visit.urls)
        page.clock.run_for(60_000)
        assert _asked(visit.urls) == asked
        _look(page, "visible")
        _wait_for_more(visit, asked)


def _wait_for_more(visit: Visit, asked: int) -> None:
    """Until the page has asked for the decisions once more."""
    while _asked(visit.urls) == asked:
        with visit.page.expect_request("**/decisions"):
            pass


def _asked(urls: list[str]) -> int:
    return sum(url.endswith("/decisions") for url in urls)


def _look(page: Page, state: str) -> None:
    """As when its tab is hidden or shown, which no headless browser does."""
    page.evaluate(
        "state => { Object.defineProperty(document, 'visibilityState', {value: state, configurable: true});"
        " document.dispatchEvent(new Event('visibilitychange')); }",
        state,
    )


def _guarded_config(playground: bool) -> str:
    return f"gateway: {{playground: {str(playground).lower()}}}\n" + DEFAULT_CONFIG.read_text()


def test_a_key_is_asked_for(start_gateway: StartGateway, browser: Browser, tmp_path: Path) -> None:
    """With keys and a management port the page opens without one, asks for it, keeps it nowhere, and does without the
    decisions, which are on that port; switched off in the file it is gone; an end of the gateway is an alert."""
    port = free_port()
    gateway = start_gateway(
        _guarded_config(True), arguments=["--management-port", str(port)], GATEWAY_API_KEYS=f"me:{_KEY}"
    )
    with visiting(browser, gateway.url) as visit:
        page, key, alert = visit.page, visit.page.get_by_label("Client key"), visit.page.get_by_role("alert")
        expect(key).to_be_visible()
        page.get_by_label("Prompt", exact=True).fill("hi")
        page.get_by_role("button", name="Send").click()
        expect(alert).to_contain_text("a valid key is needed")
        expect(key).to_be_focused()
        page.keyboard.type("wrong-but-long-enough")
        page.keyboard.press("Enter")
        expect(alert).to_contain_text("a valid key is needed")
        key.fill(_KEY)
        page.keyboard.press("Tab")
        expect(alert).to_be_empty()
        _fill(page, "hi", "task_router")
        _send(page)
        expect(page.locator(".chip").last).to_have_text("decided")
        _send(page)
        expect(page.locator(".chip").last).to_have_text("cached")
        assert _figure(page.get_by_role("article"), "Decision") == "remembered"
        expect(page.locator(".usage")).to_contain_text("16 out")
        expect(page.locator("#recent-note")).to_contain_text("management port")
        assert page.evaluate("[document.cookie, localStorage.length, sessionStorage.length]") == ["", 0, 0]
        assert all(_KEY not in url for url in visit.urls)

        keyed = {"authorization": f"Bearer {_KEY}"}
        told = httpx2.get(f"http://127.0.0.1:{port}/decisions", headers=keyed).json()
        assert [row["path"] for row in told["decisions"]] == ["/v1/chat/completions", "/v1/route"] * 2
        assert [row["outcome"] for row in told["decisions"]] == ["complete"] * 4
        assert told["policies"] == {"task_router": 2}
        assert httpx2.get(f"http://127.0.0.1:{port}/", headers=keyed).status_code == 404
        assert httpx2.get(f"http://127.0.0.1:{port}/decisions").status_code == 401
        assert gateway.get("/decisions", keyed).status_code == 404

        (file,) = tmp_path.glob("gateway*/config.yaml")
        file.write_text(_guarded_config(False))
        assert eventually(lambda: gateway.get("/").status_code == 401)  # as any path
        for path in _FILES:
            off, unknown = gateway.get(path, keyed), gateway.get("/nothing", keyed)
            assert (off.status_code, off.text) == (unknown.status_code, unknown.text) == (404, unknown.text)
            assert gateway.post(path, headers=keyed).status_code == 404
        assert httpx2.get(f"http://127.0.0.1:{port}/decisions", headers=keyed).status_code == 200

        gateway.process.stop()
        page.get_by_role("button", name="Send").click()
        expect(alert).to_contain_text("cannot be reached")


def test_the_page_explains_every_reason() -> None:
    """It has a sentence for each reason that the gateway gives, and for no other."""
    script = (Path(str(playground.__file__)).parent / "script.js").read_text()
    table = script.partition("const WHY = {")[2].partition("};")[0]
    assert set(re.findall(r"^  (\w+): \"", table, re.MULTILINE)) == set(REASONS)


def test_the_files_headers(gateway: Gateway) -> None:
    """Each file may run nothing from elsewhere, is not guessed at, names itself, and is not sent twice."""
    for path in _FILES:
        answer = gateway.get(path)
        policy = answer.headers["content-security-policy"]
        assert answer.status_code == 200 and policy.startswith("default-src 'none'; script-src 'self'")
        assert "unsafe" not in policy and "frame-ancestors 'none'" in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        again = gateway.get(path, {"if-none-match": answer.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
        head = httpx2.head(gateway.url + path)
        assert (head.status_code, head.content) == (200, b"") and head.headers["etag"] == answer.headers["etag"]
        assert gateway.post(path).status_code == 405


def _chunk(text: str) -> bytes:
    return b"data: " + json.dumps({"choices": [{"index": 0, "delta": {"content": text}}]}).encode() + b"\n\n"


def test_answers_are_text_of_bounded_length(gateway: Gateway, upstream: Scripted, browser: Browser) -> None:
    """A model's markup is shown as it is written, its length is bounded, and a stream that breaks off is an error."""
    markup = "<img src=x onerror=alert(1)><script>alert(2)</script>"
    with visiting(browser, gateway.url) as visit:
        page, answer = visit.page, visit.page.locator(".answer")
        upstream.body = _chunk(markup) + b"data: [DONE]\n\n"
        _fill(page, markup, "<b>scripted</b>")
        _send(page)
        expect(answer).to_have_text(markup)
        expect(page.get_by_role("article").locator(".policy")).to_have_text("<b>scripted</b>")
        assert page.locator("img, article b, article script").count() == 0
        upstream.body = _chunk("x" * 150_000) + b"data: [DONE]\n\n"
        _send(page)
        assert page.evaluate("document.querySelector('.answer').textContent.length") == 100_000
        expect(page.locator(".usage")).to_contain_text("Only the first 100,000 characters are shown.")
        upstream.body = _chunk("half of it")
        _send(page)
        expect(page.get_by_role("alert")).to_contain_text("broke off")
        expect(answer).to_have_text("half of it")


def test_answers_that_are_odd(
    gateway: Gateway, upstream: Scripted, browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection that is cut is said to be; counts of tokens are shown where they are numbers; JSON is named."""
    usages = {
        "{}": "The model did not say how many tokens.",
        '{"prompt_tokens": null, "completion_tokens": "7"}': "The model did not say how many tokens.",
        '{"prompt_tokens": null, "completion_tokens": 7}': "7 tokens out.",
    }
    with visiting(browser, gateway.url) as visit:
        page, alert = visit.page, visit.page.get_by_role("alert")
        for usage, shown in usages.items():
            upstream.body = _chunk("all") + b'data: {"choices": [], "usage": %b}\n\n' % usage.encode()
            upstream.body += b"data: [DONE]\n\n"
            _fill(page, _PYTHON, "<b>scripted</b>")
            _send(page)
            expect(page.locator(".usage")).to_have_text(shown)
            expect(alert).to_be_empty()
        with monkeypatch.context() as patch:
            patch.setattr(upstream, "pieces", [_chunk("half of it")])
            patch.setattr(upstream, "breaks_off", cut := Event())
            page.get_by_role("button", name="Send").click()
            expect(page.locator(".answer")).to_have_text("half of it")
            cut.set()
            expect(alert).to_have_text("The answer broke off before its end.")
            expect(page.locator(".answer")).to_have_text("half of it")
            expect(page.locator(".chip").last).to_have_text("failed")
        with monkeypatch.context() as patch:
            patch.setattr(upstream, "headers", {})
            _send(page)
            expect(alert).to_contain_text("answered with JSON")


def test_the_decision_is_shown_once(gateway: Gateway, browser: Browser) -> None:
    """What the chat's own decision took is no part of its first byte, which a decision of an hour shows."""

    def decided_for_an_hour(route: Route) -> None:
        answer = route.fetch()
        assert float(answer.headers["x-router-decision-ms"]) > 0
        route.fulfill(response=answer, headers={**answer.headers, "x-router-decision-ms": "3600000.0"})

    with visiting(browser, gateway.url) as visit:
        visit.page.route("**/v1/chat/completions", decided_for_an_hour)
        _fill(visit.page, _PYTHON)
        _send(visit.page)
        card = visit.page.get_by_role("article")
        assert (_figure(card, "First byte"), _figure(card, "Whole answer")) == ("0.0 ms", "0.0 ms")
        assert _figure(card, "Decision") not in ("0.0 ms", "remembered")


def test_another_model_that_answers_is_named(gateway: Gateway, upstream: Scripted, browser: Browser) -> None:
    """When the chosen model's server is too busy, the one that answers is shown in its place, and why."""
    upstream.status = 503
    with visiting(browser, gateway.url) as visit:
        _fill(visit.page, _PYTHON, "<b>scripted</b>")
        _send(visit.page)
        card = visit.page.get_by_role("article")
        expect(card.locator(".model strong")).to_have_text("llama-3.1-8b-instruct")
        expect(card.locator(".chip")).to_have_text(["Code Generation", "no_llm_for_label", "upstream_overloaded"])
        expect(card.locator(".why")).to_contain_text("Chosen was scripted.")
        expect(card.locator(".usage")).to_contain_text("16 out")
