"""Labelled controls of an explorer; ipywidgets comes with the extra ``lab``."""

from collections.abc import Sequence
from importlib import import_module
from typing import Any

from dysem_lab.errors import DysemLabError

NARROW = "min(26rem, 100%)"


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


def number_box(slider: Any) -> Any:
    """Return a box for the number of a slider, which follows it and moves it.

    A box has its label as a name; a slider of ipywidgets has none to a screen reader, unless a
    script of the page gives it one.
    """
    widgets = library("ipywidgets")
    whole = isinstance(slider, widgets.IntSlider)
    kind = widgets.BoundedIntText if whole else widgets.BoundedFloatText
    numbers = {name: getattr(slider, name) for name in ("value", "min", "max", "step")}
    box = _labelled(kind, slider.description, NARROW, **numbers)
    for name in numbers:
        widgets.link((slider, name), (box, name))
    return box


def menu(label: str, options: Sequence[Any], value: Any) -> Any:
    """Return a drop-down menu; options are values, or pairs of a name and a value."""
    return _labelled(library("ipywidgets").Dropdown, label, NARROW, options=options, value=value)


def button(label: str, hint: str) -> Any:
    """Return a button as wide as what it says."""
    widgets = library("ipywidgets")
    return widgets.Button(description=label, tooltip=hint, layout={"width": "auto"})


def _labelled(kind: Any, label: str, width: str, **settings: Any) -> Any:
    return kind(
        description=label,
        style={"description_width": "9rem"},
        layout={"width": width, "max_width": "100%"},
        **settings,
    )
