"""Silent films of walks through what a newcomer meets, at most two minutes each.

They go to build/films, where the site finds them (`make docs`). What is said in them is what the
page says then.
"""

import json
import os
import re

import nbformat
import pytest

pytest.importorskip("playwright.sync_api")
pytest.importorskip("mkdocs", reason="no mkdocs: pip install -e '.[docs]'")

from hooks import explorer_page
from run_notebooks import AS_FOUND, TEACH, solved
from tests.notebooks import test_browser
from tests.notebooks.recording import LONGEST, Recording
from tests.notebooks.test_browser import (
    DONE,
    DRAWN,
    NUMBERS,
    READY,
    RUN_ALL,
    SETTLED,
    TOKEN,
    browser,
    choose_theme,
    lab,
)

__all__ = ["browser", "lab"]  # fixtures

LOOK = {"width": 1280, "height": 720}
LESSON = TEACH / "0_whole_game.ipynb"
RUN = """async ([index, source]) => {
  const {content} = window.jupyterapp.shell.currentWidget;
  content.activeCellIndex = index;
  if (source !== null) content.activeCell.model.sharedModel.setSource(source);
  await window.jupyterapp.commands.execute("notebook:run-cell");
  content.activeCell.node.scrollIntoView({block: "start"});
}"""
SHOW = """(index) => {
  const {content} = window.jupyterapp.shell.currentWidget;
  content.activeCellIndex = index;
  content.activeCell.node.scrollIntoView({block: "start"});
}"""


@pytest.fixture
def film(browser):
    """Return a function: title → a recording of a new page of the browser."""
    if "DYSEM_LAB_FILMS" not in os.environ:
        pytest.skip("`make films` makes them; test_browser walks through the same pages")
    pages = []

    def begin(title):
        pages.append(browser.new_page(viewport=LOOK))
        pages[-1].set_default_timeout(test_browser.SECONDS * 1000)
        return Recording(pages[-1], title)

    yield begin
    for page in pages:
        page.close()


def check_film(recording, browser, name):
    """It is what a browser plays: of its length, and neither empty nor cut."""
    played = recording.save(browser, name)
    assert played["seconds"] == pytest.approx(recording.seconds, abs=0.1)
    assert played["seconds"] <= LONGEST
    assert played["width"] == LOOK["width"]
    assert min(played["colours"]) > 50


def words(page, selector):
    """Return what a part of the page says, on one line."""
    return re.sub(r"\s+", " ", page.locator(selector).first.inner_text()).strip()


def test_the_page_that_needs_nothing(film, browser):
    recording = film("The page that needs nothing, opened from a disk.")
    page = recording.page
    page.goto((explorer_page() / "index.html").as_uri())

    def settled():
        page.wait_for_function(
            "() => document.querySelector('#result').dataset.shown"
            " && !document.body.classList.contains('busy')"
        )
        page.evaluate("() => scrollTo(0, 0)")

    def press(target, sentence):
        recording.say(sentence, target)
        target.click()
        settled()

    def similarity():
        return words(page, "#similarity") + words(page, "#standing")

    settled()
    recording.say("Two sentences, and how similar they are to a language model.")
    recording.say(similarity(), page.locator("#standing"))
    press(
        page.get_by_role("button", name="Unrelated"), "Two that have nothing to do with each other."
    )
    recording.say(similarity(), page.locator("#standing"))
    press(page.get_by_role("button", name="Negation"), "A sentence and its negation.")
    recording.say(similarity(), page.locator("#standing"))
    page.locator("#more h2").last.scroll_into_view_if_needed()
    page.locator("#why").evaluate("(why) => why.scrollIntoView({block: 'start'})")
    recording.say("Why: words in orange add to the centred similarity, words in blue take away.")
    page.evaluate("() => scrollTo(0, 0)")
    press(page.locator("#settings summary"), "All settings are under one button.")
    page.locator("#settings").evaluate("(part) => part.scrollIntoView({block: 'start'})")
    recording.say("Model, vector, prompts, languages, k and m.", page.locator("#controls"))
    press(page.locator("#centred"), "What all sentences share is taken away.")
    recording.say(similarity(), page.locator("#standing"))
    page.locator("#settings summary").press("Enter")
    press(page.get_by_role("link", name="Layer by layer"), "The same two after each layer.")
    recording.say("Solid: this pair. Dashed, in a grey band: unrelated sentences.")
    press(page.get_by_role("link", name="One dimension"), "One dimension of the vectors.")
    recording.say(words(page, "#result p").partition(" It is ")[0])
    press(page.get_by_role("link", name="Search"), "The nearest sentences of the set.")
    recording.say(words(page, "#result p").partition(": higher")[0])
    target = page.get_by_role("button", name="Copy a link")
    recording.say("A link holds the whole view; a download holds its numbers.", target)
    check_film(recording, browser, "page")


def open_in_lab(page, address, path):
    page.goto(f"{address}/lab/tree/{path}?token={TOKEN}&reset")
    page.wait_for_function(READY)
    page.evaluate(SETTLED)
    choose_theme(page, "Light")
    page.evaluate("() => { window.jupyterapp.shell.collapseLeft() }")


def test_an_explorer_in_jupyterlab(lab, film, browser):
    recording = film("An explorer in JupyterLab: two sentences, and why they are similar.")
    page = recording.page
    open_in_lab(page, lab, "1_pair.ipynb")
    recording.say("notebooks/explore/1_pair.ipynb: parameters, and one cell. Run all.")
    page.evaluate(RUN_ALL)
    assert page.wait_for_function(DONE).json_value() == "ok"
    page.wait_for_function(DRAWN)
    panel = page.locator(".dysem-panel")

    def top():
        panel.evaluate("(panel) => panel.scrollIntoView({block: 'start'})")
        page.wait_for_timeout(500)  # plotly draws in the next frames

    def press(target, sentence):
        before = page.evaluate(NUMBERS)
        recording.say(sentence, target)
        target.click()
        page.wait_for_function(f"(old) => ({NUMBERS})() !== old", arg=before)
        page.wait_for_function("() => !document.querySelector('.dysem-panel .dysem-stale')")
        top()

    top()
    recording.say("The number, and the sentences in the colour of what each token adds.")
    press(panel.get_by_role("button", name="Negation"), "An example: a sentence and its negation.")
    number = words(page, ".dysem-panel .dysem-big")
    recording.say(f"DySem similarity {number}: a button below says where it stands.")
    box = panel.locator("input[type=text]").first
    box.fill("Nobody is washing a car.")
    before = page.evaluate(NUMBERS)
    recording.say("Any sentence: type it, and press Enter.", box)
    box.press("Enter")
    page.wait_for_function(f"(old) => ({NUMBERS})() !== old", arg=before)
    page.wait_for_function("() => !document.querySelector('.dysem-panel .dysem-stale')")
    top()
    recording.say("A line says which languages have no translation of it.")
    settings = panel.get_by_role("button", name="Settings")
    recording.say("Languages, translations, prompts and sliders are folded.", settings)
    settings.click()
    settings.evaluate("(part) => part.scrollIntoView({block: 'start'})")
    recording.say("Among them how many dimensions each text keeps, and how they are read.")
    code = panel.locator(".dysem-take")
    code.scroll_into_view_if_needed()
    recording.say("Below the figure: the same in Python, and the view as a page to keep.", code)
    check_film(recording, browser, "explorer")


def test_lesson_0_in_jupyterlab(lab, film, browser):
    recording = film("Lesson 0 in JupyterLab: two sentences, a number, its explanation, a control.")
    page = recording.page
    found = nbformat.read(LESSON, as_version=4).cells
    solutions = (TEACH / "solutions" / "lesson0.py").read_text("utf-8")
    cells = solved(nbformat.read(LESSON, as_version=4), solutions).cells
    code = [i for i, cell in enumerate(found) if cell.cell_type == "code"]
    exercises = [i for i in code if AS_FOUND in cells[i].metadata]
    open_in_lab(page, lab, f"teach/{LESSON.name}")

    def run(index, source=None):
        page.evaluate(RUN, [index, source])
        page.wait_for_timeout(1500)  # figures are drawn in the next frames

    recording.say("Lesson 0 of the course: fifteen minutes, nothing to know before.")
    run(code[0])
    recording.say("The model and 132 pairs of sentences are loaded.")
    one, two, three, four = exercises[:4]
    page.evaluate(SHOW, one)
    recording.say("An exercise is a cell with gaps.")
    same = 'first = "Dozens of trees fell."\nsecond = first\n\ncheck(1, first, second)'
    run(one, same)
    recording.say("A wrong answer gets a red sentence that says what is wrong.")
    run(one, cells[one].source)
    recording.say("A right one, of any words, is accepted.")
    run(code[code.index(one) + 1])
    recording.say("One number. Is that high?")
    run(two, cells[two].source)
    run(code[code.index(two) + 1])
    recording.say("Beside random pairs it says something.")
    run(code[code.index(two) + 2])
    recording.say("Why: which words it came through.")
    run(three, cells[three].source)
    run(code[code.index(three) + 1])
    run(four, cells[four].source)
    recording.say("A control: the same model with random weights, which knows nothing.")
    run(code[code.index(four) + 1])
    recording.say("It has an explanation, too, that adds up as exactly.")
    run(code[code.index(four) + 2])
    recording.say("So a claim lives between a number and its control.")
    check_film(recording, browser, "lesson0")


def test_what_is_said_of_a_film_stands_beside_it(film, browser, tmp_path):
    recording = film("A try.")
    recording.page.set_content("<h1>One</h1><button>Press</button>")
    recording.say("First.", recording.page.locator("button"))
    recording.say("Then this, said at length, so that it has to stand for longer than the first.")
    recording.save(browser, "try", tmp_path)
    about = json.loads((tmp_path / "try.json").read_text("utf-8"))
    assert about["title"] == "A try."
    assert [sentence.split()[0] for sentence in about["said"]] == ["First.", "Then"]
    assert about["seconds"] == round(recording.seconds) > 5
