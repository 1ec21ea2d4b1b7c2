"""Figures show every row of their table with its interval; captions say the table's numbers."""

import dataclasses
import itertools
import re

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

from dysem_lab.errors import InputError
from dysem_lab.models.facts import ModelFacts
from dysem_lab.prompts import SETTINGS
from dysem_lab.questions import (
    components,
    decomposition,
    languages,
    layers,
    random_sets,
    scores,
    sweeps,
)
from dysem_lab.questions.finding import Facts
from dysem_lab.questions.style import layout

FACTS = "tiny (float32 weights), demo, 24 pairs, k 6, seed 0"
VECTORS = ("source", "mean")
PROMPTS = {
    "english": "English prompts",
    "language-specific": "language-specific prompts",
}


def tidy(**levels):
    """Return a table with all combinations of these values and made-up scores, all different."""
    table = pd.DataFrame(itertools.product(*levels.values()), columns=list(levels))
    generator = np.random.default_rng(len(table))
    spearman = generator.permutation(len(table)) * 60 / len(table) + 20
    return table.assign(
        spearman=spearman,
        low=spearman - generator.uniform(1, 4, len(table)),
        high=spearman + generator.uniform(1, 4, len(table)),
        n_dims=generator.permutation(len(table)) + 5.25,
        n_pairs=24,
        n_undefined=0,
    )


def panels(figure):
    """Return the name of the horizontal axis of each panel → the panel's title."""
    axes = sorted(
        {trace.xaxis or "x" for trace in figure.data}, key=lambda name: int(name[1:] or 1)
    )
    titles = [note.text for note in figure.layout.annotations] or [""]
    return dict(zip(axes, titles, strict=True))


def shown(figure):
    """Return what a figure of bars or curves shows: (panel, trace, x) → (y, low, high)."""
    titles, found = panels(figure), {}
    for trace in figure.data:
        if trace.type == "bar":
            up, down = (np.array(trace.error_y[side]) for side in ("array", "arrayminus"))
            lows, highs = np.array(trace.y) - down, np.array(trace.y) + up
        elif "markers" in trace.mode:
            lows, highs = np.array(trace.customdata)[:, 1:].T
        else:
            continue
        where = titles[trace.xaxis or "x"]
        for x, *values in zip(trace.x, trace.y, lows, highs, strict=True):
            assert (where, trace.name, x) not in found, "two points in one place"
            found[where, trace.name, x] = values
    return found


def bands(figure):
    """Return the areas of a figure of curves: (panel, colour) → points."""
    titles = panels(figure)
    return {
        (titles[trace.xaxis or "x"], trace.legendgroup): set(zip(trace.x, trace.y, strict=True))
        for trace in figure.data
        if trace.fill == "toself"
    }


def check(figure, expected):
    """Compare what a figure shows with rows (panel, trace, x, row of the table).

    The mean over tasks is none of them.
    """
    found = {at: of for at, of in shown(figure).items() if "average" not in (at[0], at[2])}
    assert len(found) == len(expected)
    for where, name, x, row in expected:
        values = [row["spearman"], row["low"], row["high"]]
        assert found[where, name, x] == pytest.approx(values), (where, name, x)


def named(row):
    """Return prompt setting and vector of a row as a figure has them."""
    return f"{PROMPTS[row['setting']]}, {row['vector']}"


def on_two_lines(method):
    """Return them as the title of a narrow panel."""
    return method.replace(", ", ",<br>", 1)


def rows(table):
    return [row for _, row in table.iterrows()]


def numbers(caption):
    return [float(number) for number in re.findall(r"(?<![\w.])-?\d+(?:\.\d+)?(?!\w)", caption)]


def with_scores(table, scores, n_dims=None):
    """Return the table with these scores, intervals of one to either side, and #Dim."""
    scores = np.array(scores, dtype=float)
    dims = np.arange(len(scores)) + 10.0 if n_dims is None else n_dims
    return table.assign(spearman=scores, low=scores - 1, high=scores + 1, n_dims=dims)


# --- tables of each kind


def decomposition_table():
    table = tidy(task=["demo"], method=list("abcdefgh"))
    methods = ["mean pooling", "PromptEOL, N(h^L)", "h^L", "A^L", "F^L"]
    methods += [
        "DySem A^L, english, source",
        "DySem A^L, english, mean",
        "DySem h^L, english, mean",
    ]
    groups = ["baseline"] * 2 + ["part"] * 3 + ["DySem on A^L"] * 2 + ["DySem on h^L"]
    return table.assign(method=methods, group=groups)


def random_table(n_seeds=3):
    parts = [
        tidy(task=["demo"], kind=["semantic"], k=[3, 8]),
        tidy(
            task=["demo"],
            kind=["random, per pair", "random, shared"],
            k=[3, 8],
            random_seed=range(n_seeds),
        ),
        tidy(task=["demo"], kind=["all dimensions"], k=[32]),
    ]
    return pd.concat(parts, ignore_index=True)


def components_table(tasks=("STS12", "STSB")):
    components = ["resid", "attn", "attn_raw", "ffn"]
    return tidy(task=tasks, component=components, method=["all dimensions", "DySem, m = 1"])


def languages_table(tasks=("demo",)):
    table = tidy(task=tasks, setting=SETTINGS, language=["en", "ja", "ru"])
    ranks = table.groupby(["task", "setting"])["spearman"].rank(ascending=False)
    return table.assign(rank=ranks.astype(int))


def m_table(tasks=("demo",)):
    return tidy(task=tasks, setting=SETTINGS, m=[1, 2, 3], vector=VECTORS)


def prompt_vector_table():
    return tidy(task=["STS12", "STSB", "SICKR"], setting=SETTINGS, vector=VECTORS)


def layers_table(tasks=("demo",), settings=SETTINGS):
    kinds = ["layer-wise", "cumulative"]
    return tidy(task=tasks, setting=settings, vector=VECTORS, kind=kinds, layer=range(4))


def k_table(tasks=("demo",), ms=(4,), ks=(0.05, 0.25, 1.0)):
    return tidy(task=tasks, setting=SETTINGS, m=ms, k=ks, vector=VECTORS)


def templates_table(tasks=("demo",)):
    templates = ["prompteol", "pretended_cot", "knowledge"]
    table = tidy(task=tasks, template=templates, setting=SETTINGS, vector=VECTORS)
    return table.assign(languages="en/fr")


def plain_table(tasks=("demo",)):
    templates = ["prompteol", "pretended_cot", "knowledge"]
    return tidy(task=tasks, template=templates, component=["final", "attn"])


def overlap_table():
    codes = ["en", "ja", "ru"]
    values = [[1.0, 0.5, 0.125], [0.5, 1.0, 0.25], [0.125, 0.25, 1.0]]
    return pd.DataFrame(values, codes, codes)


ALL = {
    "decomposition": lambda facts: decomposition.figure(decomposition_table(), facts),
    "random": lambda facts: random_sets.figure(random_table(), facts),
    "components": lambda facts: components.figure(components_table(), facts),
    "languages": lambda facts: languages.figure(languages_table(), facts),
    "overlap": lambda facts: languages.overlap_figure(overlap_table(), facts, 0.0625),
    "m sweep": lambda facts: sweeps.m_sweep_figure(m_table(), facts),
    "prompt and vector": lambda facts: sweeps.prompt_vector_figure(prompt_vector_table(), facts),
    "layers": lambda facts: layers.figure(layers_table(), facts),
    "k sweep": lambda facts: sweeps.k_sweep_figure(k_table(), facts, 32),
    "templates": lambda facts: sweeps.templates_figure(templates_table(), plain_table(), facts),
}


# --- all figures


@pytest.mark.parametrize("name", ALL)
def test_the_title_says_what_was_measured_and_room_is_left_for_it(name):
    figure = ALL[name](FACTS)
    assert figure.layout.title.subtitle.text.replace("<br>", " ").startswith(FACTS)
    assert figure.layout.width == 1000
    assert figure.layout.margin.t >= 100
    assert figure.layout.height - figure.layout.margin.t - figure.layout.margin.b > 150


@pytest.mark.parametrize("name", ALL)
def test_every_axis_of_scores_has_a_name_and_every_trace_too(name):
    figure = ALL[name](FACTS)
    for trace in figure.data:
        assert trace.name or trace.showlegend is False or trace.type == "heatmap"
    if name != "overlap":
        axes = [*figure.select_xaxes(), *figure.select_yaxes()]
        assert any(axis.title.text and "Spearman × 100" in axis.title.text for axis in axes)


@pytest.mark.parametrize(("n_settings", "n_lines"), [(1, 1), (6, 1), (12, 2), (20, 3)])
def test_long_facts_break_at_commas_into_lines_that_say_the_same(n_settings, n_lines):
    long = ", ".join(f"setting{i} value{i}" for i in range(n_settings))
    figure = ALL["decomposition"](long)
    lines = figure.layout.title.subtitle.text.split("<br>")
    assert len(lines) == n_lines
    assert " ".join(lines) == long
    assert max(map(len, lines)) <= 145
    # A single line is set 8 px lower than the first of several.
    assert figure.layout.margin.t == 88 + 17 * n_lines + 8 * (n_lines == 1)


def test_no_line_of_the_facts_ends_within_a_setting():
    model = ModelFacts("tiny", "", "", "float32", "cpu", 4, 32, "weights as they are")
    settings = {
        "contrasts": "with PromptEOL at block 5, α = 2; Pretended CoT at block 7, α = 3",
        "positions": ["heads", "ffn"],
        "layer": 4,
        "alpha": 2.0,
    }
    units = [
        "(random sample of 100 per task, seed 0)",
        "contrast with PromptEOL at block 5, α = 2;",
        "Pretended CoT at block 7, α = 3",
        "contrast of the heads, before the output projection/the FFN's output",
        "block 5, α = 2.0",
    ]
    for n_letters in range(0, 200, 7):  # each moves the ends of the lines
        data = f"{'x' * n_letters} pairs (random sample of 100 per task, seed 0)"
        figure = layout(go.Figure(), "title", Facts(model, data, settings=settings), 400)
        under = figure.layout.title.subtitle.text.replace("\u00a0", " ")
        assert "<br>" in under
        assert all(unit in under for unit in units), under


def test_a_table_stays_as_it_is():
    for table in (decomposition_table(), layers_table(), k_table()):
        before = table.copy(deep=True)
        if "layer" in table:
            layers.figure(table, FACTS)
        elif "m" in table:
            sweeps.k_sweep_figure(table, FACTS, 32)
        else:
            decomposition.figure(table, FACTS)
        pd.testing.assert_frame_equal(table, before)


# --- decomposition


def test_decomposition_has_a_bar_with_interval_score_and_size_for_each_method():
    table = decomposition_table()
    figure = decomposition.figure(table, FACTS)
    (labels,) = [trace for trace in figure.data if trace.type == "scatter"]
    texts = dict(zip(labels.y, labels.text, strict=True))
    found = {}
    for trace in figure.data:
        if trace.type == "bar":
            for values in zip(
                *(trace.y, trace.x, trace.error_x.array, trace.error_x.arrayminus), strict=True
            ):
                found[values[0]] = (trace.name, *values[1:])
    assert len(found) == len(table)
    for row in rows(table):
        name, spearman, up, down = found[row["method"]]
        assert name == row["group"].replace("^L", "<sup>L</sup>")
        values = [spearman, spearman - down, spearman + up]
        assert values == pytest.approx([row["spearman"], row["low"], row["high"]])
        assert numbers(re.sub("<.*?>", "", texts[row["method"]]))[0] == round(row["spearman"], 1)
        assert f"#Dim. {row['n_dims']:.0f}" in texts[row["method"]]
    # The first method of the table is on top.
    assert figure.layout.yaxis.categoryarray[-1] == table["method"].iloc[0]


def test_the_decomposition_s_caption_by_hand():
    table = with_scores(decomposition_table(), [40, 50, 60.04, 70.5, 30, 75, 81.26, 79])
    caption = decomposition.caption(table)
    assert caption.startswith(
        "The best of DySem's 3 settings is ahead of the best plain vector by 10.8, the worst is "
        "ahead of it by 4.5 (best on these pairs; not tested). "
    )
    assert numbers(caption)[3:] == [100, 40, 50, 60, 70.5, 30, 81.3, 80.3, 82.3, 16]
    assert "best is DySem A^L, English, mean with" in caption


def test_decomposition_is_for_one_task():
    for table, functions in (
        (
            decomposition_table(),
            (decomposition.caption, decomposition.figure),
        ),
    ):
        two = pd.concat([table, table.assign(task="other")], ignore_index=True)
        caption, figure = functions
        with pytest.raises(InputError, match="for one task, but the table has 2; choose one"):
            caption(two)
        with pytest.raises(InputError, match="for one task, but the table has 2; choose one"):
            figure(two, FACTS)


# --- random sets


def test_random_sets_are_shown_as_the_mean_and_the_span_of_their_seeds():
    table = random_table()
    figure = random_sets.figure(table, FACTS)
    lines = {trace.name: trace for trace in figure.data if trace.name}
    areas = [trace for trace in figure.data if trace.fill == "toself"]
    assert list(lines) == ["joint sets (DySem)", "random, shared", "random, per pair"]
    for (name, line), area in zip(lines.items(), areas, strict=True):
        kind = "semantic" if name.startswith("joint") else name
        for i, k in enumerate([3, 8]):
            part = table[(table["kind"] == kind) & (table["k"] == k)]
            assert line.y[i] == pytest.approx(sum(part["spearman"]) / len(part))
            assert line.x[i] == pytest.approx(sum(part["n_dims"]) / len(part))
            assert line.customdata[i] == k
            low = min(part["low"] if kind == "semantic" else part["spearman"])
            high = max(part["high"] if kind == "semantic" else part["spearman"])
            points = set(zip(area.x, area.y, strict=True))
            assert {(line.x[i], low), (line.x[i], high)} <= points
    dense = table.iloc[-1]
    (line,) = figure.layout.shapes
    assert line.y0 == line.y1 == dense["spearman"]
    assert f"all {dense['n_dims']:.0f} dimensions" in figure.layout.shapes[0].name


def test_the_caption_of_random_sets_by_hand():
    table = random_table(n_seeds=2)
    # semantic k=3, 8; per pair (3: two seeds; 8: two seeds); shared likewise; all dimensions.
    scores = [50, 60, 1, 2, 30, 40, 3, 4, 51, 54, 77]
    caption = random_sets.caption(with_scores(table, scores))
    assert caption.startswith("The chosen dimensions score more than 2 of 2 random sets of equal")
    assert numbers(caption)[2:] == [100, 11, 60, 52.5, 35, 2, 20, 77]
    assert "one random set for all pairs 52.5, a random set for each pair 35.0" in caption


def test_random_sets_of_several_tasks_are_bars_with_the_span_of_their_seeds():
    one, two = random_table(), random_table().assign(task="other")
    two[["spearman", "low", "high"]] -= 7
    table = pd.concat([one, two], ignore_index=True).replace({"k": {3: 0.25}})
    found = shown(random_sets.figure(table, FACTS))
    for task, part in table.groupby("task"):
        for kind in ("random, per pair", "random, shared"):
            of = part.loc[(part["kind"] == kind) & (part["k"] == 0.25), "spearman"]
            assert found["", kind, task] == pytest.approx([of.mean(), of.min(), of.max()])
        (joint,) = rows(part[(part["kind"] == "semantic") & (part["k"] == 0.25)])
        expected = [joint["spearman"], joint["low"], joint["high"]]
        assert found["", "joint sets (DySem)", task] == pytest.approx(expected)
    for kind in ("joint sets (DySem)", "random, shared", "all dimensions"):
        mean = (found["", kind, "demo"][0] + found["", kind, "other"][0]) / 2
        assert found["", kind, "average"][0] == pytest.approx(mean)
    assert len(found) == 3 * 4
    caption = random_sets.caption(table)
    ahead = sum(
        found["", "joint sets (DySem)", task][0] > found["", "random, shared", task][0]
        for task in ("demo", "other")
    )
    assert caption.startswith(f"In {ahead} of 2 tasks the chosen dimensions score more")
    joint = found["", "joint sets (DySem)", "average"][0]
    assert f"with k = 0.25 d, mean over 2 tasks: joint sets (DySem) {joint:.1f}" in caption


def test_the_average_is_over_tasks_that_have_the_same_number_of_languages():
    table = m_table(["a", "b"])
    table = table[~((table["task"] == "b") & (table["m"] == 3))]
    found = shown(sweeps.m_sweep_figure(table, FACTS))
    means = {at: of[0] for at, of in found.items() if at[0] == "average"}
    assert {m for _, _, m in means} == {1, 2}
    for (_, method, m), mean in means.items():
        part = table[[named(row) == method for row in rows(table)]]
        assert mean == pytest.approx(part.loc[part["m"] == m, "spearman"].mean())


# --- components


def test_components_show_every_task_component_and_method():
    table = components_table()
    names = {"resid": "h<sup>L</sup>", "attn": "A<sup>L</sup>", "ffn": "F<sup>L</sup>"}
    names["attn_raw"] = "A<sup>L</sup><br>before<br>post-norm"
    check(
        components.figure(table, FACTS),
        [(row["task"], row["method"], names[row["component"]], row) for row in rows(table)],
    )


def test_the_caption_of_components_by_hand():
    table = tidy(
        task=["a", "b"], component=["resid", "attn"], method=["all dimensions", "DySem, m = 1"]
    )
    #                           a: h, h, A, A   b: h, h, A, A
    table = with_scores(table, [60, 70, 50, 72, 40, 60, 55, 64])
    caption = components.caption(table)
    assert caption == (
        "A^L has the highest average under DySem (as in the paper); its 95 % interval overlaps "
        "with another's in 1 of 2 tasks. Spearman × 100 in English, mean over 2 tasks. "
        "all dimensions: h^L 50.0, A^L 52.5; best in tasks: h^L 1, A^L 1. "
        "DySem, m = 1: h^L 65.0, A^L 68.0; best in tasks: A^L 2."
    )
    other = components.caption(table.assign(component=["attn", "attn", "resid", "resid"] * 2))
    assert other.startswith(
        "h^L has the highest average under DySem (in the paper A^L has); its 95 % interval "
    )
    alone = components.caption(table[table["task"] == "a"])
    assert ". Spearman × 100 in English. all dimensions: h^L 60.0, A^L 50.0. DySem" in alone
    lead = "A^L has the highest score under DySem (as in the paper); its 95 % interval overlaps "
    assert alone.startswith(f"{lead}with that of h^L. ")  # 70 and 72, each with 1 to either side
    apart = components.caption(table[table["task"] == "b"])
    assert apart.startswith(f"{lead}with that of no other. ")


# --- languages


@pytest.mark.parametrize("tasks", [["demo"], ["STSB", "SICKR"]])
def test_languages_show_every_task_setting_and_language(tasks):
    table = languages_table(tasks)
    expected = [
        (
            PROMPTS[row["setting"]]
            if len(tasks) == 1
            else f"{row['task']}, {PROMPTS[row['setting']]}",
            row["setting"],
            row["language"],
            row,
        )
        for row in rows(table)
    ]
    figure = languages.figure(table, FACTS)
    check(figure, expected)
    assert all(axis.categoryorder == "total descending" for axis in figure.select_xaxes())


def test_the_caption_of_languages_by_hand():
    table = with_scores(languages_table(), [70, 60, 65, 10, 30, 20])
    table["rank"] = [1, 3, 2, 3, 1, 2]
    assert languages.caption(table) == (
        "English (in 1 of 2 rankings) scores highest and Japanese (in 1 of 2 rankings) lowest. "
        "Spearman × 100 of the plain cosine in a single language. "
        "English prompts: best en 70.0, worst ja 60.0, order en/ru/ja; "
        "language-specific prompts: best ja 30.0, worst en 10.0, order ja/ru/en."
    )
    two = pd.concat([table.assign(task="STSB"), table.assign(task="SICKR")], ignore_index=True)
    said = languages.caption(two)
    assert "; SICKR, English prompts: best en 70.0, worst ja 60.0; " in said
    assert "order" not in said
    always = languages.caption(table[table["setting"] == "english"])
    assert always.startswith("English scores highest and Japanese lowest. ")


def test_overlap_leaves_the_diagonal_out():
    figure = languages.overlap_figure(overlap_table(), FACTS, 0.0625)
    assert "two random sets of that size: 0.06" in figure.layout.title.subtitle.text
    (heat,) = figure.data
    np.testing.assert_array_equal(
        np.array(heat.z, dtype=float),
        [[np.nan, 0.5, 0.125], [0.5, np.nan, 0.25], [0.125, 0.25, np.nan]],
    )
    assert list(heat.x) == list(heat.y) == ["en", "ja", "ru"]
    assert figure.layout.yaxis.autorange == "reversed"


def test_the_caption_of_overlap_by_hand():
    caption = languages.overlap_caption(overlap_table(), 0.0625)
    # A Jaccard index of 0.29 is that of sets with 45 % in common; 0.125 has two digits here.
    assert numbers(caption) == [45, 12, 0.29, 0.06, 0.5, 0.12]
    assert "closest en and ja 0.50, farthest en and ru 0.12." in caption


# --- sweeps over m and k


@pytest.mark.parametrize("tasks", [["demo"], ["STSB", "SICKR", "a", "b", "c"]])
def test_the_m_sweep_shows_every_row_with_its_interval(tasks):
    table = m_table(tasks)
    figure = sweeps.m_sweep_figure(table, FACTS)
    several = len(tasks) > 1  # of one task, each line has a panel
    methods = [named(row) for row in rows(table)]
    check(
        figure,
        [
            (row["task"] if several else on_two_lines(method), method, row["m"], row)
            for method, row in zip(methods, rows(table), strict=True)
        ],
    )
    areas = bands(figure)
    if several:  # nobody tells the intervals of four lines apart
        assert not areas
        half = (table["high"] - table["low"]).median() / 2
        note = f"95 % intervals are not drawn: in a task about ±{half:.0f}"
        assert note in figure.layout.title.subtitle.text
        return
    assert "shaded: 95 % bootstrap intervals" in figure.layout.title.subtitle.text
    for (setting, vector), part in table.groupby(["setting", "vector"]):
        corners = {
            *zip(part["m"], part["low"], strict=True),
            *zip(part["m"], part["high"], strict=True),
        }
        method = named({"setting": setting, "vector": vector})
        assert areas[on_two_lines(method), method] == corners
    grey = [trace for trace in figure.data if trace.mode == "lines" and trace.fill is None]
    assert len(grey) == 4 * 3


def test_lines_are_drawn_from_left_to_right():
    table = m_table().sample(frac=1, random_state=3)
    for trace in sweeps.m_sweep_figure(table, FACTS).data:
        if "markers" in trace.mode:
            assert list(trace.x) == [1, 2, 3]


def test_the_caption_of_the_m_sweep_by_hand():
    table = tidy(task=["demo"], setting=["english"], m=[1, 2, 3], vector=["mean"])
    caption = sweeps.m_sweep_caption(with_scores(table, [60, 72.26, 70]))
    assert caption == (
        "The best number of languages is 2 (chosen on the labels that it is scored on); with all "
        "3, 0 of 1 settings score below a single language (not tested). "
        "Spearman × 100 against m, languages added best first. English prompts, mean: 60.0 with "
        "m = 1, best 72.3 with m = 2 on 11 dimensions, 70.0 with m = 3."
    )


def test_the_caption_of_the_m_sweep_compares_the_same_tasks_at_every_m():
    table = tidy(task=["a", "b"], setting=["english"], m=[1, 2, 3], vector=["mean"])
    table = with_scores(table, [60, 70, 80, 40, 50, 30], n_dims=20.0)
    english = table.iloc[[0]].assign(task="c", spearman=99.0)
    caption = sweeps.m_sweep_caption(pd.concat([table, english], ignore_index=True))
    assert numbers(caption) == [2, 3, 0, 1, 100, 2, 50, 1, 60, 2, 20, 55, 3]
    assert "against m, mean over 2 tasks, languages added" in caption


def test_of_tasks_with_languages_of_their_own_the_table_speaks():
    facts = Facts(ModelFacts("tiny", "", "", "float32", "cpu", 3, 8, "float32 weights"))
    table = tidy(task=["a", "b"], setting=SETTINGS, m=[1, 2])
    languages = [code for _ in SETTINGS for code in ("en", "en/fr")]
    own = table.assign(languages=[*languages, *(code.replace("fr", "zh/es") for code in languages)])
    said = [
        scores.with_languages(facts, of).settings["languages best first"]
        for of in (table.assign(languages=languages * 2), own)
    ]
    assert said == ["en/fr", "each task's own order, in the table"]
    given = dataclasses.replace(facts, sources=[{"languages": ["en", "fr"]}, {"languages": ["es"]}])
    assert scores.with_languages(given, own).settings["languages best first"] == (
        "each task's own order of en/fr/es, in the table"
    )
    alike = own.assign(task="a", languages=own["languages"].str.removesuffix("/es"))
    of_prompts = scores.with_languages(facts, alike)
    assert of_prompts.settings["languages best first"] == "each prompt's own order, in the table"


@pytest.mark.parametrize("ks", [(0.05, 0.25, 1.0), (3, 8, 64)])
@pytest.mark.parametrize("ms", [(4,), (2, 4)])
def test_the_k_sweep_shows_every_row_at_its_fraction_of_the_width(ks, ms):
    table = k_table(ks=ks, ms=ms)
    figure = sweeps.k_sweep_figure(table, FACTS, 32)
    fraction = dict(zip(ks, (0.05, 0.25, 1.0) if ks[0] < 1 else (3 / 32, 0.25, 1.0), strict=True))
    more = (lambda row: f", m = {row['m']}") if len(ms) > 1 else (lambda row: "")
    methods = [f"{named(row)}{more(row)}" for row in rows(table)]
    check(
        figure,
        [
            (on_two_lines(method), method, fraction[row["k"]], row)
            for method, row in zip(methods, rows(table), strict=True)
        ],
    )
    axis = figure.layout.xaxis
    assert axis.type == "log"
    assert list(axis.tickvals) == sorted(fraction.values())
    assert [text.split("<br>")[1] for text in axis.ticktext] == (
        ["2", "8", "32"] if ks[0] < 1 else ["3", "8", "32"]
    )


def test_the_caption_of_the_k_sweep_by_hand():
    table = tidy(task=["a", "b"], setting=["english"], m=[4], k=[0.5, 0.05], vector=["mean"])
    table = with_scores(table, [70, 50, 60, 46], n_dims=[100, 10, 110, 12.0])
    assert sweeps.k_sweep_caption(table) == (
        "k = 0.5 is the smallest with which every setting is within 1 of its best score. "
        "Spearman × 100 against k. English prompts, mean, m = 4, mean over 2 tasks: 48.0 on 11 "
        "dimensions (k = 0.05), best 65.0 on 105 (k = 0.5)."
    )
    alone = sweeps.k_sweep_caption(table[table["task"] == "a"].assign(k=[1024, 16]))
    assert alone.endswith(
        "English prompts, mean, m = 4: 50.0 on 10 dimensions (k = 16), best 70.0 on 100 (k = 1024)."
    )


# --- prompt setting and vector


def test_prompt_and_vector_show_every_row():
    table = prompt_vector_table()
    check(
        sweeps.prompt_vector_figure(table, FACTS),
        [("", named(row), row["task"], row) for row in rows(table)],
    )


def test_the_caption_of_prompt_and_vector_by_hand():
    table = tidy(task=["a", "b"], setting=SETTINGS, vector=["mean"])
    table = with_scores(table, [60, 70, 62, 76], n_dims=[200, 100, 220, 140.0])
    assert sweeps.prompt_vector_caption(table) == (
        "Language-specific prompts with the mean vector score highest of the two (not tested). "
        "Spearman × 100, mean over 2 tasks: language-specific prompts, mean 73.0 (#Dim. 120), "
        "English prompts, mean 61.0 (#Dim. 210)."
    )


# --- layers


def test_layers_are_counted_from_one_and_every_row_is_shown():
    table = layers_table()
    figure = layers.figure(table, FACTS)
    check(
        figure,
        [(on_two_lines(named(row)), row["kind"], row["layer"] + 1, row) for row in rows(table)],
    )
    assert {x for _, _, x in shown(figure)} == {1, 2, 3, 4}
    for (where, kind), points in bands(figure).items():
        part = table[[on_two_lines(named(row)) == where for row in rows(table)]]
        part = part[part["kind"] == kind]
        blocks = part["layer"] + 1
        corners = {*zip(blocks, part["low"], strict=True), *zip(blocks, part["high"], strict=True)}
        assert points == corners
    assert len(bands(figure)) == 8


def test_layers_of_several_tasks_are_their_average_and_a_thin_line_for_each():
    table = layers_table(tasks=["a", "b"])
    figure = layers.figure(table, FACTS)
    assert [axis.title.text for axis in figure.select_xaxes()] == ["layer"] * 4
    thin = [trace for trace in figure.data if trace.name in ("a", "b")]
    assert len(thin) == 2 * 2 * 2 * 2
    drawn = {(trace.name, tuple(trace.x), tuple(trace.y)) for trace in thin}
    for (task, *_), part in table.groupby(["task", "setting", "vector", "kind"]):
        assert (task, tuple(part["layer"] + 1), tuple(part["spearman"])) in drawn
    figure.data = [trace for trace in figure.data if trace.name not in ("a", "b")]
    found = shown(figure)
    assert len(found) == 2 * 2 * 2 * 4
    means = table.groupby(["setting", "vector", "kind", "layer"])["spearman"].mean()
    for row in rows(table):
        mean = means[row["setting"], row["vector"], row["kind"], row["layer"]]
        where = named(row).replace(", ", ",<br>", 1)
        assert found[where, row["kind"], row["layer"] + 1][0] == pytest.approx(mean)


def test_layers_of_one_setting_have_a_panel_per_task():
    table = layers_table(tasks=["a", "b"], settings=["english"])
    table = table[table["vector"] == "mean"]
    figure = layers.figure(table, FACTS)
    assert {where for where, _, _ in shown(figure)} == {"a", "b", "average"}
    # One range of scores, so that the eye can compare panels.
    assert [axis.matches for axis in figure.select_yaxes()] == ["y"] * 3


def test_the_caption_of_layers_by_hand():
    table = tidy(
        task=["demo"],
        setting=SETTINGS,
        vector=["mean"],
        kind=["layer-wise", "cumulative"],
        layer=range(3),
    )
    scores = [10, 42, 20, 10, 45.16, 40, 50, 60, 62, 50, 55, 65]
    assert layers.caption(with_scores(table, scores)) == (
        "The sum over all layers scores higher than every single layer in 1 of 2 settings (not "
        "tested; in the paper it does). Spearman × 100. English prompts, mean: all layers summed "
        "40.0, best sum 45.2 (to layer 2 of 3), best single layer 42.0 (layer 2); "
        "language-specific prompts, mean: all layers summed 65.0, best sum 65.0 (to layer 3 of "
        "3), best single layer 62.0 (layer 3)."
    )
    two = pd.concat([with_scores(table, scores), with_scores(table, scores).assign(task="b")])
    assert "Spearman × 100, mean over 2 tasks. English" in layers.caption(two)


# --- templates


@pytest.mark.parametrize("tasks", [["STSB"], ["STSB", "SICKR"]])
def test_templates_show_every_row_of_both_tables(tasks):
    table, plain = templates_table(tasks), plain_table(tasks)
    names = {
        "prompteol": "PromptEOL",
        "pretended_cot": "Pretended CoT",
        "knowledge": "Knowledge Enhancement",
    }
    symbols = {"final": "N(h<sup>L</sup>)", "attn": "A<sup>L</sup>"}

    def place(row, method):
        task, template = row["task"], names[row["template"]]
        return ("", method, template, row) if len(tasks) == 1 else (template, method, task, row)

    expected = [place(row, named(row)) for row in rows(table)]
    expected += [place(row, f"{symbols[row['component']]}, English, all d") for row in rows(plain)]
    check(sweeps.templates_figure(table, plain, FACTS), expected)


def test_in_english_alone_templates_show_dysem_once():
    table, plain = templates_table(["STSB", "SICKR"]), plain_table(["STSB", "SICKR"])
    same = table.groupby(["task", "template"])["spearman"].transform("first")
    table = table.assign(m=1, languages="en", spearman=same)
    figure = sweeps.templates_figure(table, plain, FACTS)
    found = {name: value[0] for (_, name, _), value in shown(figure).items() if "DySem" in name}
    assert list(found) == ["DySem, m = 1"]
    best = table[table["template"] == "prompteol"].groupby("task")["spearman"].first().mean()
    caption = sweeps.templates_caption(table, plain)
    assert f"DySem at best {best:.1f} (m = 1)" in caption


def test_the_caption_of_templates_by_hand():
    table = tidy(
        task=["a", "b"], template=["prompteol", "my {text}"], setting=SETTINGS, vector=["mean"]
    )
    table = with_scores(table.assign(languages="en/fr"), [60, 70, 80, 75, 62, 76, 70, 73])
    plain = tidy(
        task=["a", "b", "c"], template=["prompteol", "my {text}"], component=["final", "attn"]
    )
    # Task c has no row under DySem, so it stays out of the means.
    plain = with_scores(plain, [50, 40, 30, 20, 52, 44, 36, 28, 99, 99, 99, 99])
    assert sweeps.templates_caption(table, plain) == (
        "Under 2 of 2 prompts DySem at its best is above the plain cosine (not tested). "
        "Spearman × 100, mean over 2 tasks. PromptEOL: A^L 42.0, N(h^L) 51.0, DySem at best 73.0 "
        "(language-specific prompts, mean); my {text}: A^L 24.0, N(h^L) 33.0, DySem at best 75.0 "
        "(English prompts, mean)."
    )


# --- scores at the edge


def test_scores_below_zero_stay_inside_the_axis():
    table = prompt_vector_table()
    table[["spearman", "low", "high"]] -= 40
    figure = sweeps.prompt_vector_figure(table, FACTS)
    bottom, top = figure.layout.yaxis.range
    assert bottom < table["low"].min()
    assert top > table["high"].max()
    table = decomposition_table()
    table[["spearman", "low", "high"]] -= 40
    left, right = decomposition.figure(table, FACTS).layout.xaxis.range
    assert left <= table["low"].min()
    assert right > table["high"].max()


def test_a_score_that_does_not_exist_leaves_a_gap():
    table = prompt_vector_table()
    table.loc[2, ["spearman", "low", "high"]] = np.nan
    found = shown(sweeps.prompt_vector_figure(table, FACTS))
    row = table.loc[2]
    method = named(row)
    of_tasks = {key: values for key, values in found.items() if key[2] != "average"}
    missing = [key for key, values in of_tasks.items() if np.isnan(values).any()]
    assert missing == [("", method, row["task"])]
    averaged = {key[1] for key in found if key[2] == "average"}
    assert averaged == {f"{PROMPTS[s]}, {v}" for s, v in itertools.product(SETTINGS, VECTORS)} - {
        method
    }
