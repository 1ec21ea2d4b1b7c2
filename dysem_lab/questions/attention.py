"""Who looks at whom? The attention pattern of any head, over the tokens of a prompt."""

import html
import warnings
from dataclasses import dataclass

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
from jaxtyping import Float
from torch import Tensor

from dysem_lab.display import amount
from dysem_lab.errors import InputError, ModelError
from dysem_lab.inputs import index_of, whole_number
from dysem_lab.models.lens import LensModel, require_model
from dysem_lab.models.passes import MAX_TOKENS, tokenize
from dysem_lab.models.readout import label, token_texts
from dysem_lab.models.record import activations
from dysem_lab.prompts import wrap
from dysem_lab.questions.finding import Facts, Finding
from dysem_lab.questions.style import PALETTE, layout, side_by_side, with_gaps

SCALE = [[0, "rgba(128,128,128,0.1)"], [1, PALETTE[1]]]  # no weight is quiet on any ground
ROW, LABELS, MARGINS = 17, 80, 230  # px of a token; labels that an axis has room for; px around


def attention(
    lens: LensModel,
    text: str,
    layer: int,
    head: int,
    template: str = "prompteol",
    *,
    value_weighted: bool = False,
    token: int = -1,
) -> Finding:
    """Show the attention pattern of one head for a prompt.

    Args:
        lens: The model.
        text: What the prompt is about.
        layer: Block, 0-based; the figure counts from 1.
        head: Query head, 0-based; the figure counts from 1.
        template: As for `dysem_lab.wrap`.
        value_weighted: Show ‖α_ij v_j‖ in place of α_ij.
        token: Position of the token whose row is drawn as bars as well; -1 is the last, whose
            vectors this package reads.

    Returns:
        One row per token and token that it sees: ``position`` and ``token`` that looks,
        ``seen_position`` and ``seen_token`` that it looks at, ``weight`` (α_ij, or ‖α_ij v_j‖).
        Positions are 0-based.

    Raises:
        InputError: As for `read_patterns` and `Patterns.of_head`, or a token that the prompt does
            not have.
        ModelError: As for `read_patterns`.
    """
    head = index_of(head, require_model(lens).n_heads, "head")
    with warnings.catch_warnings():  # of a long text, which the pass says
        warnings.simplefilter("ignore")
        (ids,) = tokenize(lens, wrap([text], template), MAX_TOKENS)
    _position(len(ids), token)
    patterns = read_patterns(lens, text, template, layer)
    drawn = figure(patterns, layer, head, value_weighted=value_weighted, token=token)
    asked = {"layer": layer, "head": head, "value_weighted": value_weighted, "token": token}
    facts = Facts(
        lens.facts,
        _measured(patterns, value_weighted),
        text,
        len(patterns.tokens),
        [{"label": text}],
        unsaid={"text": text, "template": template, **asked},
    )
    return Finding(
        f"attention-{layer + 1}-{head + 1}",
        table(patterns, layer, head, value_weighted=value_weighted),
        drawn,
        caption(patterns, layer, head, value_weighted=value_weighted, token=token),
        facts,
    )


@dataclass(frozen=True, eq=False)
class Patterns:
    """What the heads do with one prompt.

    Attributes:
        model: Its name, and how its weights are stored.
        tokens: The prompt's n tokens, from `token_texts`.
        first_block: The block of the first row, 0-based.
        pattern: α, float32 ``[blocks, n_heads, n, n]``: row i is what token i looks at.
        value_norms: ‖v_j‖, float32 ``[blocks, n_heads, n]``; heads of a group share their values.
    """

    model: str
    tokens: tuple[str, ...]
    first_block: int
    pattern: Float[Tensor, "blocks n_heads n n"]
    value_norms: Float[Tensor, "blocks n_heads n"]

    def of_head(self, layer: int, head: int, value_weighted: bool = False) -> Float[Tensor, "n n"]:
        """Return one head's pattern.

        Args:
            layer: Block, 0-based.
            head: Query head, 0-based.
            value_weighted: Return ‖α_ij v_j‖ in place of α_ij: a token that much attention goes to
                may give hardly anything.

        Raises:
            InputError: A block that was not kept, or a head that there is not.

        Source: Kobayashi et al. (arXiv 2004.10102) weight by the norm of the value after W_O; here
            it is before W_O, where the hook point is.
        """
        blocks = range(self.first_block, self.first_block + len(self.pattern))
        for name, value, valid in (
            ("layer", layer, blocks),
            ("head", head, range(self.pattern.shape[1])),
        ):
            if whole_number(value) not in valid:
                raise InputError(
                    f"{name} must be between {valid[0]} and {valid[-1]} here, got {value!r}"
                )
        row = layer - self.first_block
        alpha = self.pattern[row, head]
        return alpha * self.value_norms[row, head] if value_weighted else alpha


def read_patterns(
    lens: LensModel, text: str, template: str = "prompteol", layer: int | None = None
) -> Patterns:
    """Return the attention patterns of one prompt, from one forward pass.

    Args:
        lens: The model.
        text: What the prompt is about.
        template: As for `dysem_lab.wrap`; "none" is the bare text.
        layer: Keep this block alone, 0-based, and run none after it; None keeps all of them.

    Raises:
        InputError: An empty text, an unknown template, a block that the model does not have.
        ModelError: The architecture does not show its pattern, or it is not finite.
    """
    if layer is not None:
        layer = index_of(layer, lens.n_layers, "layer")
    blocks = range(lens.n_layers) if layer is None else range(layer, layer + 1)
    points = {
        kind: [f"blocks.{block}.attn.hook_{kind}" for block in blocks] for kind in ("pattern", "v")
    }
    everything = [point for of_kind in points.values() for point in of_kind]
    seen, ids, _ = activations(lens, wrap([text], template), everything, n_blocks=blocks.stop)
    pattern = torch.stack([seen[point][0].float().cpu() for point in points["pattern"]])
    norms = torch.stack([seen[point][0].float().norm(dim=-1).T.cpu() for point in points["v"]])
    if not (torch.isfinite(pattern).all() and torch.isfinite(norms).all()):
        raise ModelError(
            f"{lens.name}: the attention is not finite in {lens.dtype}; load the model with "
            "dtype='float32' or 'bfloat16'"
        )
    return Patterns(
        lens.label,
        tuple(token_texts(lens, ids[0].tolist())),
        blocks.start,
        pattern,
        norms.repeat_interleave(lens.n_heads // norms.shape[1], 1),
    )


def table(
    patterns: Patterns, layer: int, head: int, *, value_weighted: bool = False
) -> pd.DataFrame:
    """Return the table of `attention` from patterns that were read already."""
    weights = patterns.of_head(layer, head, value_weighted).numpy()
    i, j = np.tril_indices(len(weights))
    tokens = np.array(patterns.tokens, dtype=object)
    return pd.DataFrame(
        {
            "position": i,
            "token": tokens[i],
            "seen_position": j,
            "seen_token": tokens[j],
            "weight": weights[i, j],
        }
    )


def figure(
    patterns: Patterns, layer: int, head: int, *, value_weighted: bool = False, token: int = -1
) -> go.Figure:
    """Return the figure of `attention` from patterns that were read already."""
    z = patterns.of_head(layer, head, value_weighted).numpy()
    n = len(z)
    chosen = _position(len(patterns.tokens), token)
    labels = [label(text) for text in patterns.tokens]
    symbol = "‖α v‖" if value_weighted else "α"
    looks = f"what {labels[chosen]} (token {chosen + 1}) looks at"
    figure = side_by_side(["each row: what a token looks at", looks], [0.64, 0.36], 0.04)
    places = np.arange(1, n + 1)
    # Of a long text a cell is a pixel or two: no room for gaps, nor in a message for its names.
    long = n > LABELS
    names = None if long else np.stack(np.meshgrid(labels, labels), axis=-1)
    pair = "token %{y} → token %{x}" if long else "%{customdata[1]} → %{customdata[0]}"
    figure.add_heatmap(
        z=with_gaps(np.where(np.tri(n, dtype=bool), z, np.nan)),  # no token sees a later one
        x=places,
        y=places,
        colorscale=SCALE,
        zmin=0,
        xgap=0 if long else 1,
        ygap=0 if long else 1,
        colorbar={"title": symbol, "thickness": 10},
        customdata=names,
        hovertemplate=f"{pair}: %{{z:.3f}}<extra></extra>",
        hoverongaps=False,
        row=1,
        col=1,
    )
    figure.add_bar(
        orientation="h",
        x=z[chosen, : chosen + 1],
        y=places[: chosen + 1],
        marker_color=PALETTE[0],
        customdata=labels[: chosen + 1],
        hovertemplate="%{customdata}: %{x:.3f}<extra></extra>",
        showlegend=False,
        row=1,
        col=2,
    )
    edges = [0.5, chosen + 1.5, chosen + 1.5, 0.5, 0.5]
    figure.add_scatter(
        x=edges,
        y=[chosen + 0.5, chosen + 0.5, chosen + 1.5, chosen + 1.5, chosen + 0.5],
        mode="lines",
        line={"color": PALETTE[0], "width": 1.5},
        hoverinfo="skip",
        showlegend=False,
        row=1,
        col=1,
    )
    every = -(-n // LABELS)
    named = {"tickvals": places[::every], "ticktext": labels[::every], "showgrid": False}
    figure.update_yaxes(range=[n + 0.5, 0.5], zeroline=False, **named)
    figure.update_xaxes(range=[0.5, n + 0.5], tickangle=-90, zeroline=False, col=1, **named)
    figure.update_xaxes(rangemode="tozero", title=symbol, col=2)
    figure.update_annotations(font_size=13)
    title = f"Attention of head {head + 1} in layer {layer + 1}"
    measured_on = f"{patterns.model}, {_measured(patterns, value_weighted)}"
    height = max(440, ROW * min(n, LABELS) + MARGINS)
    return layout(figure, title, measured_on, height).update_layout(margin_l=110, margin_b=120)


def _measured(patterns: Patterns, value_weighted: bool) -> str:
    """Return what is shown of a prompt, for the line under the title."""
    weights = "‖α v‖, the norm of what each token gives" if value_weighted else "weights α"
    return f"{weights}, {amount(len(patterns.tokens), 'token')}"


def caption(
    patterns: Patterns, layer: int, head: int, *, value_weighted: bool = False, token: int = -1
) -> str:
    """Return one line: what a token looks at most in one head."""
    position = _position(len(patterns.tokens), token)
    row = patterns.of_head(layer, head, value_weighted)[position]
    best = row.topk(min(3, len(row)))
    total = float(row.sum())
    parts = [
        f"{_name(patterns, place)} (token {place + 1}) {value / total:.0%}"
        for value, place in zip(best.values.tolist(), best.indices.tolist(), strict=True)
    ]
    what = "of ‖α v‖" if value_weighted else "of the attention"
    return (
        f"Layer {layer + 1}, head {head + 1}: {_name(patterns, position)} (token "
        f"{position + 1} of {len(patterns.tokens)}) looks at {', '.join(parts)} {what}."
    )


def _name(patterns: Patterns, position: int) -> str:
    """Return a token as a label has it, but as plain text."""
    return html.unescape(label(patterns.tokens[position]))


def _position(n: int, token: int) -> int:
    """Return a position from the start, once it is known to be one of n."""
    position = whole_number(token)
    if position is None or not -n <= position < n:
        raise InputError(f"token must be between {-n} and {n - 1} for this prompt, got {token!r}")
    return position % n
