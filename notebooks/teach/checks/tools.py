"""What the lessons use besides the package: whole activations of a few prompts, and figures."""

from collections.abc import Mapping, Sequence

import plotly.graph_objects as go
import torch
from jaxtyping import Float, Int
from torch import Tensor

from dysem_lab import Finding, LensModel
from dysem_lab.models.passes import MAX_TOKENS, tokenize
from dysem_lab.models.record import Hook, activations
from dysem_lab.questions.style import PALETTE, layout

WIDTH = 820  # px: a cell of JupyterLab's page is about 830 wide


def record(
    lens: LensModel,
    prompts: Sequence[str],
    names: Sequence[str],
    side: str = "right",
    hooks: Sequence[Hook] = (),
) -> tuple[dict[str, Float[Tensor, "batch pos ..."]], Int[Tensor, "batch pos"]]:
    """Return what hook points see in one pass, at every token.

    Args:
        lens: The model.
        prompts: A few prompts; all are in one batch.
        names: Hook points, such as "blocks.0.hook_out".
        side: Where shorter prompts are padded, "right" or "left".
        hooks: (hook point, function) pairs that act before anything is read. A function gets the
            tensor of its hook point, with a batch axis first, and the hook point itself; what it
            returns replaces the tensor.

    Returns:
        Hook point → activation, and the attention mask (1 for real tokens, 0 for padding).
    """
    read = activations(lens, prompts, names, hooks=hooks, side=side)
    return read.seen, read.mask


def every_block(
    lens: LensModel, prompts: Sequence[str], part: str, hooks: Sequence[Hook] = ()
) -> Float[Tensor, "batch L pos ..."]:
    """Return what a part of every block, such as "hook_out", sees at every token; as `record`."""
    names = [f"blocks.{layer}.{part}" for layer in range(lens.n_layers)]
    seen, _ = record(lens, prompts, names, hooks=hooks)
    return torch.stack([seen[name].float().cpu() for name in names], dim=1)


def tokens_of(lens: LensModel, prompt: str) -> list[str]:
    """Return the tokens of a prompt as text."""
    ids = tokenize(lens, [prompt], MAX_TOKENS)[0]
    return [str(lens.tokenizer.decode([token])) for token in ids]


def fitted(figure: go.Figure) -> go.Figure:
    """Return a figure as wide as a lesson's cell."""
    return figure.update_layout(width=WIDTH)


def shown(finding: Finding) -> Finding:
    """Return a finding whose figure is as wide as a lesson's cell."""
    fitted(finding.figure)
    return finding


def curves(
    series: Mapping[str, Sequence[float] | Tensor], title: str, facts: str, x: str, y: str
) -> go.Figure:
    """Return one line per series over 1, 2, 3, …, such as the blocks of a model.

    Args:
        series: Name → values.
        title: What is seen.
        facts: What it was measured on.
        x: Title of the horizontal axis.
        y: Title of the vertical axis.
    """
    figure = go.Figure()
    for (name, values), colour in zip(series.items(), PALETTE, strict=False):
        points = [float(value) for value in values]
        figure.add_scatter(
            x=list(range(1, len(points) + 1)),
            y=points,
            name=name,
            mode="lines+markers",
            line_color=colour,
        )
    figure.update_xaxes(title=x)
    figure.update_yaxes(title=y)
    return fitted(layout(figure, title, facts, 420))


def attention_map(
    pattern: Float[Tensor, "query key"], tokens: Sequence[str], title: str, facts: str
) -> go.Figure:
    """Return one head's attention pattern; a row is a query token, its values add up to 1."""
    # Tokens repeat, so the axes count positions and only show the tokens.
    places, shown = list(range(len(tokens))), [token.strip() or "␣" for token in tokens]
    figure = go.Figure(
        go.Heatmap(
            z=pattern.tolist(),
            zmin=0,
            zmax=1,
            colorscale="Cividis",
            colorbar_title="attention",
            hovertemplate="query %{y}, key %{x}: %{z:.2f}<extra></extra>",
        )
    )
    figure.update_xaxes(title="key (read from)", tickvals=places, ticktext=shown, tickangle=-60)
    figure.update_yaxes(
        title="query (reads)", tickvals=places, ticktext=shown, autorange="reversed"
    )
    return layout(figure, title, facts, 620).update_layout(width=760)
