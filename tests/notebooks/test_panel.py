"""Panels without a browser: what is computed when, what is shown, what is said when it fails."""

import base64
import html
import re
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import comm
import plotly.graph_objects as go
import pytest
from IPython.core.formatters import DisplayFormatter

from dysem_lab.display import silent
from dysem_lab.errors import DysemLabError, InputError
from dysem_lab.explorers import controls, screen
from dysem_lab.explorers.controls import menu, slider, text_box
from dysem_lab.explorers.panel import Cancelled, Offer, Panel, View

WIDGET = "application/vnd.jupyter.widget-view+json"


def bars(state, progress=silent):
    figure = go.Figure(go.Bar(y=list(range(state["k"]))))
    return View(figure.update_layout(title=f"k {state['k']}", width=1000), f"k is {state['k']}")


def made(update=bars, **more):
    boxes = {"k": slider("Dimensions", 3, 1, 9), **more}
    return Panel(boxes, update, lambda state: f"answer = {state['k']} * 2", "my figure")


def test_nothing_is_computed_before_it_is_asked_for():
    panel = made()
    assert panel.figure is None
    assert panel.plot is None  # no empty axes
    panel.refresh()
    assert panel.text == "k is 3"
    assert panel.plot in panel._screen.box.children


def test_a_change_of_a_control_changes_figure_numbers_and_the_line_of_python():
    panel = made().refresh()
    panel.controls["k"].value = 5
    panel.wait()
    assert panel.text == "k is 5"
    assert "k is 5" in panel._answer.value
    assert list(panel.plot.data[0].y) == [0, 1, 2, 3, 4]
    assert panel.plot.layout.title.text == "k 5"
    names = {}
    exec(panel.python, names)
    assert names["answer"] == 10
    assert panel._screen.take.python == panel.python


def test_the_figure_on_the_screen_is_as_wide_as_there_is_room_and_the_saved_one_is_as_it_was():
    panel = made().refresh()
    assert panel.plot.layout.width is None
    assert panel.plot.layout.autosize
    assert panel.figure.layout.width == 1000


def test_a_page_that_is_opened_later_has_the_figure():
    panel = made().refresh()
    for k in (3, 7, 2):
        panel.set(k=k).wait()
        state = panel.plot.get_state()
        assert list(state["_widget_data"][0]["y"]) == list(range(k))
        assert state["_widget_layout"]["title"]["text"] == f"k {k}"


def test_the_message_that_opens_a_figure_has_all_of_it(monkeypatch):
    opened, create = [], comm.create_comm
    monkeypatch.setattr(
        comm, "create_comm", lambda **sent: opened.append(sent["data"]["state"]) or create(**sent)
    )
    panel = made().refresh()
    (state,) = [state for state in opened if "_widget_data" in state]
    assert list(state["_widget_data"][0]["y"]) == [0, 1, 2]
    assert state["_widget_layout"]["title"]["text"] == "k 3"
    assert state["_config"] == screen.CONFIG
    # What anywidget waits for is short; a model that is not ready in two seconds hears nothing.
    assert len(panel.plot._esm) < 2000 < len(panel.plot._plotly)


def test_of_many_fast_moves_only_the_last_is_computed_after_the_one_that_runs():
    begun, go_on, seen = threading.Event(), threading.Event(), []

    def slow(state, progress):
        seen.append(state["k"])
        begun.set()
        assert go_on.wait(20)
        return bars(state)

    panel = made(slow)
    panel.controls["k"].value = 4
    assert begun.wait(20)
    for k in (5, 6, 7, 8):
        panel.controls["k"].value = k
    go_on.set()
    panel.wait()
    assert seen == [4, 8]
    assert panel.text == "k is 8"


def test_several_controls_at_once_are_computed_together():
    seen = []

    def update(state, progress):
        seen.append((state["k"], state["word"]))
        return bars(state)

    panel = made(update, word=text_box("Word", "a"))
    panel.set(k=5, word="b").wait()
    assert seen == [(5, "b")]
    with pytest.raises(InputError, match="unknown control 'q'; choose one of: k, word"):
        panel.set(q=1)


def test_errors_are_sentences_and_the_last_good_view_stays():
    def update(state, progress):
        if state["k"] == 4:
            raise InputError("k = 4 is <not> here; take another")
        if state["k"] == 5:
            raise ZeroDivisionError("division by zero")
        return bars(state)

    panel = made(update).refresh()
    for k, expected in (
        (4, "k = 4 is <not> here; take another"),
        (5, r"This should not have happened \(ZeroDivisionError: division by zero\)"),
    ):
        panel.controls["k"].value = k
        panel.wait()
        assert re.match(expected, panel.message)
        assert "Traceback" not in panel._message.value
        assert 'role="alert"' in panel._message.value
        assert panel.error is not None
        assert (panel.text, panel.python) == ("k is 3", "answer = 3 * 2")
    panel.controls["k"].value = 6
    panel.wait()
    assert (panel.message, panel._message.value, panel.error) == ("", "", None)
    assert panel.text == "k is 6"


def test_what_users_typed_is_escaped_in_the_sentence():
    def update(state, progress):
        raise InputError("<img src=x>")

    assert "&lt;img src=x&gt;" in made(update).refresh()._message.value


def test_long_work_shows_a_bar_and_stops_between_batches():
    reached, stop_is_pressed, done = threading.Event(), threading.Event(), []

    def long(state, progress):
        if state["k"] == 9:
            for batch in range(3):
                progress(batch, 3, "Encoding")
                done.append(batch)
                reached.set()
                assert stop_is_pressed.wait(20)
        return bars(state)

    panel = made(long).refresh()
    panel.controls["k"].value = 9
    assert reached.wait(20)
    assert panel._working.layout.display == "flex"
    assert (panel._bar.value, panel._bar.max, panel._bar.description) == (0, 3, "Encoding")
    panel._stop.click()
    stop_is_pressed.set()
    panel.wait()
    assert done == [0]
    assert panel._working.layout.display == "none"
    assert panel.message.startswith("Stopped.")
    assert panel.text == "k is 3"
    panel.controls["k"].value = 4  # a stop is not for ever
    panel.wait()
    assert (panel.text, panel.message) == ("k is 4", "")


def test_what_is_shown_is_grey_and_the_old_error_gone_while_the_next_is_computed():
    seen = {}

    def update(state, progress):
        seen[state["k"]] = (
            "dysem-stale" in panel._text._dom_classes,
            "dysem-stale" in panel._screen.box._dom_classes,
            panel._message.value,
        )
        if state["k"] == 4:
            raise InputError("k = 4 is not here; take another")
        return bars(state)

    panel = made(update)
    panel.refresh()
    assert "dysem-stale" not in panel._text._dom_classes
    panel.set(k=4).wait()
    assert "dysem-stale" in panel._text._dom_classes  # it is not of this k
    panel.set(k=5).wait()
    assert seen[4] == seen[5] == (True, True, "")
    assert "dysem-stale" not in panel._text._dom_classes


def test_cancel_says_at_once_that_it_was_heard():
    reached, go_on = threading.Event(), threading.Event()

    def long(state, progress):
        progress(0, 2, "Encoding")
        reached.set()
        assert go_on.wait(20)
        progress(1, 2, "Encoding")
        return bars(state)

    panel = made(long).start()
    assert reached.wait(20)
    panel._stop.click()
    assert (panel._stop.description, panel._stop.disabled) == ("Stopping after this batch …", True)
    go_on.set()
    panel.wait()
    panel._begin()
    assert (panel._stop.description, panel._stop.disabled) == ("Cancel", False)


def test_what_a_view_offers_is_done_by_its_button_and_can_be_stopped():
    done = []

    def work(progress):
        progress(0, 1, "Reading")
        done.append("read")

    def update(state, progress):
        return View(go.Figure(), "", "", None if done else Offer("Read it (3 passes)", work))

    panel = made(update).refresh()
    button = panel._offered
    assert (button.description, button.layout.display) == ("Read it (3 passes)", "inline-block")
    button.click()
    panel.wait()
    assert (done, button.layout.display, panel.message) == (["read"], "none", "")


def test_the_offer_stands_between_the_answer_and_what_is_below_it():
    offer = Offer("Read it", lambda progress: None)
    view = View(go.Figure(), "below", "note", offer, "first")
    panel = made(lambda state, progress: view).refresh()
    children = list(panel.box.children)
    said = [str(getattr(child, "value", "")) for child in children]
    (answer,) = [text for text in said if "first" in text]
    (text,) = [text for text in said if "below" in text]
    assert 'aria-live="polite"' in answer
    assert answer.index("note") < answer.index("first")
    assert "aria-live" not in text  # a picture's every token is not read out
    assert said.index(answer) < children.index(panel._offered) < said.index(text)
    assert panel.text == "firstbelow"


def test_examples_set_several_controls_and_settings_are_folded():
    panel = Panel(
        {"word": text_box("Word", "a"), "k": slider("Dimensions", 3, 1, 9)},
        bars,
        str,
        folded=["k"],
        examples={"Longer": {"word": "bb", "k": 5}},
    )
    children = panel.box.children
    (opener,) = [child for child in children if type(child).__name__ == "ToggleButton"]
    folded = children[children.index(opener) + 1]
    assert folded.children == (panel.controls["k"],)
    for opened, display in ((False, "none"), (True, "flex"), (False, "none")):
        opener.value = opened
        assert folded.layout.display == display
    row = next(
        child
        for child in panel.box.children
        if any(
            getattr(part, "description", "") == "Longer" for part in getattr(child, "children", ())
        )
    )
    row.children[1].click()
    panel.wait()
    assert panel.state == {"word": "bb", "k": 5}
    assert panel.text == "k is 5"


def test_a_cancelled_work_is_no_error_for_those_who_call_the_functions():
    with pytest.raises(Cancelled):
        raise Cancelled
    assert not issubclass(Cancelled, DysemLabError)
    assert silent(0, 1, "Encoding") is None


def test_waiting_has_an_end():
    go_on = threading.Event()
    panel = made(lambda state, progress: go_on.wait(20) and bars(state))
    panel.start()
    with pytest.raises(TimeoutError, match=r"after 0\.05 s"):
        panel.wait(0.05)
    go_on.set()
    panel.wait()


FIGURES = {
    2: go.Figure([go.Bar(y=[1, 2], marker_color="#D55E00")], {"title": "two", "shapes": [{}]}),
    3: go.Figure([go.Bar(y=[3], x=["a"])], {"xaxis": {"type": "category"}}),
    4: go.Figure([go.Heatmap(z=[[1, 2]]), go.Bar(y=[1])], {"title": "four"}),
    5: go.Figure([go.Heatmap(z=[[2, 2, 3]]), go.Bar(y=[4, 5], name="b")], {"bargap": 0.5}),
}


@pytest.mark.parametrize("order", [(2, 3, 4, 5), (5, 4, 3, 2), (3, 2, 5, 4, 2)])
def test_whatever_was_shown_before_the_new_figure_is_shown_as_it_is(order):
    panel = made(lambda state, progress: View(FIGURES[state["k"]], ""))
    for k in order:
        panel.set(k=k).start().wait()
        assert panel.message == ""
        shown = panel.plot.to_plotly_json()
        for trace, expected in zip(shown["data"], FIGURES[k].data, strict=True):
            trace.pop("uid", None)
            got, wanted = go.Figure([trace]), go.Figure([expected])
            assert got.to_json() == wanted.to_json()
        wanted = FIGURES[k].layout.to_plotly_json() | {"autosize": True}
        wanted.pop("template")
        kept = {key: value for key, value in shown["layout"].items() if value not in ([], {})}
        kept.pop("template")
        assert kept == wanted


@pytest.mark.parametrize(
    ("legend", "shown"),
    [
        (
            {"orientation": "h", "y": -0.2, "x": 0.5},
            {"orientation": "h", "yref": "container", "y": 0, "yanchor": "bottom", "x": 0.5},
        ),
        ({"y": 0.3}, {"y": 0.3}),
    ],
)
def test_a_legend_under_the_plot_is_placed_from_the_edge_of_the_cell(legend, shown):
    figure = go.Figure([go.Bar(y=[1, 2])], {"legend": legend})
    panel = made(lambda state, progress: View(figure, ""))
    panel.start().wait()
    assert panel.plot.layout.legend.to_plotly_json() == shown
    assert panel.figure.layout.legend.to_plotly_json() == legend


def told(state, progress=silent):
    """Return a view with a note."""
    return bars(state)._replace(note="Read in <English> alone.")


@pytest.mark.parametrize("plain", [False, True])
def test_the_download_is_one_page_with_all_that_is_shown_and_named_after_it(plain):
    sent = []
    panel = Panel(
        {"k": slider("Dimensions", 3, 1, 9)},
        told,
        lambda state: f"k = {state['k']}",
        lambda state: f"Äpfel / “{state['k']} pears”?",
        plain=plain,
    )
    take = panel._screen.take
    if plain:
        save, link = take.children[1].children

        def ask():
            save.click()
            found = re.search(
                r'download="([^"]+)" href="data:text/html;base64,([^"]+)"', link.value
            )
            return found and (found[1], base64.b64decode(found[2]).decode())
    else:
        take.send = lambda content, buffers=None: sent.append(
            (content["name"], buffers[0].decode())
        )

        def ask():
            take._handle_custom_msg({"wants": "figure"}, [])
            return sent[-1] if sent else None

    assert ask() is None  # there is no figure yet
    panel.refresh()
    name, page = ask()
    assert name == "äpfel-3-pears.html"
    assert "<h1>Äpfel / “3 pears”?</h1>" in page
    for part in ("k 3", "k is 3", "Read in &lt;English&gt; alone.", "<pre>k = 3</pre>"):
        assert part in page
    fetched = re.search(r'<script[^>]* src="http', page)
    assert bool(fetched) == plain  # a link that holds plotly too is refused by browsers
    assert (len(page) > 1e6) == (not plain)


def test_a_plain_panel_needs_ipywidgets_alone(monkeypatch):
    """What Colab, Kaggle and hosts without the extension show: no FigureWidget, no anywidget."""
    monkeypatch.setitem(sys.modules, "anywidget", None)
    monkeypatch.setattr(go, "FigureWidget", None)
    assert not screen.shows_widgets()
    panel = made(told, word=text_box("Word", "<b>")).refresh()
    assert panel.plot is None
    frame = html.unescape(re.search(r'srcdoc="([^"]+)"', panel._screen.box.value)[1])
    assert '"text":"k 3"' in frame
    assert '<iframe title="k 3" ' in panel._screen.box.value
    assert not re.search(r'<script[^>]* src="http', frame)  # nothing is fetched
    assert "k is 3" in panel._answer.value
    assert "<pre>answer = 3 * 2</pre>" in panel._screen.take.children[0].value
    panel.set(k=7).wait()
    assert '"text":"k 7"' in html.unescape(panel._screen.box.value)
    modules = {widget._model_module for widget in widgets_in(panel.box)}
    assert modules <= {"@jupyter-widgets/controls", "@jupyter-widgets/base"}


def test_a_panel_shows_itself_with_ipywidgets_8_and_with_7(capsys):
    """Colab has ipywidgets 7, whose boxes show themselves by another method."""
    formatter, panel = DisplayFormatter(), made().refresh()
    shown, _ = formatter.format(panel)
    assert shown[WIDGET]["model_id"] == panel.box.model_id
    displayed = []
    panel.box = SimpleNamespace(_ipython_display_=lambda: displayed.append("box"))
    assert formatter.format(panel) == ({}, {})
    assert displayed == ["box"]
    assert "Error" not in "".join(capsys.readouterr())


def test_a_number_of_a_plain_panel_is_a_labelled_box():
    """A slider of ipywidgets has no name to a screen reader without the panel's script."""
    boxes = {"k": slider("Dimensions", 3, 1, 9), "alpha": slider("α", 0.5, -1.0, 2.0, 0.1)}
    panel = Panel(boxes, bars, lambda state: "", folded=["alpha"], plain=True).refresh()
    names = [type(widget).__name__ for widget in widgets_in(panel.box)]
    assert not [name for name in names if "Slider" in name]
    number, share = (
        widget for widget in widgets_in(panel.box) if "Bounded" in type(widget).__name__
    )
    assert (number.description, number.value, number.min, number.max) == ("Dimensions", 3, 1, 9)
    assert (share.description, share.value, share.step) == ("α", 0.5, 0.1)
    number.value = 7
    assert panel.wait().text == "k is 7"
    panel.set(k=2).wait()
    assert number.value == 2
    panel.controls["k"].max = 5
    assert number.max == 5


def widgets_in(box):
    """Yield a widget and all inside it."""
    yield box
    for child in getattr(box, "children", ()):
        yield from widgets_in(child)


def test_hosts_that_show_no_widgets_get_the_plain_panel(monkeypatch):
    assert made().refresh().plot is not None
    monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", "Interactive")
    panel = made().refresh()
    assert panel.plot is None
    assert "https://cdn.plot.ly/" in panel._screen.box.value  # they have a network
    monkeypatch.delenv("KAGGLE_KERNEL_RUN_TYPE")
    monkeypatch.setitem(sys.modules, "google.colab", object())
    assert made().plot is None


THEMES = Path(sys.prefix) / "share" / "jupyter" / "lab" / "themes" / "@jupyterlab"


def luminance(red, green, blue):
    """Return the relative luminance of a colour (WCAG 2.1)."""
    linear = [
        c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in (red, green, blue)
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def colour(theme, name, ground=(1, 1, 1)):
    """Return a theme's colour as three numbers from 0 to 1, over a ground."""
    value = re.search(rf"{name}:([^;}}]+)", theme)[1]
    value = re.sub(r"var\(--[\w-]+,(.*)\)", r"\1", value).strip()
    value = {"white": "#fff", "black": "#000"}.get(value, value)
    if value.startswith("#"):
        digits = value[1:] if len(value) == 7 else "".join(2 * c for c in value[1:])
        return tuple(int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4))
    *parts, alpha = map(float, re.findall(r"[\d.]+", value))
    return tuple(alpha * c / 255 + (1 - alpha) * g for c, g in zip(parts, ground, strict=True))


@pytest.mark.parametrize("name", ["light", "dark"])
def test_letters_stand_out_from_their_ground_in_both_themes(name):
    file = THEMES / f"theme-{name}-extension" / "index.css"
    if not file.is_file():
        pytest.skip("JupyterLab's themes are not installed")
    theme = file.read_text(encoding="utf-8")
    rules = re.findall(r"[^{}]+\{([^{}]*)\}", screen.STYLE)
    looked_at = 0
    for rule in rules:
        letters = re.search(r"(?<![-\w])(?:color|fill): var\((--jp-[\w-]+)", rule)
        if not letters:
            continue
        own = re.search(r"background: var\((--jp-[\w-]+)", rule)
        ground = colour(theme, own[1] if own else "--jp-layout-color0")
        values = [luminance(*colour(theme, letters[1], ground)), luminance(*ground)]
        contrast = (max(values) + 0.05) / (min(values) + 0.05)
        assert contrast >= 4.5, (name, letters[1], round(contrast, 2))
        looked_at += 1
    assert looked_at >= 5


def test_every_control_has_a_label_and_fits_its_row():
    boxes = [
        text_box("Sentence", "a"),
        text_box("Lines", "a", rows=3),
        slider("k", 1, 1, 9),
        slider("alpha", 1.0, 0, 4, 0.5),
        menu("Vector", ("source", "mean"), "mean"),
    ]
    assert all(c.description and c.layout.max_width == "100%" for c in boxes)
    assert boxes[3].value == 1.0
    with pytest.raises(InputError, match="control 'k' has no description"):
        Panel({"k": slider("", 1, 1, 2)}, bars, str)
    panel = made()
    assert panel.box.layout.max_width == "100%"
    assert "dysem-panel" in panel.box._dom_classes


def test_colours_follow_the_theme():
    for css in (screen.STYLE, screen.TAKE_AWAY):
        assert not re.search(r"#[0-9a-fA-F]{3,6}\b|\b(white|black)\b(?!-)", css)
    assert "--jp-ui-font-color1" in screen.STYLE


def test_a_panel_is_shown_as_its_widget():
    panel = made()
    bundle = panel._repr_mimebundle_()
    view = bundle["application/vnd.jupyter.widget-view+json"]
    assert view["model_id"] == panel.box.model_id
    assert repr(panel) == "Panel(k=3)"


@pytest.mark.parametrize("name", ["ipywidgets", "anywidget"])
def test_a_missing_library_names_the_extra(monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(DysemLabError, match=rf"needs {name}.*pip install 'dysem-lab\[lab\]'"):
        controls.library(name)
