"""What all explorers are made of: labelled controls, a figure, a line of numbers, a line of Python.

An explorer is a plain function ``update(state, progress)`` that returns what is shown, and a
`Panel` that calls it when a control changes. ipywidgets and anywidget come with the extra ``lab``
and are imported when a panel is made.
"""

import contextvars
import html
import threading
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from functools import cache
from importlib import import_module
from typing import Any, NamedTuple

import plotly.graph_objects as go

from dysem_lab import paths
from dysem_lab.display import Progress
from dysem_lab.errors import DysemLabError, InputError, choices
from dysem_lab.startup import import_nbformat

import_nbformat()  # before plotly does, to make a widget

State = dict[str, Any]  # control → value


class Cancelled(Exception):  # noqa: N818 - it is no error
    """Somebody pressed Cancel; raised by a `Progress` between two batches."""


class View(NamedTuple):
    """What a panel shows.

    Attributes:
        figure: Any plotly figure.
        text: HTML with the numbers; what comes from users is escaped in it.
    """

    figure: go.Figure
    text: str


STYLE, TAKE_AWAY = (
    paths.package_file(f"explorers/panel.{kind}").read_text(encoding="utf-8")
    for kind in ("css", "js")
)


def library(name: str) -> Any:
    """Return a library of the extra ``lab``.

    Raises:
        DysemLabError: It is not installed; names the extra.
    """
    try:
        return import_module(name)
    except ImportError as error:
        raise DysemLabError(
            f"an explorer needs {name} ({error}); pip install 'dysem-lab[lab]'. The figure and the "
            "numbers are also there without widgets, as functions of the explorer's module"
        ) from error


def text_box(label: str, value: str = "", rows: int = 1, example: str = "") -> Any:
    """Return a box to type in; a change counts when Enter is pressed or the box is left.

    Args:
        label: What it is for.
        value: What it holds at first.
        rows: Lines that it shows.
        example: Shown in grey while it is empty.
    """
    widgets = library("ipywidgets")
    kind = widgets.Text if rows == 1 else widgets.Textarea
    more = {"placeholder": example} | ({} if rows == 1 else {"rows": rows})
    return _labelled(kind, label, "100%", value=value, continuous_update=False, **more)


def slider(label: str, value: float, low: float, high: float, step: float = 1) -> Any:
    """Return a slider over whole numbers, or over numbers where one of the four is a float."""
    widgets = library("ipywidgets")
    numbers = {"value": value, "min": low, "max": high, "step": step}
    whole = all(isinstance(number, int) for number in numbers.values())
    kind = widgets.IntSlider if whole else widgets.FloatSlider
    return _labelled(kind, label, NARROW, continuous_update=True, **numbers)


def menu(label: str, options: Sequence[Any], value: Any) -> Any:
    """Return a drop-down menu; options are values, or pairs of a name and a value."""
    return _labelled(library("ipywidgets").Dropdown, label, NARROW, options=options, value=value)


NARROW = "min(26rem, 100%)"


def _labelled(kind: Any, label: str, width: str, **settings: Any) -> Any:
    return kind(
        description=label,
        style={"description_width": "9rem"},
        layout={"width": width, "max_width": "100%"},
        **settings,
    )


class Panel:
    """Controls, a figure and a line of numbers that follow them.

    A change of a control is computed on a thread of its own, so that the next change and the Cancel
    button are heard meanwhile; of the changes that come during a computation only the last is
    computed. That is safe because every forward pass holds the model's lock, in inference mode.

    Args:
        controls: Name in the state → a labelled widget with a ``value`` (`text_box`, `slider`,
            `menu`, or any of ipywidgets with a description).
        update: ``update(state, progress)`` → `View`. Long work calls
            ``progress(done, total, what)`` between batches, which shows a bar and stops the work
            where Cancel was pressed. It runs off the main thread and changes no control.
        python: State → one line of Python that reproduces the view.
        name: Of the downloaded file, without suffix.

    Attributes:
        controls: As given; setting a ``value`` is the same as moving the control.
        box: The ipywidgets box with everything in it, to put into other boxes.
        figure: The figure that is shown, None before the first.
        plot: The FigureWidget that shows it, for callbacks on clicks.
        text: The HTML beside it.
        python: The line of Python for what is shown.
        message: What went wrong last, as a sentence; "" where nothing did.
        error: The exception behind it, for ``raise panel.error``.

    Raises:
        DysemLabError: ipywidgets or anywidget is missing.
        InputError: A control without a label.
    """

    def __init__(
        self,
        controls: Mapping[str, Any],
        update: Callable[[State, Progress], View],
        python: Callable[[State], str],
        name: str = "figure",
    ) -> None:
        """Lay the widgets out; nothing is computed before `refresh` or `start`."""
        widgets = library("ipywidgets")
        library("anywidget")
        for key, control in controls.items():
            if not control.description:
                raise InputError(f"control {key!r} has no description; give it a label to read")
        self.controls = dict(controls)
        self.name = name
        self.figure: go.Figure | None = None
        self.text = self.python = self.message = ""
        self.error: Exception | None = None
        self._update, self._line = update, python
        self._changed, self._computing = threading.Condition(), threading.Lock()
        self._pending = False
        self._thread: threading.Thread | None = None
        self._cancel = threading.Event()
        self._style = widgets.HTML(f"<style>{STYLE}</style>", layout={"display": "none"})
        self._text, self._message = widgets.HTML(), widgets.HTML()
        self.plot = go.FigureWidget()
        self.plot._config = {"responsive": True}
        self._plot_box = widgets.VBox([], layout={"width": "100%", "overflow": "hidden"})
        self._bar = widgets.IntProgress(
            description="Working", layout={"width": "min(30rem, 60%)"}, max=1
        )
        self._stop = widgets.Button(description="Cancel", tooltip="Stop between two batches")
        self._stop.on_click(lambda _: self.cancel())
        self._working = widgets.HBox([self._bar, self._stop], layout={"display": "none"})
        self._take = _take_away_class()()
        self._take.on_msg(self._answer)
        row = {"display": "flex", "flex_flow": "row wrap", "width": "100%"}
        self.box = widgets.VBox(
            [
                self._style,
                widgets.Box([*self.controls.values()], layout=row),
                self._working,
                self._message,
                self._text,
                self._plot_box,
                self._take,
            ],
            layout={"width": "100%", "max_width": "100%", "overflow": "hidden"},
        )
        self.box.add_class("dysem-panel")
        for control in self.controls.values():
            control.observe(lambda _: self.start(), names="value")

    def _repr_mimebundle_(self, **options: Any) -> Any:
        return self.box._repr_mimebundle_(**options)

    def __repr__(self) -> str:
        state = ", ".join(f"{name}={value!r}" for name, value in self.state.items())
        return f"Panel({state})"

    @property
    def state(self) -> State:
        """The value of each control."""
        return {name: control.value for name, control in self.controls.items()}

    def refresh(self) -> "Panel":
        """Compute what the controls say on this thread, show it, and return the panel."""
        self._cancel.clear()
        self._compute()
        return self

    def start(self) -> "Panel":
        """Compute what the controls say on another thread, and return the panel at once."""
        with self._changed:
            self._pending = True
            if self._thread is None:
                context = contextvars.copy_context()  # which cell or message this answers
                self._thread = threading.Thread(
                    target=context.run, args=(self._work,), daemon=True, name="dysem-panel"
                )
                self._thread.start()
        return self

    def wait(self, seconds: float = 60) -> "Panel":
        """Wait until everything is computed that `start` or a control asked for.

        Raises:
            TimeoutError: It takes longer.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self._thread is None, seconds):
                raise TimeoutError(f"the panel still computes after {seconds} s")
        return self

    def cancel(self) -> None:
        """Stop the computation between two batches; what is shown stays."""
        with self._changed:
            self._pending = False
            self._cancel.set()

    def set(self, **values: Any) -> "Panel":
        """Move several controls and compute once.

        Raises:
            InputError: A name that no control has.
        """
        for name in values:
            if name not in self.controls:
                raise choices("control", name, self.controls)
        with self._changed:  # the thread takes the state after the last of them
            for name, value in values.items():
                self.controls[name].value = value
        return self

    def _work(self) -> None:
        while True:
            with self._changed:
                if not self._pending:
                    self._thread = None
                    self._changed.notify_all()
                    return
                self._pending = False
                self._cancel.clear()
            self._compute()

    def _compute(self) -> None:
        """Show the view of the present state, or say in a sentence why there is none."""
        with self._computing:
            with self._changed:
                state = self.state
            try:
                view = self._update(state, self._progress)
                self._show(view)
                self.python = self._take.python = self._line(state)
                self._say("", None)
            except Cancelled:
                self._say("Stopped. What is shown is from before; move a control to go on.", None)
            except DysemLabError as error:
                self._say(str(error), error)
            except Exception as error:
                self._say(
                    f"This should not have happened ({type(error).__name__}: {error}); please "
                    "report it, with what `raise panel.error` shows.",
                    error,
                )
            finally:
                self._working.layout.display = "none"

    def _progress(self, done: int, total: int, what: str) -> None:
        if self._cancel.is_set():
            raise Cancelled
        self._bar.max, self._bar.value = max(total, 1), done
        self._bar.description = what
        self._working.layout.display = "flex"

    def _say(self, sentence: str, error: Exception | None) -> None:
        self.message, self.error = sentence, error
        shown = f'<div class="dysem-error" role="alert">{html.escape(sentence)}</div>'
        self._message.value = shown if sentence else ""

    def _show(self, view: View) -> None:
        self.figure, self.text = view.figure, view.text
        self._text.value = f'<div class="dysem-numbers" aria-live="polite">{view.text}</div>'
        _replace(self.plot, view.figure)
        if not self._plot_box.children:  # no empty axes before the first figure
            self._plot_box.children = [self.plot]

    def _answer(self, widget: Any, content: Any, buffers: Any) -> None:
        if self.figure is not None and content.get("wants") == "figure":
            page = self.figure.to_html(include_plotlyjs=True, config={"responsive": True})
            widget.send({"name": f"{self.name}.html"}, buffers=[page.encode()])


@cache
def _take_away_class() -> Any:
    """Return the widget with the line of Python and the buttons to copy it and save the figure."""
    traitlets = import_module("traitlets")
    members = {"_esm": TAKE_AWAY, "python": traitlets.Unicode("").tag(sync=True)}
    return type("TakeAway", (library("anywidget").AnyWidget,), members)


def _replace(widget: go.FigureWidget, figure: go.Figure) -> None:
    """Make a figure on the screen like another one, as wide as the screen has room for.

    Traces of the same kinds are changed in place, and only what differs, so that nothing flickers
    and a move of a slider costs milliseconds.
    """
    data = [trace.to_plotly_json() for trace in figure.data]
    layout = {**figure.layout.to_plotly_json(), "autosize": True}
    layout.pop("width", None)
    if (legend := layout.get("legend", {})).get("orientation") == "h":
        # Measured from the plot, it stays where it was when the cell changes its width.
        layout["legend"] = {**legend, "yref": "container", "y": 0, "yanchor": "bottom"}
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
