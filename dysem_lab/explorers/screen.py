"""Where a panel shows its figure and its line of Python: as widgets, or plainly.

`WidgetScreen` draws with plotly's FigureWidget and lets anywidget copy and download. `PlainScreen`
needs ipywidgets alone, for notebook hosts that show no others: the figure is a page in a frame.
"""

import base64
import html
import os
import re
import sys
from collections.abc import Callable
from copy import deepcopy
from functools import cache
from importlib import import_module
from typing import Any, NamedTuple

import plotly.graph_objects as go

from dysem_lab import paths
from dysem_lab.explorers.controls import button, library
from dysem_lab.startup import import_nbformat

import_nbformat()  # before plotly does, to make a widget

STYLE, TAKE_AWAY, LATE = (
    paths.package_file(f"explorers/{name}").read_text(encoding="utf-8")
    for name in ("panel.css", "panel.js", "late.js")
)
# Without the toolbar, which would cover the title; a figure is enlarged by dragging over it.
CONFIG = {"responsive": True, "displayModeBar": False, "displaylogo": False}


class Saved(NamedTuple):
    """A page to keep: a name without suffix, and a function from how plotly comes to its text.

    Attributes:
        name: What it is about.
        page: True (plotly is in the page) or "cdn" (a browser fetches it) → HTML.
    """

    name: str
    page: Callable[[bool | str], str]


def on_a_host_without_widgets() -> bool:
    """Whether this is Colab or Kaggle, where FigureWidget and anywidget may stay empty."""
    return "google.colab" in sys.modules or "KAGGLE_KERNEL_RUN_TYPE" in os.environ


def shows_widgets() -> bool:
    """Whether figures and buttons can be widgets of plotly and anywidget here."""
    if on_a_host_without_widgets():
        return False
    try:
        import_module("anywidget")
    except ImportError:
        return False
    return True


def file_name(title: str) -> str:
    """Return a title as the name of a file, without suffix."""
    return re.sub(r"[\W_]+", "-", title.lower()).strip("-")[:80] or "figure"


class WidgetScreen:
    """The figure as a FigureWidget, the line of Python with buttons of anywidget.

    Args:
        saved: What is downloaded; None is nothing yet.

    Attributes:
        plot: The FigureWidget; None before the first figure.
        box: What holds it.
        take: The line of Python with its buttons.
    """

    def __init__(self, saved: Callable[[], Saved | None]) -> None:
        """Begin without a figure."""
        self._saved = saved
        self.plot: go.FigureWidget | None = None
        layout = {"width": "100%", "overflow": "auto hidden"}
        self.box = library("ipywidgets").VBox([], layout=layout)
        self.take = _take_away_class()()
        self.take.on_msg(self._answer)

    def show(self, figure: go.Figure, python: str) -> None:
        """Show a figure and its line of Python."""
        if self.plot is None:
            self.plot = _figure_class()(*_as_shown(figure))
            self.plot._config = CONFIG
            self.plot.open()
            self.box.children = [self.plot]
        else:
            _replace(self.plot, figure)
        self.take.python = python

    def _answer(self, widget: Any, content: Any, buffers: Any) -> None:
        if content.get("wants") == "figure" and (saved := self._saved()) is not None:
            page = saved.page(True).encode()
            widget.send({"name": f"{saved.name}.html"}, buffers=[page])


class PlainScreen:
    """The figure in a frame of its own, the line of Python as text: ipywidgets alone.

    Args:
        saved: As for `WidgetScreen`, like the attributes.
    """

    plot = None

    def __init__(self, saved: Callable[[], Saved | None]) -> None:
        """Begin without a figure."""
        widgets = library("ipywidgets")
        self._saved = saved
        # Colab and Kaggle have a network; elsewhere nothing is fetched.
        self._plotly: bool | str = "cdn" if on_a_host_without_widgets() else True
        # Without the margin of ipywidgets, which would make it wider than the panel.
        layout = {"width": "100%", "margin": "0", "overflow": "auto hidden"}
        self.box = widgets.HTML(layout=layout)
        self._python, self._link = widgets.HTML(), widgets.HTML()
        save = button("Download figure", "Make a page with what is shown")
        save.on_click(lambda _: self._offer())
        self.take = widgets.VBox([self._python, widgets.HBox([save, self._link])])

    def show(self, figure: go.Figure, python: str) -> None:
        """Show a figure and its line of Python."""
        drawn = go.Figure(figure).update_layout(width=None, autosize=True)
        page = drawn.to_html(include_plotlyjs=self._plotly, config=CONFIG)
        height = (figure.layout.height or 450) + 20
        title = html.escape(re.sub(r"<[^>]+>", " ", figure.layout.title.text or "Figure"))
        # Tab passes it: what can be pressed is outside.
        self.box.value = (
            f'<iframe title="{title}" tabindex="-1" srcdoc="{html.escape(page)}" '
            f'style="width:100%;height:{height}px;border:0"></iframe>'
        )
        self._python.value = (
            '<details class="dysem-python"><summary>The same in Python</summary>'
            f"<pre>{html.escape(python)}</pre></details>"
        )
        self._link.value = ""

    def _offer(self) -> None:
        if (saved := self._saved()) is not None:
            data = base64.b64encode(saved.page("cdn").encode()).decode()
            name = html.escape(f"{saved.name}.html")
            link = f'<a download="{name}" href="data:text/html;base64,{data}">{name}</a>'
            self._link.value = f'<span role="status">Ready: {link}</span>'


@cache
def _take_away_class() -> Any:
    """Return the widget with the line of Python and the buttons to copy it and save the figure."""
    traitlets = import_module("traitlets")
    members = {"_esm": TAKE_AWAY, "python": traitlets.Unicode("").tag(sync=True)}
    return type("TakeAway", (library("anywidget").AnyWidget,), members)


@cache
def _figure_class() -> Any:
    """Return a FigureWidget that opens whole, when `open` is called, and may load for long.

    anywidget takes no message for a model whose code is not there after two seconds, and none
    after that. Plotly's code is 5 MB, so what anywidget loads is a few lines, which load plotly.
    """

    def open_whole(self: Any) -> None:
        if self._widget_layout:  # not yet so when ipywidgets opens it, within its constructor
            go.FigureWidget.open(self)

    plotly = import_module("traitlets").Unicode(str(go.FigureWidget._esm)).tag(sync=True)
    members = {"_esm": LATE, "_plotly": plotly, "open": open_whole}
    return type("LateFigureWidget", (go.FigureWidget,), members)


def _as_shown(figure: go.Figure) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return the traces and the layout of a figure as wide as the screen has room for."""
    layout = {**figure.layout.to_plotly_json(), "autosize": True}
    layout.pop("width", None)
    if (legend := layout.get("legend", {})).get("orientation") == "h":
        # Measured from the plot, it stays where it was when the cell changes its width.
        layout["legend"] = {**legend, "yref": "container", "y": 0, "yanchor": "bottom"}
    return [trace.to_plotly_json() for trace in figure.data], layout


def _replace(widget: go.FigureWidget, figure: go.Figure) -> None:
    """Make a figure on the screen like another one.

    Traces of the same kinds are changed in place, and only what differs, so that nothing flickers
    and a move of a slider costs milliseconds.
    """
    data, layout = _as_shown(figure)
    with widget.batch_update():
        if [trace.type for trace in widget.data] == [trace["type"] for trace in data]:
            for old, new in zip(widget.data, data, strict=True):
                _assign(old, new)
        else:
            widget.data = []
            widget.add_traces(data)
        _assign(widget.layout, layout)
    # What a page takes that is opened later, as Voilà's is; plotly sets them where the widget is
    # all that a cell shows.
    widget._widget_data = deepcopy(widget._data)
    widget._widget_layout = deepcopy(widget._layout_obj._props)


def _assign(shown: Any, new: dict[str, Any]) -> None:
    old = shown.to_plotly_json()
    gone = dict.fromkeys(set(old) - set(new) - {"uid"})
    changed = {key: value for key, value in new.items() if not _equal(old.get(key), value)}
    shown.update({**gone, **changed}, overwrite=True)


def _equal(old: Any, new: Any) -> bool:
    try:
        return bool(old == new)
    except ValueError:  # arrays, or something that holds them
        return False
