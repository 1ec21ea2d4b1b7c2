"""Contrasts in studies, their tables and figures, and Contrastive Prompting under DySem."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import torch

from dysem_lab.data.sts import load_data
from dysem_lab.encoders.contrastive import ContrastivePrompting
from dysem_lab.encoders.dysem import DySem
from dysem_lab.errors import InputError
from dysem_lab.evaluate import average_difference, holm, paired_difference
from dysem_lab.models import capture
from dysem_lab.models.steering import Contrast
from dysem_lab.models.store import VectorStore
from dysem_lab.questions import (
    contrast,
    contrast_dysem,
    contrast_rows,
    contrast_sweeps,
    layer_alpha,
)
from dysem_lab.questions.contrast import contrast_scores
from dysem_lab.questions.contrast_rows import contrast_row
from dysem_lab.questions.layer_alpha import best_setting, chosen_and_oracle
from dysem_lab.questions.needs import capture_needs
from dysem_lab.questions.published import published_cp
from dysem_lab.questions.scores import certain
from dysem_lab.questions.study import Study, named_layers

pytestmark = pytest.mark.usefixtures("_one_thread")

NS, NR = Contrast(1, "scaling", 2.0), Contrast(1, "recovering")


@pytest.fixture(scope="module")
def few():
    """Return twelve pairs of the demo set."""
    return load_data("demo", languages=("en", "de", "fr")).head(12)


@pytest.fixture
def store(tmp_path):
    return VectorStore(tmp_path / "v.sqlite")


NAMES = "STSB dev", "STSB test"
CONTRASTS, OUTPUT_LAYERS = [None, NS, NR], ["penultimate", "final"]


def make(lens, data, store, **options):
    return Study(lens, data, store=store, **{"settings": "english", **options})


def need(study, contrasts=CONTRASTS, output_layers=OUTPUT_LAYERS):
    return study.needs((), output_layers=output_layers, contrasts=contrasts)


def cosine_scores(encode, data):
    """Return Spearman × 100 of an encoder, by numpy and scipy."""
    first, second = (
        np.asarray(encode(list(side)), dtype=np.float64) for side in data.sentences["en"]
    )
    norms = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    return 100 * scipy.stats.spearmanr((first * second).sum(1) / norms, data.gold).statistic


def test_a_table_has_the_scores_of_the_encoder_and_gains_over_the_plain_prompt(
    tiny_lens, few, store
):
    templates = ["prompteol", "pretended_cot", "knowledge"]
    study = make(tiny_lens, few, store, templates=templates)
    table = contrast_scores(study, CONTRASTS, OUTPUT_LAYERS, templates=[*templates, "ck"])
    assert len(table) == 4 * 2 * 3
    for row in table[table["method"] != "plain"].itertuples():
        encoder = ContrastivePrompting(
            tiny_lens,
            layer=1,
            norm=row.norm,
            alpha=2.0,
            output_layer=row.output_layer,
            template=row.template,
        )
        assert row.spearman == pytest.approx(cosine_scores(encoder.encode, few), abs=0.5)
        plain = table[
            (table["method"] == "plain")
            & (table["template"] == row.template)
            & (table["output_layer"] == row.output_layer)
        ]
        assert row.gain == pytest.approx(row.spearman - plain["spearman"].item())
        assert row.gain_low <= row.gain <= row.gain_high
    assert table.loc[table["method"] == "plain", "gain"].isna().all()
    assert set(table["method"]) == {"plain", "CP-NS", "CP-NR"}


def test_a_study_embeds_what_the_encoder_embeds(tiny_lens, few, store):
    study = make(tiny_lens, few, store, templates=["ck"])
    assert study.templates == ["pretended_cot", "knowledge"]
    output_layers = named_layers("all", CONTRASTS, study.n_layers)
    assert output_layers == [2, 3, "final"]
    (task,) = study.data
    for output_layer in output_layers:
        encoder = ContrastivePrompting(tiny_lens, 1, output_layer=output_layer, template="ck")
        expected = encoder.encode(study.texts(task, "en")).vectors
        found = study.embeddings(task, output_layer, template="ck", contrast=NS)
        assert torch.allclose(found, expected, rtol=1e-4, atol=1e-4)
    last = study.embeddings(task, "last", template="knowledge")
    assert torch.equal(last, study.vectors(task, "resid", template="knowledge")[:, 0])


def test_one_pass_serves_all_contrasts_of_the_last_token(tiny_lens, few, store, monkeypatch):
    scaled = Contrast(0, "self_scaling", 0.5)
    some = need(make(tiny_lens, few, store), [None, NS, NR, scaled])
    prompts = len(set(few.texts("en")))
    plan = some.plan()
    assert plan["passes"].sum() == 2 * prompts  # self scaling changes every token
    assert capture_needs([some], progress=False)["passes"].sum() == 2 * prompts
    assert some.plan()["passes"].sum() == 0
    wider = need(make(tiny_lens, few, store), [None, NS, NR, Contrast(0, "scaling", 3.0)])
    assert wider.plan()["passes"].sum() == prompts
    monkeypatch.setattr(capture, "fill", lambda *_, **__: pytest.fail("a whole pass was made"))
    capture_needs([wider], progress=False)
    assert wider.plan()["passes"].sum() == 0


def test_a_plan_counts_what_an_earlier_study_will_have_captured(tiny_lens, few, store):
    planned = set()
    first = need(make(tiny_lens, few, store)).plan(planned)
    assert first["passes"].sum() > 0
    assert need(make(tiny_lens, few, store)).plan(planned)["passes"].sum() == 0
    other = need(make(tiny_lens, few, store), [None, replace(NS, alpha=3.0)])
    assert other.plan(planned)["passes"].sum() == first["passes"].sum()


def test_contrasts_that_a_study_cannot_have_are_refused(tiny_lens, few, store):
    with pytest.raises(InputError, match="auxiliary prompts are in English only"):
        need(make(tiny_lens, few, store, settings=["english", "language-specific"]))
    with pytest.raises(InputError, match="output_layer 1 is read before block 1"):
        need(make(tiny_lens, few, store), output_layers=[1])
    with pytest.raises(InputError, match="needs None among its contrasts"):
        contrast_scores(make(tiny_lens, few, store), [NS])
    with pytest.raises(InputError, match="auxiliary prompts are in English only"):
        DySem(tiny_lens, ("en",), k=8, contrast=NS)


def test_an_average_over_tasks_is_the_mean_of_their_scores(tiny_lens, few, store):
    halves = {"one": few.select(range(6)), "other": few.select(range(6, 12))}
    table = contrast_scores(make(tiny_lens, halves, store), CONTRASTS, ["last"])
    means = table[table["task"] != "Avg."].groupby("method", sort=False)[["spearman", "gain"]]
    averages = table[table["task"] == "Avg."].set_index("method")
    for method, row in means.mean().iterrows():
        assert averages.loc[method, "spearman"] == pytest.approx(row["spearman"])
        if method != "plain":
            assert averages.loc[method, "gain"] == pytest.approx(row["gain"])
            assert averages.loc[method, "gain_low"] <= averages.loc[method, "gain_high"]


def test_gains_are_certain_only_after_holm_over_all_of_the_table(tiny_lens, few, store):
    halves = {"one": few.select(range(6)), "other": few.select(range(6, 12))}
    table = contrast_scores(make(tiny_lens, halves, store), CONTRASTS, ["last"])
    for is_mean, part in table.groupby(table["task"] == "Avg."):
        p = part.loc[part["method"] != "plain", "gain_p"].to_numpy()
        assert set(part["n_compared"]) == {len(p)} == {2 if is_mean else 4}
        order, worst = np.argsort(p, kind="stable"), 0.0
        for rank, i in enumerate(order):  # by the definition of the step-down method
            worst = max(worst, min(1.0, (len(p) - rank) * p[i]))
            found = part.loc[part["method"] != "plain", "gain_p_holm"].to_numpy()[i]
            assert found == pytest.approx(worst)
    sure = pd.DataFrame(
        {"gain": [1.0, -1.0, 2.0, np.nan], "gain_p_holm": [0.04, 0.01, 0.06, np.nan]}
    )
    assert certain(sure) == (1, 1)


def test_prompts_with_other_contrasts_are_corrected_together(tiny_lens, few, store):
    study = make(tiny_lens, few, store, templates=["prompteol", "knowledge"])
    both = {"prompteol": (0, 2.0), "knowledge": (1, 3.0)}
    table = contrast.contrast_gains(study, both, ["last"]).table
    assert set(table["n_compared"]) == {4}
    found = table[table["method"] != "plain"]
    assert found["gain_p_holm"].tolist() == pytest.approx(holm(found["gain_p"].to_numpy()))


def test_the_difference_over_one_task_is_the_paired_difference():
    generator = np.random.default_rng(0)
    gold = generator.normal(size=60)
    a, b = gold + generator.normal(size=60), gold + 2 * generator.normal(size=60)
    a[3] = np.nan
    one = paired_difference(a, b, gold)
    average = average_difference([(a, b, gold)])
    for name in ("difference", "low", "high", "p"):
        assert average[name] == pytest.approx(one[name])
    two = average_difference([(a, b, gold), (b, a, gold)])
    assert two["difference"] == pytest.approx(0)
    assert two["low"] < 0 < two["high"]
    assert np.isnan(average_difference([])["difference"])


def rows_of(scores, template="prompteol"):
    """Return a table as `contrast_scores` makes it, with these scores of layers × alphas."""
    rows = [
        {
            "task": "t",
            "template": template,
            "output_layer": 3,
            **contrast_row(contrast),
            "spearman": value,
            "low": value - 1,
            "high": value + 1,
            "gain": value - 50.0 if contrast else np.nan,
            "gain_low": value - 51.0 if contrast else np.nan,
            "gain_high": value - 49.0 if contrast else np.nan,
            "gain_p": 0.01 if contrast and abs(value - 50) > 1 else np.nan,
            "gain_p_holm": 0.04 if contrast and abs(value - 50) > 1 else np.nan,
            "n_compared": len(scores) - 1,
            "repeated": False,
        }
        for contrast, value in scores.items()
    ]
    return pd.DataFrame(rows)


def test_the_best_setting_of_a_search_makes_an_encoder(tiny_lens):
    by_alpha = {Contrast(1, "scaling", a): s for a, s in ((0.5, 49.0), (2.0, 53.5), (3.0, 52.0))}
    table = rows_of({None: 50.0, **by_alpha, Contrast(0, "recovering", heads=(1, 3)): 51.0})
    best = best_setting(table)
    assert (best["layer"], best["norm"], best["alpha"]) == (1, "scaling", 2.0)
    encoder = ContrastivePrompting(tiny_lens, **best)
    assert encoder.contrast == Contrast(1, "scaling", 2.0)
    assert encoder.output_layer == 3
    only = best_setting(table[table["norm"] != "scaling"])
    assert ContrastivePrompting(tiny_lens, **only).contrast.heads == (1, 3)
    with pytest.raises(InputError, match="contrasts on one task"):
        best_setting(table[table["method"] == "plain"])


def test_dev_chooses_and_test_reports(tiny_lens):
    settings = [Contrast(0, "scaling", 1.0), Contrast(1, "scaling", 1.0), Contrast(1, "recovering")]
    dev = rows_of(dict(zip([None, *settings], [50.0, 51.0, 55.0, 52.0], strict=True)))
    test = rows_of(dict(zip([None, *settings], [60.0, 63.0, 61.0, 62.0], strict=True)))
    reported = chosen_and_oracle(dev, test).set_index("chosen_on")
    assert reported.loc["dev", "spearman"] == 61.0
    assert reported.loc["dev", "layer"] == 1
    assert reported.loc["test", "spearman"] == 63.0


def test_what_dev_chose_is_corrected_for_the_number_of_choices(tiny_lens):
    tables = []
    for name, p in (("prompteol", 0.02), ("knowledge", 0.04)):
        table = rows_of({None: 50.0, NS: 53.0, Contrast(0, "scaling", 1.0): 49.0}, name)
        tables.append(table.assign(gain_p=p, gain_p_holm=1.0))
    dev = pd.concat(tables, ignore_index=True)
    reported = chosen_and_oracle(dev, dev)
    of_dev = reported[reported["chosen_on"] == "dev"]
    assert of_dev["gain_p_holm"].tolist() == [0.04, 0.04]  # 2 × 0.02, and not below it
    assert of_dev["n_compared"].tolist() == [2, 2]
    assert (reported[reported["chosen_on"] == "test"]["gain_p_holm"] == 1.0).all()
    assert "for certain, under 2 of 2 prompts" in layer_alpha.caption(dev, reported)


def test_dysem_on_steered_vectors(tiny_lens, few, store):
    study = make(
        tiny_lens,
        few,
        store,
        languages=["en", "de", "fr"],
    )
    table = contrast_dysem.table(study, ["en", "de", "fr"], [NS, None], ("attn", "resid"), 0.5, 0)
    sure = table[table["vector"].isin(["source", "mean"]) & (table["gain_p_holm"] < 0.05)]
    up, down = (sure["gain"] > 0).sum(), (sure["gain"] < 0).sum()
    assert contrast_dysem.caption(table).startswith(
        f"On top of DySem, CP gains in {up} and loses in {down} of 4 comparisons for certain"
    )
    assert len(table) == 2 * 2 * 3
    for component, vector in (("attn", "source"), ("resid", "mean")):
        dysem = DySem(
            tiny_lens,
            ("en", "de", "fr"),
            k=0.5,
            component=component,
            setting="english",
            vector=vector,
            contrast=NS,
        )
        sides = [
            dysem.encode(
                few.sentences["en"][i], renderings={c: few.sentences[c][i] for c in ("de", "fr")}
            )
            for i in (0, 1)
        ]
        similarity = dysem.similarity_pairwise(*sides).numpy()
        expected = 100 * scipy.stats.spearmanr(similarity, few.gold).statistic
        row = table[
            (table["component"] == component)
            & (table["vector"] == vector)
            & (table["method"] == "CP-NS")
        ]
        assert row["spearman"].item() == pytest.approx(expected, abs=0.5)
        assert row["gain_low"].item() <= row["gain"].item() <= row["gain_high"].item()


def test_a_dysem_configuration_with_a_contrast_comes_back(tiny_lens, tmp_path):
    dysem = DySem(tiny_lens, ("en",), k=8, setting="english", contrast=NR)
    dysem.save(tmp_path / "d.json")
    again = DySem.load(tmp_path / "d.json", tiny_lens)
    assert again.contrast == NR
    plain = DySem(tiny_lens, ("en",), k=8, setting="english").encode(["A dog sleeps."])
    assert torch.equal(
        again.encode(["A dog sleeps."]).vectors, dysem.encode(["A dog sleeps."]).vectors
    )
    assert not torch.equal(again.encode(["A dog sleeps."]).vectors, plain.vectors)


def test_figures_show_the_numbers_and_captions_say_them():
    scores = {Contrast(layer, "scaling", a): 50 + layer + a for layer in (0, 1) for a in (1.0, 2.0)}
    table = rows_of({None: 50.0, **scores, Contrast(0, "recovering"): 47.0})
    heat = layer_alpha.figure(table, "measured")
    cells = {text for trace in heat.data for row in trace.text for text in row}
    assert {"51.0", "53.0*", "47.0*", "52.0*", ""} == cells
    assert "the score (gain: * p &lt; 0.05 by Holm over 5" in heat.layout.title.subtitle.text
    on_test = table.assign(spearman=table["spearman"] - 1, gain=table["gain"] - 1)
    on_test[["gain_low", "gain_high"]] -= 1
    said = layer_alpha.caption(table, chosen_and_oracle(table, on_test))
    assert said.startswith(
        "The chosen setting gains on new pairs too, for certain, under 1 of 1 prompt (p < 0.05 "
        "after Holm over these). On the pairs that it was chosen on, the gain is certain for 3 of "
    )
    assert "at best 53.00 (CP-NS, block 2, α = 2; gain +3.00 [2.00, 4.00]), which on" in said
    assert said.endswith("which on the other pairs gains +2.00 [1.00, 3.00].")
    two = pd.concat([table, table.assign(task="u", spearman=table["spearman"] + 1)])
    with pytest.raises(InputError, match="one task, but the table has 2"):
        layer_alpha.figure(two, "measured")

    variants = rows_of(
        {
            None: 50.0,
            **{replace(NS, auxiliary=a): s for a, s in (("entity", 48.5), ("background", 52.0))},
        }
    )
    caption = contrast_sweeps.variants_caption(variants, "auxiliary")
    assert "from -1.50 (the entity or relation; CP-NS) to +2.00 (the background; CP-NS)" in caption
    assert "1 of 2 certainly above and 1 below" in caption
    assert caption.startswith(
        "Of 2 comparisons 1 gain and 1 lose for certain (p < 0.05 after Holm). "
    )
    shown = contrast_sweeps.variants_figure(variants, "auxiliary", "title", "measured")
    assert sorted(shown.data[0].x) == [-1.5, 2.0]

    main = contrast.figure(table, "measured")
    assert any("53.00<br>+3.00*" in text for row in main.data[0].text for text in row)
    assert "by Holm over 5 cells)" in main.layout.title.subtitle.text
    assert "-3.00" in contrast.caption(table)
    mean = table.assign(task="Avg.", n_compared=7)
    both = contrast.figure(pd.concat([table, mean]), "measured")
    assert "by Holm over 5 cells; averages over 7)" in both.layout.title.subtitle.text


@pytest.mark.parametrize(("far", "beyond"), [(-30.0, True), (-6.6, False), (-2.0, False)])
def test_a_triangle_stands_at_the_edge_where_a_gain_is_beyond_it_and_nowhere_else(far, beyond):
    # The edge is at -6, and an interval that begins before it ends at -6.5.
    each = {"entity": far, "sentiment": -5.5, "background": 1.0, "redundant": 0.8}
    each["descriptive"] = -0.5
    contrasts = {replace(NS, auxiliary=name): 50.0 + gain for name, gain in each.items()}
    table = rows_of({None: 50.0, **contrasts})
    drawn = contrast_sweeps.variants_figure(table, "auxiliary", "title", "measured")
    low, high = drawn.layout.xaxis.range
    assert low < 0 < high
    points, *legend = drawn.data
    is_triangle = [symbol == "triangle-left" for symbol in points.marker.symbol]
    assert is_triangle == [gain < low for gain in each.values()] == [beyond, *[False] * 4]
    assert points.x[0] == pytest.approx(low if beyond else far)
    assert points.text[0].strip() == (f"{far:+.1f}*" if beyond else "")
    stars, *legend = legend  # of the others whose gain is certain: all but those within 1 of plain
    assert [text.strip() for text in stars.text] == ["" if beyond else "*", "*", "", "", ""]
    assert list(stars.x) == pytest.approx(
        [gain + 1 for gain in each.values()]
    )  # at the end of the interval
    assert any("beyond the edge" in trace.name for trace in legend) == beyond
    for gain, start in zip(each.values(), points.error_x.arrayminus, strict=True):
        assert gain < low or low < gain - start  # whole intervals are inside


class Normed:
    """Stands for a model with norms after its modules."""

    post_norms, n_layers, name = True, 4, "normed"


class Bare(Normed):
    """Stands for a model without them."""

    post_norms = False


def test_settings_that_a_norm_makes_one_are_one_comparison():
    """Two blocks with five settings each, of which α = -1 alone is another one."""
    p = {None: np.nan}
    for layer, of_block in ((1, 0.01), (2, 0.02)):
        for alpha in (0.5, 2.0, 4.0):
            p[Contrast(layer, "scaling", alpha)] = of_block
        p[Contrast(layer, "scaling", -1.0)] = 0.001 * layer
        p[Contrast(layer, "recovering")] = of_block + 1e-4  # which rounding makes another one
    table = rows_of(dict.fromkeys(p, 52.0)).assign(gain_p=list(p.values()))
    once = contrast_rows.once(table, Normed())
    assert set(once["n_compared"]) == {4}
    assert once["repeated"].tolist() == [False, *[False, True, True, False, True] * 2]
    # By hand: 0.001 × 4, 0.002 × 3, 0.01 × 2, 0.02 × 1.
    expected = [0.02, 0.02, 0.02, 0.004, 0.02, 0.02, 0.02, 0.02, 0.006, 0.02]
    assert once["gain_p_holm"].tolist()[1:] == pytest.approx(expected)
    assert np.isnan(once["gain_p_holm"][0])
    assert once["gain_p"].equals(table["gain_p"])
    said = layer_alpha.caption(once, chosen_and_oracle(once, once))
    assert "the gain is certain for 4 of 4 settings" in said
    assert "A norm undoes α, so CP-NS and CP-NR are one setting, which is counted once." in said
    drawn = layer_alpha.figure(once, "measured").data[0]
    assert list(drawn.x) == ["either norm,<br>any α", "α=-1"]
    each = contrast_rows.once(table, Bare())
    assert each["gain_p_holm"].tolist()[1:] == pytest.approx(holm(table["gain_p"][1:].to_numpy()))
    assert not each["repeated"].any()
    assert "norm undoes" not in layer_alpha.caption(each, chosen_and_oracle(each, each))


def test_settings_are_one_only_where_a_norm_follows_what_is_patched_in():
    places = ("heads", "ffn", "hidden", "released_ffn")
    scores = {None: 50.0}
    for position in places:
        of_norm = replace(NS, position=position), replace(NR, position=position)
        scores |= dict(zip(of_norm, (47.0, 47.01), strict=True))
    scores |= {replace(NS, heads=(0,)): 48.0, replace(NR, heads=(0,)): 49.0}
    scores |= {replace(NS, norm="head_recovering"): 48.0, replace(NS, norm="self_scaling"): 48.0}
    table = rows_of(scores).assign(gain_p=[np.nan, *[0.001] * 12])
    once = contrast_rows.once(table, Normed())
    one = once[once["repeated"]]
    assert one[["position", "method", "heads"]].to_numpy().tolist() == [
        ["heads", "CP-NR", ""],
        ["ffn", "CP-NR", ""],
    ]
    assert (once["n_compared"] == 10).all()
    # What is read before the norm has the factor; the rest of the block, and other blocks, do not.
    for where, repeated in (
        ("attn_raw.1", ["ffn"]),
        ("attn_raw.0-1", ["ffn"]),
        ("attn_raw.2", ["heads", "ffn"]),
        ("attn.1", ["heads", "ffn"]),
        ("ffn_raw.1", ["heads"]),
        ("final", ["heads", "ffn"]),
    ):
        read = contrast_rows.once(table.assign(output_layer=where), Normed())
        assert read.loc[read["repeated"], "position"].tolist() == repeated, where
    both = table[table["position"].isin(["", "heads"]) & (table["heads"] == "")].head(3)
    components = pd.concat(
        [both.assign(component=name, vector="mean") for name in ("attn", "attn_raw")],
        ignore_index=True,
    )
    found = contrast_rows.once(components.drop(columns="output_layer"), Normed())
    assert found["repeated"].tolist() == [False, False, True, False, False, False]


def test_captions_and_figures_have_settings_that_are_one_once():
    positions = {None: 50.0}
    for position, gains in (("heads", (-3.0, -3.01)), ("hidden", (-9.0, -7.0))):
        norms = replace(NS, position=position), replace(NR, position=position)
        positions |= {one: 50 + gain for one, gain in zip(norms, gains, strict=True)}
    table = contrast_rows.once(
        rows_of(positions).assign(gain_p=[np.nan, 0.01, 0.01, 0.02, 0.03]), Normed()
    )
    said = contrast_sweeps.variants_caption(table, "position")
    assert said.startswith(
        "Of 3 comparisons 0 gain and 3 lose for certain (p < 0.05 after Holm). A norm undoes α at "
        "the heads, so CP-NS and CP-NR are one setting, which is counted once. "
    )
    drawn = contrast_sweeps.variants_figure(table, "position", "title", "measured")
    marks = {trace.name: list(trace.y) for trace in drawn.data if trace.mode == "markers+text"}
    assert marks == {
        "CP (either norm)": ["heads"],
        "CP-NS": ["hidden"],
        "CP-NR": ["hidden"],
    }
    under = drawn.layout.title.subtitle.text.replace("<br>", " ")
    assert "whiskers: 95 % bootstrap intervals, * p &lt; 0.05 by Holm over 3 comparisons" in under
    assert "either norm: both are one setting, as a norm undoes α" in under

    both = table[table["position"] != "hidden"]
    main = contrast.figure(both, "measured").data[0]
    assert list(main.y) == [
        "PromptEOL, plain, block 3",
        "PromptEOL, CP (either norm) block 2, block 3",
    ]
    caption = contrast.caption(both)
    assert caption.startswith("Of 1 comparison with the plain prompt at the same output layer, CP ")
    assert "by -3.00 at best (PromptEOL, CP (either norm), read after block 3)" in caption
    lines = contrast_sweeps.output_layers_figure(both, "measured")
    assert {trace.name for trace in lines.data if trace.name} == {"plain", "CP (either norm)"}
    caption = contrast_sweeps.output_layers_caption(both)
    assert caption.startswith("At the same output layer CP is above the plain prompt in 0 and ")
    assert "below in 1 of 1." in caption


def test_panels_that_are_compared_have_one_range():
    parts = [
        rows_of({None: 50.0, NS: 50.0 + gain, NR: 50.0}, template)
        for template, gain in (("prompteol", -1.0), ("knowledge", 2.5))
    ]
    table = pd.concat(parts, ignore_index=True)
    drawn = contrast_sweeps.variants_figure(table, "auxiliary", "title", "measured")
    assert drawn.layout.xaxis.range == drawn.layout.xaxis2.range
    assert drawn.layout.xaxis.range[1] > 3.5
    lines = contrast_sweeps.output_layers_figure(table, "measured").layout
    assert (lines.yaxis2.matches, lines.yaxis4.matches) == ("y", "y3")


def test_the_table_of_a_search_names_the_pairs_that_chose(tiny_lens, few, store):
    halves = [few.select(range(i, i + 6)) for i in (0, 6)]
    dev, test = (replace(half, name=name) for half, name in zip(halves, NAMES, strict=True))
    studies = [make(tiny_lens, {"STSB": pairs}, store) for pairs in (dev, test)]
    found = layer_alpha.layer_alpha(*studies, layers=[0, 1], alphas=[1.0, 2.0])
    assert set(found.table["task"]) == {"STSB dev"}
    assert found.facts.label == "STSB dev"


def test_of_two_equal_lines_the_one_behind_is_seen_through_the_other():
    table = rows_of({None: 50.0, NS: 52.0, NR: 52.0})
    later = table.assign(output_layer=4)
    drawn = contrast_sweeps.output_layers_figure(pd.concat([table, later]), "measured")
    lines = {trace.name: trace for trace in drawn.data if trace.mode == "lines+markers"}
    assert lines["plain"].line.dash == lines["CP-NS"].line.dash == "solid"
    assert lines["CP-NR"].line.dash == "dot"
    assert lines["CP-NR"].marker.symbol.endswith("-open")
    assert list(lines) == ["plain", "CP-NS", "CP-NR"]  # the last one is in front


def test_the_published_tables_of_cp_are_there():
    assert set(published_cp()["table"]) == {"3", "4", "5", "6"}
    cost = published_cp("3").set_index("method")["value"]
    assert (cost["PromptEOL"], cost["PromptEOL+CP"]) == (27, 31)
    with pytest.raises(InputError, match="unknown table of CP '7'"):
        published_cp("7")
