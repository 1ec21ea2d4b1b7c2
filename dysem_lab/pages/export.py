"""The explorers as static pages: what they need of a model, as scripts beside them.

A page that was opened from a disk may not read files, but may load scripts, so every piece of data
is one (``dysem.take(name, value)``). The browser computes DySem itself, in ``dysem.js``.
"""

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

import dysem_lab
from dysem_lab import paths
from dysem_lab.consensus import consensus_set, resolve_k
from dysem_lab.data.languages import language as language_named
from dysem_lab.data.sts import STSData
from dysem_lab.display import bar
from dysem_lab.encoders.dysem import DySem
from dysem_lab.errors import InputError
from dysem_lab.inputs import at_least, check_k, different, one_of, path_of
from dysem_lab.models.capture import capture
from dysem_lab.models.readout import dimension_tokens
from dysem_lab.pages.packed import packed_sets, packed_vectors
from dysem_lab.prompts import TEMPLATE_NAMES, wrap
from dysem_lab.questions.explain import explain
from dysem_lab.questions.explain_picture import names_of_parts
from dysem_lab.questions.layer_curves import COMPONENTS, at_layers, kinds_of
from dysem_lab.questions.saving import atomic_write, slug
from dysem_lab.questions.scale import RELATED, others
from dysem_lab.questions.study import Study

FILES = ("index.html", "pages.css", "dysem.js", "charts.js", "explorer.js")
SHIPPED = ("attn", "resid")  # whose vectors the pages have
EXAMPLES = ("paraphrase", "negation", "word-sense", "unrelated")  # of explorer.js too
USUAL = ("en", "fr", "de")  # the consensus that the pages begin with
BY = ("head", "block")  # and by token
TOGETHER = 66  # pairs that run through the model at once, at every layer
N_TOKENS = 8  # of each direction of a dimension
FORMAT = "1"  # of the files


def export_explorer(
    studies: Study | Sequence[Study],
    out: str | Path,
    languages: Sequence[str] | None = None,
    k: int | float = 0.25,
    explained: int | None = None,
    *,
    progress: bool = True,
) -> Path:
    """Write the explorers as static pages, which compute DySem in a browser and need nothing else.

    Vectors are captured into the studies' stores, where the same call finds them again. Of what
    else is written (curves over layers, tokens of dimensions, explanations), a file that is there
    and up to date stays: an interrupted call goes on where it was.

    Args:
        studies: Of one or more models, on the same pairs; their first task and template are used.
        out: The folder; created if absent.
        languages: 𝓛 of the first view, of the curves and of the explanations; None is en, fr, de,
            or where the data have not all of these, their first three.
        k: Dimensions per text of these; as for `dysem_lab.DySem`.
        explained: How many pairs are explained, those of different phenomena first, and
            of these the page's examples; None is all.
        progress: Show progress bars.

    Returns:
        The page to open: ``out/index.html``.

    Raises:
        InputError: No study, studies of other pairs or of models with one name, fewer than two
            pairs; a language that the data do not have, k or `explained` out of range.
        DataError: The folder cannot be written to.
        ModelError: As for `Study.capture`.

    Source: DySem Eqs. 11–17 (what the browser computes); centring and parts as in `explain`.
    """
    out = path_of(out, "the folder of the page")
    if not isinstance(studies, Sequence):
        studies = [studies]
    common = _common(studies, languages, k, explained)
    copy_pages(out)
    models = []
    for study in studies:
        study.capture(SHIPPED, progress=progress)
        model = _Model(study, common, out / "data", progress)
        model.write_vectors()
        model.write_layers()
        model.write_tokens()
        model.write_explanations()
        models.append(model.described())
        study.release()
    _write(out / "data", "catalog", _catalog(common, models), FORMAT)
    return out / "index.html"


def copy_pages(out: Path) -> None:
    """Write what is the same for all data: the page, its style sheet and its scripts."""
    source = paths.package_file("pages")
    for name in FILES:
        with atomic_write(out / name) as file:
            shutil.copyfile(source / name, file)
    # A page on a disk may not read its own style sheet, which a download takes along.
    _write(out / "data", "style", (source / "pages.css").read_text(encoding="utf-8"))


def is_whole(out: Path) -> bool:
    """Return whether a folder holds what a call of `export_explorer` has finished."""
    return _is_there(out / "data", "catalog", FORMAT)


@dataclass(frozen=True, eq=False)
class _Common:
    """What the pages of all models have in common.

    Attributes:
        data: The n pairs.
        rows: Of the 2n texts of `STSData.texts`, those that are shipped: each different one once.
        pairs: (x, y) of each pair, by position among these.
        languages: 𝓛 of the first view.
        k: Of the first view.
        template: Of all prompts.
        settings: Prompt settings, "language-specific" first where there is one.
        explained: Which pairs are explained.
    """

    data: STSData
    rows: list[int]
    pairs: list[tuple[int, int]]
    languages: list[str]
    k: int | float
    template: str
    settings: list[str]
    explained: list[int]


def _common(
    studies: Sequence[Study],
    languages: Sequence[str] | None,
    k: int | float,
    explained: int | None,
) -> _Common:
    """Return what is shipped, once it is known that it can be."""
    if not studies:
        raise InputError("studies is empty; give one or more, such as dysem_lab.Study()")
    for study in studies:
        if not isinstance(study, Study) or not study.data:
            raise InputError(f"studies must be studies of pairs, got {study!r:.200}")
    first = studies[0]
    data, template = next(iter(first.data.values())), first.templates[0]
    for study in studies:
        digest = next(iter(study.data.values())).digest
        if (digest, study.templates[0], study.settings) != (data.digest, template, first.settings):
            raise InputError("the studies must be of the same pairs, template and prompt settings")
    names = [_name(study) for study in studies]
    if len(set(names)) < len(names):
        raise InputError(f"the models of the studies need different names, got {', '.join(names)}")
    if len(data) < 2:
        raise InputError(f"the scale is made of other pairs: give two or more, got {len(data)}")
    if languages is None:
        languages = USUAL if set(USUAL) <= set(data.languages) else data.languages[:3]
    wanted = different(languages, "language")
    for code in wanted:
        one_of(code, data.languages, "language of the data")
    check_k(k)
    # A text is another one where it is rendered differently.
    texts = list(zip(*(data.texts(code) for code in data.languages), strict=True))
    place = {text: i for i, text in enumerate(dict.fromkeys(texts))}
    kinds = [subset.partition("/")[0] for subset in data.subset]
    # One of each kind first, and of these the page's examples, with which it begins.
    ranks = [EXAMPLES.index(kind) if kind in EXAMPLES else len(EXAMPLES) for kind in kinds]
    order = sorted(range(len(data)), key=lambda i: (kinds[:i].count(kinds[i]), ranks[i], i))
    return _Common(
        data=data,
        rows=[texts.index(text) for text in place],
        pairs=[(place[texts[i]], place[texts[i + len(data)]]) for i in range(len(data))],
        languages=wanted,
        k=k,
        template=template,
        settings=sorted(first.settings, reverse=True),
        explained=sorted(
            order[: None if explained is None else at_least(explained, 0, "explained")]
        ),
    )


def _name(study: Study) -> str:
    """Return the name of a model's folder."""
    return slug(Path(study.name).name)


def _catalog(common: _Common, models: Sequence[Mapping[str, object]]) -> dict[str, object]:
    """Return what every view needs first, as JSON values."""
    data = common.data
    texts = {code: [data.texts(code)[row] for row in common.rows] for code in data.languages}
    english = texts[next(iter(texts))]
    return {
        "data": data.name,
        "source": data.source,
        "version": dysem_lab.__version__,
        "template": TEMPLATE_NAMES.get(common.template, common.template),
        "languages": [(code, language_named(code).name) for code in data.languages],
        "texts": texts,
        # What vectors are centred on: as `dysem_lab.data.fit_texts`, each English text once.
        "centre": [english.index(text) for text in dict.fromkeys(english)],
        "pairs": common.pairs,
        "scores": data.gold.tolist(),
        "related": RELATED,
        "others": others(len(data)).tolist(),
        "subsets": data.subset,
        "explained": common.explained,
        "settings": common.settings,
        "usual": common.languages,
        "models": models,
    }


class _Model:
    """Writes what the pages need of one model.

    Args:
        study: The model on the pairs; what the vectors need is captured.
        common: What is shipped.
        folder: Of the data.
        progress: Show progress bars.
    """

    def __init__(self, study: Study, common: _Common, folder: Path, progress: bool) -> None:
        self.study, self.common, self.progress = study, common, progress
        self.name, self.folder = _name(study), folder
        self.facts = study.model
        texts = [common.data.digest, common.template, *common.languages]
        model = [self.facts.fingerprint, self.facts.dtype]
        about = " ".join([FORMAT, *model, *texts, str(common.k), *common.settings])
        self.key = hashlib.sha256(about.encode()).hexdigest()[:16]

    def described(self) -> dict[str, object]:
        """Return what is said of the model; k of the first view is a number of dimensions here."""
        facts = self.facts
        said = {"name": facts.name, "weights": facts.weights, "layers": facts.n_layers}
        d = facts.d_model
        return {"id": self.name, **said, "d": d, "k": resolve_k(self.common.k, d)}

    def write_vectors(self) -> None:
        """Write s^(ℓ)(x) of each language in half precision, and the sets of the first view."""
        (task,) = list(self.study.data)[:1]
        for setting in self.common.settings:
            for component in SHIPPED:
                read: dict[str, Tensor] = {}
                for code in self.common.data.languages:
                    found = self.study.vectors(task, component, setting=setting, languages=[code])
                    rows = found[self.common.rows, 0]
                    # English prompts are the same in both settings.
                    of = "english" if code == "en" else setting
                    self._write(f"{of}-{component}-{code}", packed_vectors(rows))
                    read |= {code: rows} if code in self.common.languages else {}
                columns = torch.stack([read[code] for code in self.common.languages], 1)
                sets = packed_sets(consensus_set(columns, self.common.k))
                self._write(f"{setting}-{component}-sets", sets)

    def write_layers(self) -> None:
        """Write the cosine of each pair at every layer, and what unrelated texts have."""
        n = len(self.common.data)
        for setting in self.common.settings:
            if self._is_there(f"{setting}-layers"):
                continue
            found: dict[str, list[tuple[Tensor, Tensor]]] = {}
            chunks = torch.arange(n).tensor_split(-(-n // TOGETHER))  # none of a single pair
            for pairs in tqdm(chunks, f"layers, {setting}", disable=not self.progress):
                for name, curves in self._curves(setting, pairs.tolist()).items():
                    found.setdefault(name, []).append(curves)
            said = {}
            for name, parts in found.items():
                of_pairs, unrelated = (torch.cat(of) for of in zip(*parts, strict=True))
                middle = unrelated.nanquantile(torch.tensor([0.1, 0.5, 0.9]), 0)
                said[name] = {"pairs": _rounded(of_pairs), "unrelated": _rounded(middle)}
            self._write(f"{setting}-layers", said)

    def _curves(
        self, setting: str, pairs: list[int]
    ) -> dict[str, tuple[Float[Tensor, "n L"], Float[Tensor, "n L"]]]:
        """Return cosines of n pairs, and of first sentences with the second ones of other pairs."""
        texts, n = self.common.data.select(pairs), len(pairs)
        read = []
        for code in self.common.languages:
            prompts = wrap(texts.texts(code), self.common.template, setting, code)
            read.append(capture(self.study.lens, prompts, COMPONENTS, "each", progress=False))
        shuffled = torch.cat([torch.arange(n), n + torch.from_numpy(others(n))])
        curves = {}
        for component in COMPONENTS:
            each = torch.stack([acts[component] for acts in read], 1)
            for kind, x in kinds_of(component, each):
                (dysem, _, plain), (of_others, _, plain_others) = (
                    at_layers(rows, rows[:, 0], self.common.k, "mean") for rows in (x, x[shuffled])
                )
                curves[f"{component}, {kind}, DySem"] = dysem, of_others
                curves[f"{component}, {kind}, all dimensions"] = plain, plain_others
        return curves

    def write_tokens(self) -> None:
        """Write which tokens each dimension of the stream promotes and demotes."""
        if self._is_there("tokens"):
            return
        found = dimension_tokens(self.study.lens, N_TOKENS, bar(self.progress))
        self._write("tokens", found)

    def write_explanations(self) -> None:
        """Write why pairs are similar: by head, block and token of A^L in the first view."""
        common, data = self.common, self.common.data
        lacking = [i for i in common.explained if not self._is_there(f"why-{i}")]
        if not lacking:
            return
        dysem = DySem(
            self.study.lens,
            common.languages,
            k=common.k,
            template=common.template,
            setting=common.settings[0],
        )
        for i in tqdm(lacking, "explanations", unit="pair", disable=not self.progress):
            x, y = ({code: of[side][i] for code, of in data.sentences.items()} for side in (0, 1))
            self._write(f"why-{i}", self._why(dysem, x, y))

    def _why(self, dysem: DySem, x: Mapping[str, str], y: Mapping[str, str]) -> dict[str, object]:
        """Return an explanation, or why there is none."""
        data, why = self.common.data, {}
        try:
            for by in BY:
                found = explain(dysem, x, y, by, centre=data, progress=self.progress)
                why[by] = {"caption": found.caption, "parts": _parts(found.table)}
            found = explain(dysem, x, y, "token", "token", data, progress=self.progress)
        except InputError as error:  # such as no dimension that is positive in every language
            return {"none": str(error)}
        return {
            **why,
            "token": {"x": _tokens(found.table, ""), "y": _tokens(found.table, "other_")},
        }

    def _write(self, name: str, value: object) -> None:
        _write(self.folder, f"{self.name}/{name}", value, self.key)

    def _is_there(self, name: str) -> bool:
        return _is_there(self.folder, f"{self.name}/{name}", self.key)


def _write(folder: Path, name: str, value: object, key: str = "") -> None:
    """Write a piece of data as a script that hands it to the page."""
    said = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    with atomic_write(folder / f"{name}.js") as file:
        file.write_text(f"// {key}\ndysem.take({json.dumps(name)},{said});\n", encoding="utf-8")


def _is_there(folder: Path, name: str, key: str) -> bool:
    """Return whether a piece of data was written of the same model, texts and settings."""
    try:
        with (folder / f"{name}.js").open(encoding="utf-8") as file:
            return file.readline() == f"// {key}\n"
    except OSError:
        return False


def _rounded(values: Float[Tensor, "n L"]) -> list[list[float | None]]:
    return [[None if v != v else round(v, 4) for v in row] for row in values.tolist()]


def _parts(table: pd.DataFrame) -> list[list[object]]:
    """Return name, contribution, what random pairs get and its spread, block and head of parts."""
    columns = table.reindex(columns=["contribution", "random", "spread", "block", "head"])
    rows = columns.astype(object).where(columns.notna(), None).to_numpy().tolist()
    return [
        [name, *(round(v, 5) if isinstance(v, float) else v for v in row)]
        for name, row in zip(names_of_parts(table), rows, strict=True)
    ]


def _tokens(table: pd.DataFrame, prefix: str) -> list[list[object]]:
    """Return language, token, whether it is of the text, and contribution of one text's tokens."""
    names = [prefix + name for name in ("language", "kind", "position", "token", "of_text")]
    of_side = table.reindex(columns=[*names, "contribution"])
    sums = of_side.groupby(names, sort=False, dropna=False, as_index=False)["contribution"].sum()
    tokens = sums[names[3]].where(sums[names[3]].notna(), sums[names[1]])
    in_text = sums[names[4]].eq(True).fillna(False).astype(bool)
    columns = (sums[names[0]], tokens, in_text, sums["contribution"].round(5))
    return [list(row) for row in zip(*(column.tolist() for column in columns), strict=True)]
