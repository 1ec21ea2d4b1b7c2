"""Who looks at whom: the attention pattern of any head, over a text that can be typed in."""

import html
from typing import Any

from dysem_lab.display import Progress
from dysem_lab.explorers.controls import menu, slider, text_box
from dysem_lab.explorers.panel import Panel, State, View
from dysem_lab.explorers.python import IMPORT, call
from dysem_lab.explorers.renderings import read_note, typed_sentence
from dysem_lab.inputs import checked
from dysem_lab.models.lens import LensModel, require_model
from dysem_lab.models.passes import MAX_TOKENS, tokenize
from dysem_lab.prompts import TEMPLATE_NAMES, TEMPLATES, wrap
from dysem_lab.questions.attention import Patterns, attention, caption, figure, read_patterns

KEPT = 2**24  # values of a pattern that an explorer keeps of all blocks at once: 64 MB


def explore_attention(
    lens: LensModel,
    text: str = "A dog sleeps in the warm sun.",
    template: str = "prompteol",
    layer: int = 0,
    head: int = 0,
    *,
    plain: bool | None = None,
) -> Panel:
    """Return an explorer of every head's attention over a text that can be typed in.

    One forward pass serves all heads of a text, and of a long one all heads of a block; nothing
    else runs the model. A click on the pattern, or on a bar, chooses the token whose row is drawn
    as bars.

    Args:
        lens: The model.
        text: What the prompt is about.
        template: As for `dysem_lab.wrap`.
        layer: Block shown first, 0-based.
        head: Query head shown first, 0-based.
        plain: As for `Panel`.
    """
    (text,) = checked([text])
    known: dict[tuple[str, str, int | None], Patterns] = {}

    def read(text: str, template: str, layer: int) -> Patterns:
        for key in ((text, template, None), (text, template, layer)):
            if key in known:
                return known[key]
        n = len(tokenize(lens, wrap([text], template), MAX_TOKENS)[0])
        kept = None if lens.n_layers * lens.n_heads * n**2 <= KEPT else layer
        known.clear()
        known[text, template, kept] = read_patterns(lens, text, template, kept)
        return known[text, template, kept]

    def settings(state: State) -> dict[str, Any]:
        return {
            "layer": state["layer"] - 1,
            "head": state["head"] - 1,
            "value_weighted": state["value_weighted"],
            "token": -1 - state["back"],
        }

    def update(state: State, progress: Progress) -> View:
        text = typed_sentence(state["text"], "text")
        patterns = read(text, state["template"], state["layer"] - 1)
        chosen = settings(state)
        chosen["token"] = max(chosen["token"], -len(patterns.tokens))
        said = html.escape(caption(patterns, **chosen), quote=False)
        note = read_note(lens, [{"en": text}], state["template"])
        return View(figure(patterns, **chosen), f"<p>{said}</p>", note)

    def python(state: State) -> str:
        chosen = settings(state)
        given = ("lens", repr(state["text"]), repr(chosen.pop("layer")), repr(chosen.pop("head")))
        line = call("dl.attention", attention, *given, template=state["template"], **chosen)
        return f"{IMPORT}\n\n{line}"

    names = [(TEMPLATE_NAMES.get(name, "no prompt"), name) for name in TEMPLATES]
    if template not in TEMPLATES:
        names.append((template, template))
    weights = [("attention α", False), ("‖α v‖, what is given", True)]
    panel = Panel(
        {
            "text": text_box("Text", text),
            "template": menu("Prompt", names, template),
            "layer": slider("Layer", layer + 1, 1, require_model(lens).n_layers),
            "head": slider("Head", head + 1, 1, lens.n_heads),
            "value_weighted": menu("Weights", weights, False),
            "back": slider("Tokens back", 0, 0, MAX_TOKENS),
        },
        update,
        python,
        lambda state: f"Attention, layer {state['layer']}, head {state['head']}: {state['text']}",
        folded=("template", "value_weighted", "back"),
        plain=plain,
    ).refresh()

    def choose(trace: object, points: Any, state: object) -> None:
        if points.ys and known:
            (patterns,) = known.values()
            panel.controls["back"].value = len(patterns.tokens) - int(points.ys[0])

    for trace in panel.plot.data[:2] if panel.plot else ():
        trace.on_click(choose)
    return panel
