"""The page of `steer ui` in headless Chromium, as its users have it.

It takes Chromium and playwright, which `make test-page` installs; elsewhere it is skipped.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs
from test_cli import steer

from steer.base.shipped import SHIPPED
from steer.generate.apply import generate
from steer.models.loading import load
from steer.models.source import ModelSource
from steer.steering import spec
from steer.steering.generation import Sampling
from steer.steering.steers import resolve
from steer.vectors import store

playwright = pytest.importorskip(
    "playwright.sync_api", reason="playwright is not installed here; `make test-page` installs it"
)
NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
CHROMIUM = os.environ.get("STEER_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
if CHROMIUM is None:
    pytest.skip("there is no Chromium here (or name it: STEER_CHROMIUM)", allow_module_level=True)

ROOT = Path(__file__).parents[1]
PROMPT = "One day Mara woke up."
#: A vector's description, as a stranger's file may have it.
EVIL = "<img src=x onerror=alert(1)> <b>bold</b>"
#: Finds controls without a name, and texts that are hard to read.
CHECKS = Path(__file__).with_name("page_checks.js")
IDLE = "#send:not(:text-is('Stop'))"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder_made = tmp_path_factory.mktemp("page")
    for name in ("joyful", "sea"):
        vector = store.read(SHIPPED / f"{name}.safetensors")
        metadata = structs.replace(vector.metadata, description=f"{name} {EVIL}")
        (folder_made / "vectors").mkdir(exist_ok=True)
        store.write(
            folder_made / f"vectors/{name}.safetensors", type(vector)(metadata, vector.directions)
        )
    return folder_made


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    command = [sys.executable, "-m", "steer", "ui", "--no-browser", "--json", "--port", "0"]
    command += ["-v", "joyful:2@2"]
    process = subprocess.Popen(
        command,
        cwd=folder,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )
    assert process.stdout is not None
    lines = [process.stdout.readline()]
    while lines[-1] not in ("}\n", ""):
        lines.append(process.stdout.readline())
    yield json.loads("".join(lines))["page"]
    process.terminate()
    process.communicate(timeout=60)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        opened = started.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield opened
        opened.close()


class Tab:
    """A page that is open, and what went wrong on it."""

    def __init__(self, browser: Any, address: str, **options: Any) -> None:
        self.problems: list[str] = []
        self.asked: set[str] = set()
        context = browser.new_context(**({"viewport": {"width": 1280, "height": 800}} | options))
        self.page = context.new_page()
        self.page.set_default_timeout(30_000)
        self.page.on("console", lambda message: self.problems.append(message.text))
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("request", lambda request: self.asked.add(request.url))
        self.page.goto(address)
        self.page.wait_for_selector("#turns *")

    def send(self, text: str = PROMPT) -> None:
        self.page.fill("#message", text)
        self.page.press("#message", "Enter")
        self.wait()

    def wait(self) -> None:
        self.page.wait_for_selector(IDLE)

    def text(self, column: str) -> str:
        return str(self.page.locator(".turn").last.locator(f".{column} .text").inner_text())

    def settings(self, **values: float) -> None:
        self.page.click("text=Sampling")
        for label, value in values.items():
            self.page.get_by_label(label.capitalize().replace("_", " "), exact=True).fill(
                str(value)
            )


@pytest.fixture
def tab(browser: Any, address: str) -> Iterator[Tab]:
    tab = Tab(browser, address)
    yield tab
    tab.page.context.close()
    assert not tab.problems
    assert all(question.startswith((address, "blob:" + address)) for question in tab.asked)


def written(prompt: str, typed: list[str], sampling: Sampling) -> str:
    """What `steer apply` writes with these steers."""
    model = load(ModelSource("pocket", device="cpu"))
    read = lambda parsed: store.read(SHIPPED / f"{parsed.reference}.safetensors")  # noqa: E731
    steers = [resolve(spec_parsed, read(spec_parsed)) for spec_parsed in map(spec.parse, typed)]
    return next(generate(model, [prompt], steers, sampling)).text


def test_both_columns_are_what_apply_writes(tab: Tab) -> None:
    tab.settings(tokens=24, seed=5)
    tab.send()
    sampling = Sampling(max_tokens=24, temperature=0.7, seed=5)
    for column, typed in (("unsteered", []), ("steered", ["joyful:2@2"])):
        expected = written(PROMPT, typed, sampling)
        assert tab.text(column).split() == expected.split()
    assert tab.page.locator(".steered .differs").count()
    assert not tab.page.locator(".unsteered .differs").count()
    assert tab.page.locator(".steered .token.pos").count()
    assert tab.page.locator(".unsteered .word").inner_text() == "coherent"


def test_what_files_and_models_say_is_never_markup(tab: Tab) -> None:
    assert EVIL in tab.page.locator("#vectors").inner_text()
    tab.send(EVIL)
    assert EVIL in tab.page.locator(".turn .prompt p").inner_text()
    assert not tab.page.locator("img, b").count()


def test_another_token_is_gone_on_from_by_keyboard(tab: Tab) -> None:
    tab.settings(tokens=24)
    tab.send()
    tokens = tab.page.locator(".steered .token")
    before = [tokens.nth(index).inner_text() for index in range(4)]
    tab.page.locator(".steered .text").focus()
    for _ in range(4):
        tab.page.keyboard.press("ArrowRight")
    card = tab.page.locator("#card")
    assert before[3].strip() in card.inner_text()
    assert re.search(r"joyful, layer \d\s+-?[\d.]+", card.inner_text())
    tab.page.keyboard.press("Enter")
    chosen = tab.page.evaluate("document.activeElement.getAttribute('aria-label')")
    assert chosen.startswith("Go on from ")
    tab.page.keyboard.press("Enter")
    tab.wait()
    assert tab.page.locator(".branches").inner_text().split() == ["‹", "2", "/", "2", "›"]
    after = [tokens.nth(index).inner_text() for index in range(4)]
    assert after[:3] == before[:3]
    assert after[3] == chosen.removeprefix("Go on from ").rpartition(",")[0].strip("␣")
    tab.page.click("[aria-label='Earlier branch']")
    assert [tokens.nth(index).inner_text() for index in range(4)] == before
    tab.page.keyboard.press("Escape")
    assert card.is_hidden()


def test_edits_and_seeds_are_branches(tab: Tab) -> None:
    tab.settings(tokens=8)
    tab.send()
    first = tab.text("steered")
    tab.page.click("text=Regenerate")
    tab.wait()
    assert "seed 1" in tab.page.locator(".tools").inner_text()
    assert tab.text("steered") != first
    tab.page.click("text=Edit")
    tab.page.get_by_label("The message of the new branch").fill("The boat")
    tab.page.click("dialog button.primary")
    tab.wait()
    assert tab.page.locator(".prompt p").inner_text() == "The boat"
    assert "3 / 3" in tab.page.locator(".branches").inner_text()


def test_a_saved_conversation_comes_back(tab: Tab, tmp_path: Path) -> None:
    tab.settings(tokens=8)
    tab.send()
    before = tab.text("steered"), tab.text("unsteered")
    with tab.page.expect_download() as download:
        tab.page.click("#save")
    file = tmp_path / "saved.json"
    download.value.save_as(file)
    tab.page.click("#new")
    assert not tab.page.locator(".turn").count()
    tab.page.set_input_files("#file", file)
    tab.page.wait_for_selector(".turn")
    assert (tab.text("steered"), tab.text("unsteered")) == before
    for wrong in ("{", "[]", '{"format": "steer conversation 1", "turns": [{"id": "x"}]}'):
        file.write_text(wrong)
        tab.page.set_input_files("#file", file)
        tab.page.wait_for_selector("#turns > .problem")
        assert tab.text("steered") == before[0]
        tab.page.reload()
        tab.page.wait_for_selector(".turn")


def test_what_is_exported_writes_the_same_text(
    tab: Tab, folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(folder)
    tab.settings(tokens=16, seed=3)
    sea = tab.page.locator("#vectors .vector", has_text="sea <img")
    sea.locator("[role=switch]").click()
    sea.locator("input[type=number]").fill("-1.5")
    tab.page.click("summary >> text=Guard")
    tab.page.get_by_label("When a new token has").fill("joyful>5.1")
    tab.send()
    assert "tripped" in tab.page.locator(".steered").inner_text()
    expected = tab.text("steered").split()
    assert 4 < len(expected) < 16
    tab.page.fill("#message", PROMPT)
    tab.page.click("#export")
    forms = {}
    for form in ("Command line", "Recipe", "Python", "Request"):
        tab.page.click(f"dialog .segments >> text={form}")
        forms[form] = tab.page.locator("dialog textarea").input_value()
    command = shlex.split(forms["Command line"].replace("\\\n", " "))
    assert steer(*command[1:]).stdout.split() == expected
    recipe = tmp_path / "own.toml"
    recipe.write_text(forms["Recipe"])
    note = forms["Recipe"].splitlines()[0]
    guard = shlex.split(note.partition("add ")[2].partition(" to ")[0])
    result = steer("apply", PROMPT, "-m", "pocket", "--recipe", recipe, *guard)
    assert result.stdout.split() == expected, result.output
    code = tmp_path / "own.py"
    code.write_text(forms["Python"])
    done = subprocess.run(
        [sys.executable, str(code)],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == expected
    assert json.loads(forms["Request"])["seed"] == 3


def test_a_vector_is_made_used_and_saved(tab: Tab, folder: Path) -> None:
    tab.settings(tokens=8)
    tab.page.click("text=New vector")
    tab.page.click("text=From pairs of texts")
    tab.page.click("text=Fill in an example")
    assert tab.page.get_by_label("Name", exact=True).input_value() == "cheerful"
    tab.page.get_by_label("Name", exact=True).fill("joyful")
    tab.page.click("dialog button.primary")
    tab.page.wait_for_selector("dialog .problem:has-text('already')")
    tab.page.get_by_label("Name", exact=True).fill("merry")
    tab.page.click("dialog button.primary")
    tab.page.wait_for_selector("text=merry is made")
    tab.page.click("dialog >> text=Save to a file")
    tab.page.wait_for_selector("text=Saved as vectors/merry.safetensors")
    tab.page.wait_for_function("document.activeElement.innerText === 'Try it'")
    assert store.read(folder / "vectors/merry.safetensors").name == "merry"
    tab.page.click("dialog >> text=Try it")
    tab.send()
    assert "merry" in tab.page.locator(".steered h3").inner_text()
    tab.problems.clear()  # the browser logs each answer that is no success


def test_words_that_are_a_name_already_make_a_vector_of_another_name(tab: Tab) -> None:
    tab.settings(tokens=8)
    tab.page.click("text=New vector")
    tab.page.get_by_label("A word, or what it does").fill("joyful")
    tab.page.get_by_label("Its opposite, if it has one").fill("gloomy")
    tab.page.click("dialog button.primary")
    tab.page.wait_for_selector("text=joyful-2 is made")
    tab.page.keyboard.press("Enter")  # the focus is on "Try it"
    # Answers of a chat made it: it is tried in a chat, and alone.
    assert tab.page.locator("#mode input[value=chat]").is_checked()
    tab.page.keyboard.type("How was your day?")
    tab.page.keyboard.press("Enter")
    tab.wait()
    assert tab.page.locator(".steered h3").inner_text().endswith(" joyful-2 ×1")
    assert not tab.page.locator(".note").count()
    tab.page.click("#export")
    assert "Save first" in tab.page.locator("dialog textarea").input_value()
    tab.page.keyboard.press("Escape")
    card = tab.page.locator(".vector.on")
    card.locator("summary").click()
    card.get_by_text("Save to a file").click()
    card.get_by_text("Saved as vectors/joyful-2.safetensors").wait_for()
    tab.page.click("#export")
    assert "Save first" not in tab.page.locator("dialog textarea").input_value()


def test_nine_strengths_are_written_and_one_is_taken(tab: Tab) -> None:
    tab.settings(tokens=8)
    tab.page.click(".vector.on summary")
    tab.page.click(".vector.on >> text=Try strengths")
    tab.page.locator(".strip .word").nth(8).wait_for()
    assert tab.page.locator(".strip li").count() == 9
    tab.page.click("[aria-label='Use -1 times recommended']")
    assert tab.page.locator(".vector.on input[type=number]").input_value() == "-1"


def test_mistakes_are_said_where_they_are_made(tab: Tab) -> None:
    tab.page.click(".vector.on summary")
    tab.page.locator(".vector.on").get_by_label("Layers").fill("9")
    tab.send()
    assert "layer 9" in tab.page.locator(".steered .problem").inner_text()
    assert tab.text("unsteered")
    tab.page.locator(".vector.on").get_by_label("Layers").fill("4-2")
    assert "4-7" in tab.page.locator(".vector.on .problem").inner_text()
    tab.problems.clear()  # the browser logs each answer that is no success


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_all_is_named_and_legible(browser: Any, address: str, scheme: str, width: int) -> None:
    tab = Tab(browser, address, viewport={"width": width, "height": 740}, color_scheme=scheme)
    for _ in range(2):
        tab.send("The boat")
    page = tab.page
    first, second = (turn.bounding_box() for turn in page.locator(".turn").all())
    answers = page.locator(".turn").first.locator(".answer").last.bounding_box()
    assert answers["y"] + answers["height"] <= first["y"] + first["height"] <= second["y"]
    if width < 500:
        page.click("#toggle")
    closed = page.locator("details:not([open]) > summary:visible")
    while closed.count():
        closed.first.click()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(CHECKS.read_text()) == []
    page.context.close()
    assert not tab.problems
