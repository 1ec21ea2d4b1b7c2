"""What all explorers are made of: labelled controls, a figure, numbers, and the same in Python.

An explorer is a plain function ``update(state, progress)`` that returns what is shown, and a
`Panel` that calls it when a control changes. ipywidgets and anywidget come with the extra ``lab``
and are imported when a panel is made.
"""

import contextvars
import html
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import plotly.graph_objects as go

from dysem_lab.display import Progress
from dysem_lab.errors import DysemLabError, InputError, choices
from dysem_lab.explorers.controls import button, library, number_box
from dysem_lab.explorers.screen import (
    STYLE,
    PlainScreen,
    Saved,
    WidgetScreen,
    file_name,
    shows_widgets,
)

State = dict[str, Any]  # control → value
SAID_IN_THE_VIEW = r"\d+ of \d+ (texts were shortened to fit|pairs have no similarity)"


class Cancelled(Exception):  # noqa: N818 - it is no error
    """Somebody pressed Cancel; raised by a `Progress` between two batches."""


class Offer(NamedTuple):
    """Work that a view would gain by, done when its button is pressed.

    Attributes:
        label: What the button says.
        work: What it does, off the main thread; the view is computed again after it.
    """

    label: str
    work: Callable[[Progress], None]


class View(NamedTuple):
    """What a panel shows.

    Attributes:
        figure: Any plotly figure.
        text: HTML with the numbers; what comes from users is escaped in it.
        note: What to know of it, as plain sentences: what was left out, what was cut.
        offer: Work that would add to it.
        answer: HTML of what is said first, above the offer and the numbers.
    """

    figure: go.Figure
    text: str
    note: str = ""
    offer: Offer | None = None
    answer: str = ""


class Panel:
    """Controls, a figure and numbers that follow them.

    A change of a control is computed on a thread of its own, so that the next change and the Cancel
    button are heard meanwhile; of the changes that come during a computation only the last is
    computed. That is safe because every forward pass holds the model's lock, in inference mode.

    Args:
        controls: Name in the state → a labelled widget with a ``value`` (of
            `dysem_lab.explorers.controls`, or any of ipywidgets with a description).
        update: ``update(state, progress)`` → `View`. Long work calls
            ``progress(done, total, what)`` between batches, which shows a bar and stops the work
            where Cancel was pressed. It runs off the main thread and changes no control.
        python: State → lines of Python that reproduce the view.
        name: What the view is: the title of the downloaded page, or a function of the state.
        folded: Names of controls that are under "Settings", closed at first.
        examples: Label of a button → the values that it gives to controls.
        plain: Show the figure with ipywidgets alone; None does so where the host shows no other
            widgets (Colab, Kaggle, no anywidget).

    Attributes:
        controls: As given; setting a ``value`` is the same as moving the control.
        box: The ipywidgets box with everything in it, to put into other boxes.
        figure: The figure that is shown, None before the first.
        text: The HTML above it.
        note: What is said of it.
        offer: What would add to it; None is nothing.
        python: The Python for what is shown.
        title: Of the page that is downloaded.
        message: What went wrong last, as a sentence; "" where nothing did.
        error: The exception behind it, for ``raise panel.error``.

    Raises:
        DysemLabError: ipywidgets is missing, or anywidget where plain is False.
        InputError: A control without a label.
    """

    def __init__(
        self,
        controls: Mapping[str, Any],
        update: Callable[[State, Progress], View],
        python: Callable[[State], str],
        name: str | Callable[[State], str] = "figure",
        *,
        folded: Sequence[str] = (),
        examples: Mapping[str, State] | None = None,
        plain: bool | None = None,
    ) -> None:
        """Lay the widgets out; nothing is computed before `refresh` or `start`."""
        widgets = library("ipywidgets")
        for key, control in controls.items():
            if not control.description:
                raise InputError(f"control {key!r} has no description; give it a label to read")
        self.controls = dict(controls)
        self.figure: go.Figure | None = None
        self.text = self.note = self.python = self.message = self.title = ""
        self.offer: Offer | None = None
        self.error: Exception | None = None
        self._update, self._line = update, python
        self._name = name if callable(name) else lambda state: name
        self._changed, self._computing = threading.Condition(), threading.Lock()
        self._pending = False
        self._asked: Callable[[Progress], None] | None = None
        self._thread: threading.Thread | None = None
        self._cancel = threading.Event()
        self._answer, self._text, self._message = (widgets.HTML() for _ in range(3))
        plain = not shows_widgets() if plain is None else plain
        self._screen = (PlainScreen if plain else WidgetScreen)(self._saved)
        self._bar = widgets.IntProgress(
            description="Working", layout={"width": "min(30rem, 60%)"}, max=1
        )
        self._stop = widgets.Button(description="Cancel", tooltip="Stop between two batches")
        self._stop.on_click(lambda _: self.cancel())
        self._working = widgets.HBox([self._bar, self._stop], layout={"display": "none"})
        self._offered = button("", "Done once; what it reads is kept")
        self._offered.layout.display, self._offered.layout.align_self = "none", "flex-start"
        self._offered.on_click(lambda _: self.accept())
        self.box = widgets.VBox(
            [
                widgets.HTML(f"<style>{STYLE}</style>", layout={"display": "none"}),
                *self._head(widgets, folded, examples or {}, plain),
                self._working,
                self._message,
                self._answer,
                self._offered,  # beside what it adds to, the bar of its work and Cancel
                self._text,
                self._screen.box,
                self._screen.take,
            ],
            layout={"width": "100%", "max_width": "100%", "overflow": "hidden"},
        )
        self.box.add_class("dysem-panel")
        for control in self.controls.values():
            control.observe(lambda _: self.start(), names="value")

    def _head(
        self, widgets: Any, folded: Sequence[str], examples: Mapping[str, State], plain: bool
    ) -> list:
        """Return what stands above the result: controls, examples, and the settings, closed."""
        row = {"display": "flex", "flex_flow": "row wrap", "width": "100%"}
        sliders = (widgets.IntSlider, widgets.FloatSlider)
        boxes = {
            name: number_box(control) if plain and isinstance(control, sliders) else control
            for name, control in self.controls.items()
        }
        shown = [box for name, box in boxes.items() if name not in folded]
        head = [widgets.Box(shown, layout=row)]
        chips = []
        for label, values in examples.items():
            chip = button(label, f"Example: {label.lower()}")
            chip.on_click(lambda _, values=values: self.set(**values))
            chip.add_class("dysem-chip")
            chips.append(chip)
        if chips:
            head.append(widgets.Box([widgets.Label("For example"), *chips], layout=row))
        if folded:
            inside = widgets.Box([boxes[name] for name in folded], layout=row)
            inside.layout.display = "none"
            # A button, which a keyboard can reach: the header of an accordion is none.
            opener = widgets.ToggleButton(
                description="Settings",
                icon="caret-right",
                tooltip="Show the settings, or hide them",
            )

            def follow(change: Any) -> None:
                inside.layout.display = "flex" if change["new"] else "none"
                opener.icon = "caret-down" if change["new"] else "caret-right"

            opener.observe(follow, names="value")
            head += [opener, inside]
        return head

    def _ipython_display_(self) -> None:
        """Show the box where ipywidgets 7 is, as on Colab; IPython asks the other method else."""
        if hasattr(self.box, "_repr_mimebundle_"):
            raise NotImplementedError
        self.box._ipython_display_()

    def _repr_mimebundle_(self, **options: Any) -> Any:
        return self.box._repr_mimebundle_(**options)

    def __repr__(self) -> str:
        state = ", ".join(f"{name}={value!r}" for name, value in self.state.items())
        return f"Panel({state})"

    @property
    def plot(self) -> go.FigureWidget | None:
        """The FigureWidget of the figure, for callbacks on clicks; None before it, and if plain."""
        return self._screen.plot

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
            if self._thread is not None:
                self._stop.description, self._stop.disabled = "Stopping after this batch …", True

    def accept(self) -> "Panel":
        """Do what the view offers, on another thread, and compute it again."""
        if self.offer is not None:
            self._asked = self.offer.work
            self.start()
        return self

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
                asked, self._asked = self._asked, None
            self._begin()
            try:
                with warnings.catch_warnings():
                    warnings.filterwarnings("ignore", SAID_IN_THE_VIEW)
                    if asked is not None:
                        asked(self._progress)
                    view = self._update(state, self._progress)
                self._show(view, self._line(state), self._name(state))
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

    def _begin(self) -> None:
        """Grey what is shown, and take the last error off, until there is something new."""
        self._say("", None)
        for shown in self._result:
            shown.add_class("dysem-stale")
        self._stop.description, self._stop.disabled = "Cancel", False

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

    def _show(self, view: View, python: str, title: str) -> None:
        self.figure, self.note, self.offer = view.figure, view.note, view.offer
        self.text = view.answer + view.text
        self.python, self.title = python, title
        first, rest = (view.answer, view.text) if view.answer else (view.text, "")
        self._answer.value = (
            f'<div class="dysem-numbers" aria-live="polite">{self._noted()}{first}</div>'
        )
        self._text.value = f'<div class="dysem-numbers">{rest}</div>' if rest else ""
        self._offered.description = view.offer.label if view.offer else ""
        self._offered.layout.display = "inline-block" if view.offer else "none"
        self._screen.show(view.figure, python)
        for shown in self._result:
            shown.remove_class("dysem-stale")

    @property
    def _result(self) -> tuple[Any, ...]:
        """What is greyed while it is not of what the controls say."""
        return self._answer, self._text, self._screen.box

    def _noted(self) -> str:
        """Return the note as HTML."""
        return f'<p class="dysem-note">{html.escape(self.note)}</p>' if self.note else ""

    def _saved(self) -> Saved | None:
        """Return the page with all that is shown, under the name of what it is about."""
        return None if self.figure is None else Saved(file_name(self.title), self._page)

    def _page(self, plotly: bool | str) -> str:
        assert self.figure is not None  # `_saved` comes first
        drawn = self.figure.to_html(
            full_html=False, include_plotlyjs=plotly, config={"displaylogo": False}
        )
        title, python = html.escape(self.title), html.escape(self.python)
        return (
            f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
            f'<style>{STYLE}</style></head><body class="dysem-page"><h1>{title}</h1>'
            f"{self._noted()}{self.text}{drawn}<h2>The same in Python</h2><pre>{python}</pre>"
            "</body></html>"
        )
