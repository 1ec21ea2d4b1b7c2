"""The explorers as static pages: what is written, and what a real browser makes of it.

Screenshots go to build/screenshots, to be looked at.
"""

import base64
import itertools
import json
import re
import shutil

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import dysem_lab as dl
from dysem_lab.cli import cli
from dysem_lab.errors import InputError
from dysem_lab.models.readout import dimension_lens
from dysem_lab.pages.export import FILES, export_explorer, is_whole
from dysem_lab.pages.packed import packed_sets, packed_vectors
from dysem_lab.questions.scale import scale
from tests.conftest import REPOSITORY
from tests.notebooks.keyboard import check_walk
from tests.notebooks.test_browser import CHROMIUM, FLAGS, SCREENSHOTS

LANGUAGES = ("en", "fr", "de", "ja", "ar")
PAIRS = (0, 1, 3, 4, 13, 16, 130)  # of several phenomena
NAME = "tiny"


def piece(out, name):
    """Return a piece of data, as a script hands it to the page."""
    script = (out / "data" / f"{name}.js").read_text(encoding="utf-8").splitlines()[1]
    found, value = json.loads(f"[{script.removeprefix('dysem.take(').removesuffix(');')}]")
    assert found == name
    return value


def unpacked(packed):
    """Return vectors and signs of a file."""
    mean, halves, rest, positive = (
        np.frombuffer(base64.b64decode(packed[name]), kind)
        for name, kind in (("mean", "<f4"), ("halves", "<f2"), ("rest", "i1"), ("positive", "u1"))
    )
    following = np.nextafter(np.abs(halves), np.float16(np.inf)).astype(float) - np.abs(halves)
    left = (halves + following * rest / 256) * packed["scale"]
    left = left.reshape(-1, len(mean))
    bits = np.unpackbits(positive.reshape(len(left), -1), axis=1, bitorder="little")
    bits = bits[:, : len(mean)].astype(bool)
    return torch.from_numpy(mean + left), torch.from_numpy(bits)


def study_of(lens, folder, pairs=PAIRS):
    data = dl.load_data("demo", languages=LANGUAGES).select(list(pairs))
    return dl.Study(lens, data, languages=LANGUAGES, store=dl.VectorStore(folder / "v.sqlite"))


@pytest.fixture(scope="module")
def exported(tiny_folder, tmp_path_factory):
    """A study of a tiny model, and the folder of its page."""
    folder = tmp_path_factory.mktemp("page")
    model = folder / NAME
    model.symlink_to(tiny_folder("Llama"), target_is_directory=True)
    study = study_of(dl.load_model(model), folder)
    page = export_explorer(study, folder / "out", explained=3, progress=False)
    assert page == folder / "out" / "index.html"
    return study, folder / "out"


def similarities(study, settings, centred=False):
    """Return DySem of the pairs by the module, with |U|."""
    (data,) = study.data.values()
    dysem = dl.DySem(study.lens, **settings)
    x, y = (
        dysem.encode(
            data.sentences["en"][side],
            renderings={code: data.sentences[code][side] for code in LANGUAGES},
            store=study.store,
            progress=False,
        )
        for side in (0, 1)
    )
    mean = 0
    if centred:
        every = torch.cat([x.vectors, y.vectors])
        first = [data.texts("en").index(text) for text in dict.fromkeys(data.texts("en"))]
        mean = every[first].double().mean(0)
    U = dl.joint_set(x.sets, y.sets)
    found = dl.joint_cosine(x.vectors.double() - mean, y.vectors.double() - mean, U)
    return found, U.sum(1)


# --- what is written


@pytest.mark.parametrize("size", [1e-30, 1e-5, 1.0, 3e4, 1e12])
def test_of_what_differs_eighteen_bits_are_kept_and_every_sign(size):
    vectors = torch.randn(7, 33, generator=torch.Generator().manual_seed(0)) * size
    vectors[:, 5] += 1e3 * size  # what all have, and which may not cost the rest its precision
    vectors[0, :3] = torch.tensor([0.0, size * 1e-9, -size * 1e-9])
    back, positive = unpacked(packed_vectors(vectors))
    assert torch.equal(positive, vectors > 0)
    left = (vectors.double() - vectors.double().mean(0)).abs()
    error = (back - vectors).abs()
    error[:, 5] -= 1e3 * size * 2**-23  # of the mean, in float32
    assert ((error / left)[left > left.max() * 1e-6]).max() <= 2**-18
    same = torch.ones(2, 5) * size
    assert torch.equal(unpacked(packed_vectors(same))[0], same.double())


def test_sets_are_bits_of_whole_bytes():
    sets = torch.rand(5, 19, generator=torch.Generator().manual_seed(0)) > 0.5
    raw = np.frombuffer(base64.b64decode(packed_sets(sets)), np.uint8).reshape(5, 3)
    for i, j in itertools.product(range(5), range(19)):
        assert bool(raw[i, j // 8] >> (j % 8) & 1) == bool(sets[i, j])


def test_the_files_hold_vectors_sets_texts_and_scores(exported):
    study, out = exported
    assert is_whole(out)
    assert all((out / name).read_bytes() for name in FILES)
    catalog = piece(out, "catalog")
    ((task, data),) = study.data.items()
    assert catalog["texts"]["ja"] == data.texts("ja")  # all of them differ
    assert catalog["pairs"] == [[i, i + len(PAIRS)] for i in range(len(PAIRS))]
    assert catalog["scores"] == data.gold.tolist()
    assert catalog["models"][0]["weights"] == study.model.weights
    for setting, component in itertools.product(
        dl.Study(study.lens, {}).settings, ("attn", "resid")
    ):
        for code in LANGUAGES:
            of = "english" if code == "en" else setting
            there, positive = unpacked(piece(out, f"{NAME}/{of}-{component}-{code}"))
            mine = study.vectors(task, component, setting=setting, languages=[code])[:, 0]
            assert (there - mine).abs().max() <= mine.abs().max() * 2**-18
            assert torch.equal(positive, mine > 0)
        columns = study.vectors(task, component, setting=setting, languages=["en", "fr", "de"])
        sets = piece(out, f"{NAME}/{setting}-{component}-sets")
        assert sets == packed_sets(dl.consensus_set(columns, 0.25))


def test_curves_are_those_of_the_layer_explorer(exported):
    study, out = exported
    (data,) = study.data.values()
    x, y = ({code: data.sentences[code][side][2] for code in LANGUAGES} for side in (0, 1))
    pair = dl.capture_pair(
        study.lens, x["en"], y["en"], ("en", "fr", "de"), {c: [x[c], y[c]] for c in LANGUAGES}
    )
    for setting in study.settings:
        curves = piece(out, f"{NAME}/{setting}-layers")
        table = dl.pair_layer_curves(pair, setting).table
        assert len(curves) == 10
        for (component, kind, measure), part in table.groupby(["component", "kind", "measure"]):
            there = curves[f"{component}, {kind}, {measure}"]
            mine = [np.nan if value is None else value for value in there["pairs"][2]]
            np.testing.assert_allclose(mine, part["value"], atol=1e-4)
            assert [len(row) for row in there["unrelated"]] == [study.n_layers] * 3


def test_tokens_are_those_of_the_logit_lens_of_each_dimension(exported):
    study, out = exported
    tokens = piece(out, f"{NAME}/tokens")
    assert len(tokens) == study.model.d_model
    for j in (0, 7, 31):
        mine = dimension_lens(study.lens, j, "resid", 8)
        assert tokens[j] == [
            mine.loc[mine["direction"] == direction, "token"].tolist()
            for direction in ("promoted", "demoted")
        ]


def test_explanations_add_up_to_what_explain_says(exported):
    study, out = exported
    (data,) = study.data.values()
    explained = piece(out, "catalog")["explained"]
    assert len(explained) == 3
    kinds = {data.subset[i].partition("/")[0] for i in explained}
    assert kinds == {"paraphrase", "negation", "word-sense"}  # with which the page begins
    i = explained[1]
    x, y = ({code: data.sentences[code][side][i] for code in LANGUAGES} for side in (0, 1))
    dysem = dl.DySem(study.lens, ("en", "fr", "de"), k=0.25)
    why = piece(out, f"{NAME}/why-{i}")
    for by in ("head", "block"):
        mine = dl.explain(dysem, x, y, by, centre=data, progress=False)
        assert sum(part[1] for part in why[by]["parts"]) == pytest.approx(mine.similarity, abs=1e-3)
        assert why[by]["caption"] == mine.caption
    for side, first, second in (("x", x, y), ("y", y, x)):
        mine = dl.explain(dysem, first, second, "token", centre=data, progress=False)
        added = [token[3] for token in why["token"][side]]
        np.testing.assert_allclose(added, mine.table["contribution"], atol=2e-5)


def test_the_same_call_again_runs_nothing_and_another_k_explains_anew(
    exported, tmp_path, monkeypatch
):
    study, out = exported[0], tmp_path / "copy"
    shutil.copytree(exported[1], out)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("why-*.js")}
    monkeypatch.setattr("dysem_lab.pages.export.capture", None)
    monkeypatch.setattr("dysem_lab.pages.export.explain", None)
    export_explorer(study, out, explained=3, progress=False)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("why-*.js")} == before
    with pytest.raises(TypeError, match="not callable"):
        export_explorer(study, out, k=0.5, explained=3, progress=False)


def test_a_pair_without_a_similarity_has_a_reason_in_place_of_an_explanation(
    exported, opened, tmp_path, monkeypatch
):
    study, out = exported[0], tmp_path / "copy"
    shutil.copytree(exported[1], out, ignore=shutil.ignore_patterns("why-*"))

    def explain(*arguments, **named):
        raise InputError("the joint set is empty")

    monkeypatch.setattr("dysem_lab.pages.export.explain", explain)
    export_explorer(study, out, explained=1, progress=False)
    (i,) = piece(out, "catalog")["explained"]
    x, y = piece(out, "catalog")["pairs"][i]
    page = opened(out, f"#view=pair&x={x}&y={y}")
    assert "the joint set is empty" in page.locator("#more").inner_text()


def test_what_cannot_be_is_refused(tiny_lens, tmp_path):
    study = study_of(tiny_lens, tmp_path, [0, 1])
    for wrong, message in (
        ({"studies": []}, "studies is empty"),
        ({"studies": None}, "studies of pairs"),
        ({"studies": "demo"}, "studies of pairs"),
        ({"out": None}, "folder of the page"),
        ({"languages": 7}, "language"),
        ({"studies": [study, study]}, "different names"),
        ({"studies": dl.Study(tiny_lens, {})}, "studies of pairs"),
        ({"studies": [study, study_of(tiny_lens, tmp_path, [0])]}, "same pairs"),
        ({"studies": study_of(tiny_lens, tmp_path, [0])}, "two or more"),
        ({"languages": ["ko"]}, "language of the data"),
        ({"languages": ["en", "en"]}, "different codes"),
        ({"k": 0}, "k must be"),
        ({"explained": -1}, "explained"),
    ):
        with pytest.raises(InputError, match=message):
            export_explorer(**{"studies": study, "out": tmp_path / "out", **wrong})
    assert not (tmp_path / "out").exists()


def test_the_command_writes_a_page_of_own_texts(tiny_folder, tmp_path):
    for code in ("en", "ja"):
        lines = (REPOSITORY / "dysem_lab" / "demo" / f"test.{code}.csv").read_text("utf-8")
        (tmp_path / f"test.{code}.csv").write_text("\n".join(lines.splitlines()[:3]), "utf-8")
    arguments = ["export-explorer", "--out", tmp_path / "page", "--model", tiny_folder("Llama")]
    arguments += ["--data", tmp_path, "--explained", 0, "--json"]
    done = CliRunner().invoke(cli, [str(part) for part in arguments], catch_exceptions=False)
    assert done.exit_code == 0
    assert json.loads(done.stdout)["languages"] == ["en", "ja"]
    catalog = piece(tmp_path / "page", "catalog")
    assert catalog["usual"] == ["en", "ja"]
    assert len(catalog["pairs"]) == 2


def contrast(one, other):
    """Return the contrast of two colours (WCAG 2.2)."""

    def luminance(colour):
        shares = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in shares]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted([luminance(one), luminance(other)])
    return (high + 0.05) / (low + 0.05)


def mixed(over, under, share):
    pairs = [(int(over[i : i + 2], 16), int(under[i : i + 2], 16)) for i in (1, 3, 5)]
    return "#" + "".join(f"{round(share * a + (1 - share) * b):02x}" for a, b in pairs)


def test_letters_and_signs_stand_out_in_both_themes():
    style = (REPOSITORY / "dysem_lab" / "pages" / "pages.css").read_text("utf-8")
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    light, dark = (
        dict(re.findall(r"--(\w+): (#\w{6})", part)) for part in style.split("@media")[:2]
    )
    assert light.keys() == dark.keys()
    for theme in (light, dark):
        for ground in (theme["ground"], theme["soft"]):
            for letters in ("ink", "quiet", "link", "more", "less"):
                assert contrast(theme[letters], ground) >= 4.5, letters
        for colour in ("more", "less"):  # the ground of a token is mixed with it, 45 % at most
            assert contrast(theme["ink"], mixed(theme[colour], theme["ground"], 0.45)) >= 4.5
        assert contrast(theme["both"], theme["soft"]) >= 3


# --- in a browser


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("no browser: chromium is not installed")
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        yield chromium
        chromium.close()


@pytest.fixture
def opened(browser):
    """Return a function: folder, part of the address, look → the page, from a disk, offline."""
    contexts, complaints = [], []

    def open_page(out, hash_="", width=1280, theme="light"):
        look = {"viewport": {"width": width, "height": 800}, "color_scheme": theme}
        contexts.append(browser.new_context(offline=True, accept_downloads=True, **look))
        page = contexts[-1].new_page()
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda line: line.type == "error" and complaints.append(line.text))
        page.asked = []
        page.on("request", lambda request: page.asked.append(request.url))
        page.goto((out / "index.html").as_uri() + hash_)
        settle(page)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []


def settle(page):
    page.wait_for_function(
        "() => document.querySelector('#result').dataset.shown"
        " && !document.body.classList.contains('busy')"
    )


IN_THE_BROWSER = """async (asked) => {
  const of = await dysem.encoded(explorer.catalog, asked, asked.sources);
  const {xl = "en", yl = "en"} = asked;
  return explorer.catalog.pairs.map(([x, y]) => {
    const {value, size} = dysem.similarity(of, x, y, xl, yl);
    return [value, size];
  });
}"""
CASES = [
    {"languages": languages, "k": k, "component": component, "setting": setting, "vector": vector}
    for (languages, k), component, setting, vector in itertools.product(
        ((("en", "fr", "de"), 0.25), (("en", "de", "ja", "ar"), 0.1), (("fr",), 1.0)),
        ("attn", "resid"),
        ("english", "language-specific"),
        ("mean", "source"),
    )
]


def check_numbers(page, study, model, cases=CASES):
    """Every pair, as the browser computes it, is the module's within 1e-3."""
    for settings, centred in itertools.product(cases, (False, True)):
        asked = {**settings, "languages": list(settings["languages"])}
        asked |= {"model": model, "centred": centred, "sources": ["en"]}
        found = np.array(page.evaluate(IN_THE_BROWSER, asked))
        similarity, sizes = similarities(study, settings, centred)
        np.testing.assert_allclose(found[:, 0], similarity, atol=1e-3)
        np.testing.assert_array_equal(found[:, 1], sizes)


def test_the_browser_computes_the_modules_numbers(exported, opened):
    study, out = exported
    page = opened(out)
    check_numbers(page, study, NAME)
    (data,) = study.data.values()
    dysem = dl.DySem(study.lens, ("en", "fr", "de"), k=0.25)
    for i in (0, 3):
        x, y = ({code: data.sentences[code][side][i] for code in LANGUAGES} for side in (0, 1))
        mine = dl.explain(dysem, x, y, "dimension", centre=data, progress=False).similarity
        asked = {**CASES[0], "setting": "language-specific", "languages": ["en", "fr", "de"]}
        asked |= {"model": NAME, "centred": True, "sources": ["en"]}
        assert page.evaluate(IN_THE_BROWSER, asked)[i][0] == pytest.approx(mine, abs=1e-3)


def test_the_browser_computes_the_numbers_of_a_real_model(embedded, tmp_path, opened):
    study = study_of(embedded("gemma-3-270m"), tmp_path, [0, 4, 13, 16])
    export_explorer(study, tmp_path / "out", explained=0, progress=False)
    cases = [case for case in CASES if case["vector"] == "mean"]
    check_numbers(opened(tmp_path / "out"), study, "gemma-3-270m", cases)


def test_the_scale_is_that_of_the_panels(exported, opened):
    study, out = exported
    (data,) = study.data.values()
    dysem = dl.DySem(study.lens, ("en", "fr", "de"), k=0.25)
    mine = scale(dysem, data, store=study.store, progress=False)
    page = opened(out)
    x, y = page.evaluate("() => [explorer.state.x, explorer.state.y]")
    pair = piece(out, "catalog")["pairs"].index([x, y])
    said = page.locator("#standing").inner_text()
    for name, n in (("pairs", len(data)), ("related", len(mine.related)), ("unrelated", len(data))):
        share = round(100 * np.mean(getattr(mine, name) < mine.pairs[pair]))
        assert f"{share} % of the {n} " in said, name


def test_a_sentence_and_its_translation_are_compared_by_their_own_languages(exported, opened):
    study, out = exported
    (data,) = study.data.values()
    settings = {"languages": ("en", "fr", "de"), "k": 0.25, "vector": "source"}
    dysem = dl.DySem(study.lens, **settings)
    given = {code: data.sentences[code][0] for code in LANGUAGES}
    x, y = (
        dysem.encode(given[code], code, renderings=given, progress=False) for code in ("en", "ja")
    )
    asked = {**settings, "languages": ["en", "fr", "de"], "model": NAME, "component": "attn"}
    asked |= {"setting": "language-specific", "centred": False, "sources": ["en", "ja"]}
    one_text = IN_THE_BROWSER.replace("of, x, y, xl, yl", "of, x, x, xl, yl")
    found = opened(out).evaluate(one_text, {**asked, "xl": "en", "yl": "ja"})
    np.testing.assert_allclose(
        [row[0] for row in found], dysem.similarity_pairwise(x, y), atol=1e-3
    )


def test_search_finds_what_the_module_finds(exported, opened):
    study, out = exported
    (data,) = study.data.values()
    texts = {code: data.texts(code) for code in ("en", "fr", "de")}
    dysem = dl.DySem(study.lens, ("en", "fr", "de"), k=0.25)
    mine = dl.search(dysem, texts, texts["en"][2], len(texts["en"])).table
    mine = mine[mine["position"] != 2].reset_index(drop=True)
    page = opened(out, "#view=search&x=2")
    rows = page.locator("#result tbody tr")
    assert rows.count() == 12
    for rank in range(3):
        cells = rows.nth(rank).locator("td").all_inner_texts()
        assert cells[1] == mine["text"][rank]
        assert float(cells[2]) == pytest.approx(mine["similarity"][rank], abs=1e-3)
    rows.first.locator("button").press("Enter")
    settle(page)
    assert f"y={mine['position'][0]}" in page.url


def test_the_first_view_asks_for_its_three_languages_alone(exported, opened):
    _, out = exported
    page = opened(out)
    asked = {url.rpartition("/")[2] for url in page.asked if "/data/" in url}
    assert page.locator("#why").is_visible()  # the first pair is explained
    vectors = {name for name in asked if re.search(r"-(attn|resid)-\w\w\.js$", name)}
    of_first = [f"{of}-attn-{code}.js" for of, code in (("english", "en"), *LS)]
    assert vectors == set(of_first)
    assert all(url.startswith(("file:", "data:")) for url in page.asked)


LS = (("language-specific", "fr"), ("language-specific", "de"))
# Letters that lie on each other within one chart.
OVERLAPS = """() => [...document.querySelectorAll("svg")].flatMap((chart) => {
  const texts = [...chart.querySelectorAll("text")], found = [];
  const boxes = texts.map((text) => text.getBoundingClientRect());
  for (let i = 0; i < texts.length; i++) for (let j = 0; j < i; j++) {
    const [a, b] = [boxes[i], boxes[j]];
    if (Math.min(a.right, b.right) - Math.max(a.left, b.left) > 2
      && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 4) {
      found.push(`${texts[j].textContent} | ${texts[i].textContent}`);
    }
  }
  return found;
})"""
UNNAMED = """() => [...document.querySelectorAll("select, input, button")].filter((control) =>
  !(control.labels && control.labels.length) && !control.getAttribute("aria-label")
    && !control.textContent.trim()).map((control) => control.id)"""


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("view", ["pair", "layers", "dimension", "search"])
def test_every_view_fits_the_screen(exported, opened, view, width, theme):
    _, out = exported
    page = opened(out, f"#view={view}&languages=en,ja,ar", width, theme)
    page.locator("summary").first.click()
    page.screenshot(path=SCREENSHOTS / f"static-{view}-{width}-{theme}.png", full_page=True)
    assert page.locator("#error").inner_text() == ""
    assert page.evaluate("() => document.documentElement.scrollWidth") <= width
    assert page.evaluate(OVERLAPS) == []
    assert page.evaluate(UNNAMED) == []
    assert "4-bit" not in page.locator("#about").inner_text()  # of this model
    assert "float32" in page.locator("#about").inner_text()
    if view == "pair":
        top = page.locator("#similarity").bounding_box()
        assert top["y"] + top["height"] < 500  # above the fold
        assert page.locator("td[lang=ar]").first.evaluate("(cell) => cell.matches(':dir(rtl)')")


def test_tab_comes_to_every_control_in_its_order(exported, opened):
    _, out = exported
    page = opened(out)
    page.locator("#settings summary").press("Enter")
    for view in ("pair", "layers", "dimension", "search"):
        page.locator(f"nav [data-view={view}]").press("Enter")
        settle(page)
        check_walk(page, "body")


def test_a_map_of_many_heads_fits_a_phone(exported, opened):
    _, out = exported
    page = opened(out, width=400)
    page.evaluate("""() => {
      const cells = Array.from({length: 270}, (_, i) =>
        ({block: i % 30, head: Math.floor(i / 30), value: i % 2 ? 1 : -1, said: "a head"}));
      const map = charts.el("figure", {class: "wide"}, charts.heads(368, cells, "heads"));
      document.querySelector("#more").replaceChildren(map);
    }""")
    assert page.evaluate(OVERLAPS) == []
    assert page.locator("#more svg").bounding_box()["width"] > 480  # one moves over it
    assert page.evaluate("() => document.documentElement.scrollWidth") <= 400


def test_the_keyboard_alone_changes_what_is_shown_and_the_link_brings_it_back(exported, opened):
    _, out = exported
    page = opened(out)
    first = page.locator("#similarity").inner_text()

    def reach(identity):
        for _ in range(60):
            if page.evaluate("() => document.activeElement.id") == identity:
                return
            page.keyboard.press("Tab")
        pytest.fail(f"no Tab leads to {identity}")

    reach("example-1")
    page.keyboard.press("Enter")
    settle(page)
    assert page.locator("#example-1").get_attribute("aria-pressed") == "true"
    assert page.evaluate("() => document.activeElement.id") == "example-1"
    page.evaluate("() => document.activeElement.blur()")
    for _ in range(60):
        page.keyboard.press("Tab")
        if page.evaluate("() => document.activeElement.tagName") == "SUMMARY":
            break
    page.keyboard.press("Enter")
    reach("k")
    page.keyboard.press("ArrowRight")
    settle(page)
    reach("centred")
    page.keyboard.press("Space")
    settle(page)
    reach("language-ja")
    page.keyboard.press("Space")
    settle(page)
    shown = page.locator("#result").inner_text()
    assert page.locator("#similarity").inner_text() != first
    assert "centred DySem similarity" in shown
    again = opened(out, page.url[page.url.index("#") :])
    assert again.locator("#result").inner_text() == shown
    assert again.locator("#more").inner_text() == page.locator("#more").inner_text()
    again.locator("#copy").press("Enter")
    again.wait_for_function("() => document.querySelector('#said').textContent === 'Copied.'")


def test_a_link_of_another_export_opens_what_there_is(exported, opened):
    _, out = exported
    page = opened(out, "#view=nothing&x=99999&y=-1&languages=xx,ja&k=7&model=other&centred=perhaps")
    assert page.locator("#error").inner_text() == ""
    assert page.evaluate("() => explorer.state.languages") == ["ja"]


def test_a_download_holds_sentences_renderings_numbers_and_explanation(exported, opened, tmp_path):
    study, out = exported
    (data,) = study.data.values()
    i = piece(out, "catalog")["explained"][0]
    x, y = piece(out, "catalog")["pairs"][i]
    page = opened(out, f"#view=pair&x={x}&y={y}")
    similarity = page.locator("#similarity").inner_text()
    with page.expect_download() as saved:
        page.locator("#download").click()
    assert saved.value.suggested_filename.startswith(
        re.sub(r"\W+", "-", data.texts("en")[x].lower()).strip("-")[:30]
    )
    saved.value.save_as(tmp_path / "saved.html")
    again = page.context.new_page()
    again.goto((tmp_path / "saved.html").as_uri())
    text = again.locator("body").inner_text()
    assert again.title() == f"{data.texts('en')[x]} / {data.texts('en')[y]}"
    for said in (similarity, data.texts("en")[x], data.texts("fr")[y], data.texts("de")[x]):
        assert said in text
    assert piece(out, f"{NAME}/why-{i}")["head"]["caption"] in text
    assert "adds to the similarity" in text  # the legend


def test_a_folder_that_is_not_whole_says_so(exported, browser, tmp_path):
    _, out = exported
    for name in FILES:
        (tmp_path / name).write_bytes((out / name).read_bytes())
    page = browser.new_page()
    page.goto((tmp_path / "index.html").as_uri())
    page.wait_for_selector("#error:not([hidden])")
    assert "Copy the whole folder" in page.locator("#error").inner_text()
    page.close()
