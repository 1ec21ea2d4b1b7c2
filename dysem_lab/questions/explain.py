"""Why are these two texts similar? Their similarity as a sum of heads, tokens, blocks, languages.

The sum is exact; that a part *made* them similar is a hypothesis, which ablation tests.

Over 400 lines, as the signatures and columns of both public questions are said in full.
"""

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dysem_lab.attribution import Directions, one_sided, two_sided, without_largest
from dysem_lab.data.fit_texts import FitTexts
from dysem_lab.display import Progress, bar
from dysem_lab.encoders.base import Encoder, LensEncoder, require_encoder, require_language
from dysem_lab.errors import InputError
from dysem_lab.inputs import at_least, by_language, checked, index_of, one_of
from dysem_lab.joint import joint_cosine, joint_set
from dysem_lab.models.parts import require_split
from dysem_lab.models.text_tokens import text_tokens
from dysem_lab.prompts import normalize
from dysem_lab.questions.explain_picture import WHERE, caption, figure
from dysem_lab.questions.finding import Facts, Finding
from dysem_lab.questions.reference import Reference, corpus_of, dimension_keys, reference
from dysem_lab.questions.splits import (
    BY_PASS,
    Key,
    Split,
    along,
    fixed_of,
    in_parts,
    keys_of,
    split_texts,
)
from dysem_lab.questions.token_map import token_map
from dysem_lab.questions.word_order import LEFT_OUT, OF_DIFFERENCE, UNTESTED, tested

BY = (*BY_PASS, "language", "dimension", "direction")
ROUGH = 30  # texts: of fewer, the pair that is explained is unlike the corpus by itself
SHOWN = 60  # characters of a text under the title
NUMBERS = ("block", "head", "neuron", "position", "dimension")
Rows = Float[Tensor, "k d"] | Float[np.ndarray, "k d"]
MOST_ROWS = 2**20  # of parts of x × parts of y


@dataclass(frozen=True)
class Explanation(Finding):
    """A similarity as a sum of parts.

    Attributes:
        similarity: What the parts add up to.
        encoder_similarity: The encoder's own; another number where the parts are centred, or the
            largest dimensions left out.
        by: What x is split by.
        by_other: What y is split by; None is not at all.
        words: By "token", where x is read in one language: its words, those first that deletion
            curves of the model favour (`dysem_lab.faithfulness`; measured for a similarity, with
            one setting), or else the largest parts.
            ``word``; ``position``, from 0; ``contribution``, of all its tokens; and where that is
            the favoured order, ``left_out``, what the similarity loses without the word.
    """

    similarity: float
    encoder_similarity: float
    by: str
    by_other: str | None
    words: pd.DataFrame | None = None

    def top(self, k: int = 10, column: str = "contribution") -> pd.DataFrame:
        """Return the k rows with the largest contributions, whatever their sign.

        Args:
            k: How many.
            column: Or another number of the table, such as "surprise": what is unlike random pairs.

        Raises:
            InputError: The table has no such column, as without a corpus.
        """
        numbers = self.table.select_dtypes("float").columns
        order = self.table[one_of(column, list(numbers), "column")].abs()
        order = order.sort_values(ascending=False, kind="stable", na_position="last")
        return self.table.loc[order.index[: at_least(k, 1, "k")]]

    def matrix(self) -> pd.DataFrame:
        """Return the contributions of parts of x (rows) and of y (columns); they add up too.

        Raises:
            InputError: y was not split; ask with ``by_other``.
        """
        if self.by_other is None:
            raise InputError("y was not split; ask with by_other, such as by_other='token'")
        columns = [name for name in WHERE if name in self.table]
        others = [name for name in self.table if name.startswith("other_")]
        n_others = len(self.table.drop_duplicates(others))
        values = self.table["contribution"].to_numpy().reshape(-1, n_others)
        x, y = self.table[columns].iloc[::n_others], self.table[others].iloc[:n_others]
        return pd.DataFrame(values, pd.MultiIndex.from_frame(x), pd.MultiIndex.from_frame(y))


def explain(
    encoder: Encoder,
    x: str | Mapping[str, str],
    y: str | Mapping[str, str],
    by: str = "head",
    by_other: str | None = None,
    centre: object = "demo",
    renderings: Mapping[str, Sequence[str]] | None = None,
    drop_largest: int = 0,
    *,
    directions: Rows | Directions | None = None,
    language: str = "en",
    progress: bool | Progress = True,
) -> Explanation:
    """Say why two texts are similar: their (centred) similarity as an exact sum of parts of x.

    The sets S(x) and S(y) are chosen on the vectors as they are, and U is their union. With a
    reference corpus the mean μ of its vectors is subtracted from both texts, and from each part its
    own mean over the corpus: what all texts share is gone, and what is left differs between pairs.
    The two norms and U are given, not explained: on a U of one dimension every similarity is 1 or
    -1, whatever the parts. A part is where a vector was written, not what caused it: a token late
    in the text has read the words before it.

    Args:
        encoder: What is explained: `DySem` in any setting, `PromptEncoder` or
            `ContrastivePrompting`; any other encoder by "dimension" and "direction" only.
        x: The first text, or language → it in that language.
        y: The second text, likewise.
        by: What x is split by: "token", "head", "block", "ffn", "neuron", "language", "dimension"
            or "direction".
        by_other: What y is split by; None is not at all. A dimension meets only itself, so it is
            asked for by "dimension" alone.
        centre: "demo", `STSData` or a mapping from languages to texts; None is the cosine as the
            paper has it.
        renderings: Language → (x, y) in it; the encoder's translator makes what is not given.
        drop_largest: How many of the dimensions with the largest shares of the corpus's mean cosine
            are left out of U.
        directions: By "direction", which: rows, or `dysem_lab.Directions` with names or a sparse
            dictionary's encoder. v(x) is their sum with coefficients, and a row "error".
        language: Of x and y themselves.
        progress: Show a progress bar when the corpus runs through the model for the first time; or
            a function that is told of each batch: ``progress(done, total, what)``.

    Returns:
        A `Finding` whose table has a row for each part (of x, or of x and of y): ``kind``,
        ``block``, ``head`` and ``neuron`` (0-based), ``token``, ``position``, ``language``,
        ``dimension``, ``direction``, ``of_text`` and ``of_template`` (whether a token has a
        character of each: of both, where a tokenizer makes one of a text's full stop and the
        quotation mark after it; it is centred as a token of the text), empty where a part has none
        (with ``by_other`` those of y, named ``other_…``); ``contribution``, which add up to
        ``.similarity``; with a corpus of three texts or more and without ``by_other`` what the part
        adds to random pairs of it, ``random`` (mean) and ``spread`` (standard deviation), and
        ``surprise``, how many of these standard deviations it is away. A mean leans to the texts
        that it is of, so random pairs stand as pairs do that are in the corpus or outside of it,
        like x and y.

    Raises:
        InputError: A text that is empty, a split that the vector does not have (with those that it
            has), renderings that contradict each other or in a
            language that the encoder does not read, a corpus of one text, of these texts alone
            or without a language, no similarity, because U is empty or a vector is zero on it or
            not finite, more pairs of parts than 2²⁰, or directions of another width or that
            `Directions` refuses.
        ModelError: The parts do not add up in this architecture, or the forward pass is not the
            model's own, as with hooks that are left on it.
        MissingTranslationError: A rendering that is neither given nor to be had.

    Source: the bilinear sum, BiLRP (arXiv 2405.06604); heads and tokens, Gandelsman et al.
        (arXiv 2310.05916); centring, Timkey and van Schijndel (arXiv 2109.04404).
    """
    of_texts = (encoder, [x, y], by, by_other, centre, renderings, drop_largest)
    return _explained(*of_texts, directions, language, progress)


def explanation(texts: "Texts", by_other: str | None = None) -> Explanation:
    """Return what `explain` says of two texts that are read already, `explain_difference` of three.

    Args:
        texts: x and y, or x, y and z, split as x is to be.
        by_other: As for `explain`.
    """
    by, rows, others = texts.by, texts.rows(0), texts.others
    on = torch.stack([texts.joint_set(0, j) for j in others]).any(0)
    if by_other is None:
        to = {name: texts.added(0, j) for j, name in others.items()}
        columns = {f"to_{name}": of for name, of in to.items() if "z" in to}
        table = texts.beside_random(rows.assign(**columns, contribution=_less(to)))
    else:
        table = _crossed(texts, texts if by_other == by else texts.split_by(by_other))
    table = _on(on, table)
    similarity, own = float(table["contribution"].sum()), texts.own_similarity
    facts = texts.facts(by=by, by_other=by_other, drop_largest=texts.n_largest or None)
    of_both = {"similarity": similarity, "encoder_similarity": own}
    facts = replace(facts, recorded={**facts.recorded, **of_both})
    kind, title = f"explain_{by}", f"Why is the similarity of these two {similarity:.2f}?"
    if "z" in others.values():
        kind = f"explain_difference_{by}"
        nearer = "nearer to the second" if similarity >= 0 else "less near to the second"
        title = f"Why is the first {abs(similarity):.2f} {nearer} than to the third?"
    said = caption(table, similarity, own, texts.centred, texts.n_largest)
    if texts.centred and texts.reference and texts.reference.n_texts < ROUGH:
        said += (
            f" Of {texts.reference.n_texts} texts a mean is rough, and so is what parts are "
            f"compared with; {ROUGH} or more are better."
        )
    drawn = figure(table, title, facts)
    words, above = None, ""
    if by == "token" and by_other in (None, "token"):
        words, why = texts.words(table)
        said, above = f"{said}{why}", token_map(table, words)
    sums = (similarity, own, by, by_other, words)
    return Explanation(kind, table, drawn, said, facts, *sums, above=above)


def explain_difference(
    encoder: Encoder,
    x: str | Mapping[str, str],
    y: str | Mapping[str, str],
    z: str | Mapping[str, str],
    by: str = "head",
    centre: object = "demo",
    renderings: Mapping[str, Sequence[str]] | None = None,
    drop_largest: int = 0,
    *,
    by_other: str | None = None,
    directions: Rows | Directions | None = None,
    language: str = "en",
    progress: bool | Progress = True,
) -> Explanation:
    """Say why a text is nearer to one text than to another: the difference of two explanations.

    Args:
        encoder: As for `explain`, as are the arguments that are not here.
        x: The text.
        y: One of the other two.
        z: The other.
        by: What x is split by.
        centre: As for `explain`.
        renderings: Language → (x, y, z) in it.
        drop_largest: As for `explain`.
        by_other: What y and z are split by; None is not at all. By "token", with x by "token", all
            three sentences are coloured: which of their words pull x to y, and which to z.
        directions: As for `explain`.
        language: As for `explain`.
        progress: As for `explain`.

    Returns:
        As for `explain`, with a row for each part of x: ``to_y`` and ``to_z``, what it adds to the
        similarity with each, and ``contribution``, their difference; ``.similarity`` is the
        difference of the two similarities. ``random``, ``spread`` and ``surprise`` are of random
        triples of the corpus; their mean is 0, as y and z may change places. With ``by_other`` a
        row for each part of x with each of y and of z: ``other_text`` says of which, and what x and
        z have in common is subtracted.

    Raises:
        InputError: As for `explain`, as are the other errors; or y and z that the encoder reads
            alike.
    """
    of_texts = (encoder, [x, y, z], by, by_other, centre, renderings, drop_largest)
    return _explained(*of_texts, directions, language, progress)


def _explained(
    encoder: Encoder,
    given: Sequence[str | Mapping[str, str]],
    by: str,
    by_other: str | None,
    centre: object,
    renderings: Mapping[str, Sequence[str]] | None,
    drop_largest: int,
    directions: Rows | Directions | None,
    language: str,
    progress: bool | Progress,
) -> Explanation:
    """Read the texts and explain them; see `explain` and `explain_difference`."""
    one_of(by, BY, "by")
    if by_other is not None:
        one_of(by_other, BY, "by_other")
        if "dimension" in (by, by_other):
            raise InputError(
                "a dimension of x meets the same dimension of y only; by='dimension' alone says "
                "what each adds"
            )
    for each in filter(None, (by, by_other)):
        require_parts(encoder, each)
    columns = columns_of(encoder, given, renderings, language)
    along_what = _directions_of(directions, by, by_other)
    settings = (centre, drop_largest, language, progress, along_what)
    return explanation(Texts(encoder, columns, by, *settings), by_other)


def require_parts(encoder: Encoder, by: str) -> None:
    """Raise `InputError` unless an encoder's vectors are sums of such parts."""
    if by in ("dimension", "direction"):
        require_encoder(encoder)
    elif not isinstance(encoder, LensEncoder) or not in_parts(encoder):
        raise InputError(
            f"a vector of {require_encoder(encoder).name} is not kept as a sum of what a pass "
            "writes at one token; explain it by 'dimension' or 'direction', or an encoder that it "
            "changes"
        )
    elif by in BY_PASS:
        require_split(encoder.place.component, by)


def columns_of(
    encoder: Encoder,
    texts: Sequence[str | Mapping[str, str]],
    renderings: Mapping[str, Sequence[str]] | None,
    language: str,
) -> dict[str, list[str]]:
    """Return language → the texts in it, of those languages in which all are given.

    Raises:
        InputError: A text that is not given in its own language, or renderings of another number
            or in a language that the encoder does not read.
    """
    require_language(language)
    for text in texts:
        if not isinstance(text, str | Mapping):
            raise InputError(
                f"a text must be a string, or a mapping from languages to it, got {text!r:.80}"
            )
    given = [{language: text} if isinstance(text, str) else text for text in texts]
    codes = [code for code in given[0] if all(code in of_text for of_text in given)]
    columns = {code: [of_text[code] for of_text in given] for code in codes}
    for code, column in by_language(renderings).items():
        rendered = checked(column, f"{code} text")
        if len(rendered) != len(texts):
            raise InputError(
                f"renderings[{code!r}] must be the {len(texts)} texts in it, got {len(rendered)}"
            )
        if columns.setdefault(code, rendered) != rendered:
            raise InputError(
                f"the texts are given twice in {code!r}, and differ: {columns[code]} and "
                f"{rendered}; leave one out"
            )
    if language not in columns:
        raise InputError(f"a text is not given in its own language {language!r}; add it")
    read = dict.fromkeys([*require_encoder(encoder).languages, language])
    if unread := [code for code in by_language(renderings) if code not in read]:
        raise InputError(
            f"{encoder.name} does not read the renderings in {', '.join(map(repr, unread))}, only "
            f"{', '.join(map(repr, read))}; leave them out, or give an encoder with these languages"
        )
    return {code: checked(column, f"{code} text") for code, column in columns.items()}


def _directions_of(given: Rows | Directions | None, *by: str | None) -> Directions | None:
    """Return what is split along, once it is known that it is asked for.

    Raises:
        InputError: It is not, or what is asked for is not there; or as for `Directions`.
    """
    if (given is None) == ("direction" in by):
        raise InputError("by='direction' and directions go together; give both or neither")
    return given if given is None or isinstance(given, Directions) else Directions(given)


def _corpus_beside(
    columns: Mapping[str, Sequence[str]], encoder: Encoder, centre: object, language: str
) -> tuple[FitTexts, int]:
    """Return the corpus that texts are centred on, and how many of its texts they are.

    Raises:
        InputError: As for `corpus_of`, or hardly any others.
    """
    corpus = corpus_of("demo" if centre is None else centre, encoder.languages, language)
    # As the encoder reads them: with or without a full stop is one text.
    explained = set(map(normalize, columns[language]))
    others = [text for text in corpus.renderings[language] if normalize(text) not in explained]
    if len(set(map(normalize, others))) < 2:
        raise InputError(
            "the reference corpus holds fewer than two other texts than those explained, so their "
            "similarity would come of the centring; give others, or centre=None"
        )
    return corpus, corpus.n_texts - len(others)


class Texts:
    """A few texts under an encoder, split in one way, beside the corpus that they are centred on.

    Args: as for `explain`; `columns` are the texts, language → them in it.

    Attributes:
        others: Those that the first is compared with, by their number: "y", and "z" of three.
        views: Names of the passes over the texts; none of an encoder without parts.
        read: What was read in each of them.
        encoded: v and S of the texts, from that.
        among: How many texts of the corpus are texts that are explained.
    """

    def __init__(
        self,
        encoder: Encoder,
        columns: dict[str, list[str]],
        by: str,
        centre: object,
        drop_largest: int,
        language: str,
        progress: bool | Progress,
        directions: Directions | None = None,
    ) -> None:
        """Run the texts, and the corpus where one is needed."""
        self.encoder = encoder
        self.columns, self.by, self.language = columns, by, language
        self.others = dict(zip(range(1, len(columns[language])), "yz", strict=False))
        self.centre, self.progress = centre, progress
        self.n_largest = index_of(drop_largest, encoder.width, "drop_largest")
        self.split: Split | None = None
        self._given = directions
        self.directions = directions if by == "direction" else None
        self.read: Float[Tensor, "views n d"] | None = None
        if self.directions is not None:
            self.directions.require_width(encoder.width)
        self.centred, self.among = centre is not None, 0
        corpus = None
        if self.centred or self.n_largest:
            corpus, self.among = _corpus_beside(columns, encoder, centre, language)
        whole, views = by in ("dimension", "direction"), []
        if in_parts(encoder):
            views = encoder.views(columns, language)
            split = split_texts(encoder, views, "language" if whole else by)
            self.split = None if whole else split
            self.read, self.encoded = split.read, encoder.combined(views, split.read)
        else:
            self.encoded = encoder.encode_renderings(columns, language, progress=False)
        if self.directions is not None:
            self.split = along(self.encoded.vectors, self.directions)
        self.views = [view.name for view in views]
        self.fixed = fixed_of(encoder, by, views, self.directions)
        self.width = self.encoded.vectors.shape[1]
        if len(self.encoded) == 3 and torch.equal(*self.encoded.vectors[1:]):
            raise InputError(
                "y and z are one text to the encoder, so x is as near to one as to the other; give "
                "two that differ in more than a final full stop"
            )
        self.reference: Reference | None = None
        if corpus is not None:
            self.reference = reference(
                encoder,
                corpus,
                by,
                language,
                self.n_largest,
                directions=self.directions,
                inside=min(self.among, 2),
                progress=progress if callable(progress) else bar(progress),
            )

    def split_by(self, by: str) -> "Texts":
        """Return the same texts split in another way."""
        settings = (self.centre, self.n_largest, self.language, self.progress, self._given)
        return Texts(self.encoder, self.columns, by, *settings)

    def vector(self, i: int) -> Float[Tensor, " d"]:
        """Return v of a text, centred where that is asked for."""
        v = self.encoded.vectors[i].double()
        return v - self.reference.mean.double() if self.reference and self.centred else v

    def joint_set(self, i: int, j: int) -> Bool[Tensor, " d"]:
        """Return U of two of the texts, without the largest dimensions that are left out."""
        U = joint_set(self.encoded.sets[i], self.encoded.sets[j])
        return without_largest(U, self.reference.shares, self.n_largest) if self.reference else U

    @property
    def own_similarity(self) -> float:
        """The encoder's own similarity of x and y; less that of x and z."""
        read, compare = self.encoded, self.encoder.similarity_pairwise
        own = {name: compare(read[0], read[j]).item() for j, name in self.others.items()}
        return _less(own)

    def added(self, i: int, j: int) -> Float[np.ndarray, " parts"]:
        """Return what each part of a text adds to its similarity with another."""
        x, y, U = self.vector(i), self.vector(j), self.joint_set(i, j)
        weights, rest = self._centred(i)
        added = [one_sided(rest, x, y, U)]
        if self.fixed is not None:
            added.insert(0, weights * one_sided(self.fixed.vectors, x, y, U))
        return torch.cat(added).numpy()

    def parts(self, i: int) -> Float[Tensor, "parts d"]:
        """Return the parts of a text, centred where that is asked for; they add up to `vector`."""
        weights, rest = self._centred(i)
        if self.fixed is None:
            return rest
        return torch.cat([weights[:, None] * self.fixed.vectors, rest])

    def _centred(self, i: int) -> tuple[Float[Tensor, " k"], Float[Tensor, "parts d"]]:
        """Return the weights of directions that all texts have, and the parts of its own."""
        if self.split is None:
            return torch.zeros(0), torch.diag(self.vector(i))
        text = self.split.texts[i]
        weights, rest = text.weights.double(), text.vectors.double()
        if self.reference is None or not self.centred:
            return weights, rest
        of_corpus = self.reference.split
        assert of_corpus is not None
        return weights - of_corpus.weights.double(), rest - of_corpus.expected(text).double()

    def rows(self, i: int) -> pd.DataFrame:
        """Return what each part of a text is, in the columns `WHERE`, and its key."""
        if self.split is None:
            rows = [{"kind": "dimension", "dimension": j} for j in range(self.width)]
            keys: Sequence[Key] = dimension_keys(self.width)
        else:
            text = self.split.texts[i]
            fixed = [] if self.fixed is None else self.fixed.labels
            keys = [*((None, *key) for key in keys_of(fixed)), *text.keys]
            rows = [
                {
                    **label._asdict(),
                    "of_text": label.of_text if label.position is not None else None,
                    "of_template": label.of_template if label.position is not None else None,
                    "language": None if view is None else self.views[view],
                }
                for label, view in zip(
                    [*fixed, *text.labels], [*[None] * len(fixed), *text.views], strict=True
                )
            ]
        table = pd.DataFrame(rows).reindex(columns=[*WHERE, "of_text", "of_template"])
        numbers = [*NUMBERS, *["direction"] * all(map(_is_number, table["direction"]))]
        return table.astype(dict.fromkeys(numbers, "Int64")).assign(key=list(keys))

    def words(self, table: pd.DataFrame) -> tuple[pd.DataFrame | None, str]:
        """Return the words of x in the order that deletion curves favour, and what these said.

        None where it is read in several languages: a word of one has no counterpart in another.
        """
        if len(self.views) != 1 or not in_parts(self.encoder):
            return None, ""
        prompt: Any = self.encoder.views(self.columns, self.language)[0].prompts[0]
        added = table[table["kind"] == "token"].groupby("position")["contribution"].sum()
        read = text_tokens(self.encoder.lens, prompt)
        words = read.prompt[read.prompt.start : read.prompt.stop].split()
        if len(words) < 2:
            return None, " No order of words is listed: no white space divides the text."
        sums = [added.loc[at].sum() for at in read.words]
        found = pd.DataFrame({"word": words, "position": range(len(words)), "contribution": sums})
        (name,) = self.views  # a language of DySem, or a template
        code, differs = name if name in self.columns else self.language, len(self.others) > 1
        of_model = None if differs else tested(self.encoder, code)
        said = of_model.said if of_model else OF_DIFFERENCE if differs else UNTESTED
        order = "contribution"
        if of_model and of_model.winner == LEFT_OUT:
            order = "left_out"
            found[order] = float(table["contribution"].sum()) - self._without_each(words, code)
        found = found.sort_values(order, ascending=False, kind="stable", ignore_index=True)
        return found, f" {said}"

    def _without_each(self, words: Sequence[str], code: str) -> Float[np.ndarray, " words"]:
        """Return the similarity of x without each of its words, on U of the whole texts."""
        texts = [" ".join([*words[:i], *words[i + 1 :]]) for i in range(len(words))]
        encoded = self.encoder.encode_renderings({code: texts}, code, progress=False)
        x = encoded.vectors.double()
        if self.reference and self.centred:
            x = x - self.reference.mean.double()
        y, U = self.vector(1).expand(x.shape), self.joint_set(0, 1).expand(x.shape)
        return joint_cosine(x, y, U).numpy()

    def beside_random(self, table: pd.DataFrame) -> pd.DataFrame:
        """Return a table with what each part adds to random pairs, or triples, if centred."""
        if self.reference is None or not self.centred:
            return table
        of_corpus = self.reference
        known = of_corpus.told_apart if "z" in self.others.values() else of_corpus.added
        added = [known.get(key, (math.nan, math.nan)) for key in table["key"]]
        random, spread = np.array(added).T
        surprise = np.divide(
            table["contribution"] - random,
            spread,
            out=np.full(len(table), np.nan),
            where=spread > 0,
        )
        return table.assign(random=random, spread=spread, surprise=surprise)

    def _said_of_corpus(self) -> str:
        if self.reference is None:
            return "not centred"
        name = self.reference.name
        if not self.centred:
            return f"not centred, largest dimensions of {name}"
        return f"centred on {name}" + (
            f", {self.among} of these texts among them" if self.among else ""
        )

    def facts(self, **asked: object) -> Facts:
        """Return what it was measured on."""
        model = self.encoder.facts
        if model is None:
            raise InputError(
                f"{self.encoder.name} does not say of which model it is; give it `facts`"
            )
        texts = self.columns[self.language]
        short = [textwrap.shorten(text, SHOWN, placeholder=" …") for text in texts]
        quoted = " / ".join(f"“{text}”" for text in short)
        languages = [f"in {'/'.join(self.columns)}"] if len(self.columns) > 1 else []
        said = [quoted, *languages, self.encoder.name, self._said_of_corpus()]
        of_text = zip(*self.columns.values(), strict=True)
        unsaid: dict[str, object] = {
            **{
                name: dict(zip(self.columns, of, strict=True))
                for name, of in zip("xyz", of_text, strict=False)
            },
            "language": self.language,
            "drop_largest": self.n_largest,
            "centre": self.reference.name if self.reference and self.centred else None,
            "directions": self.directions.record() if self.directions is not None else None,
        }
        recorded: dict[str, object] = {"encoder": self.encoder.config, "centred": self.centred}
        if self.reference is not None:
            of = self.reference
            recorded["reference"] = dict(
                name=of.name, digest=of.digest, texts=of.n_texts, pairs=of.n_pairs, seed=of.seed
            )
        label = " / ".join(texts)
        return Facts(model, ", ".join(said), label, 1, (), asked, unsaid, recorded)


def _less(of: Mapping[str, Any]) -> Any:
    """Return what is of y, less what is of z where there is one."""
    return of["y"] - of["z"] if "z" in of else of["y"]


def _is_number(value: object) -> bool:
    """Return whether a cell is a number, or has nothing."""
    return not isinstance(value, str)


def _on(U: Bool[Tensor, " d"], table: pd.DataFrame) -> pd.DataFrame:
    """Return a table without the dimensions outside the joint set, and without the keys."""
    outside = table["dimension"].notna() & ~U.numpy()[table["dimension"].fillna(0).astype(int)]
    table = table[~outside].dropna(axis="columns", how="all").drop(columns="key")
    return table.reset_index(drop=True)


def _crossed(texts: Texts, split: Texts) -> pd.DataFrame:
    """Return a row for each part of x with each of y, and of z, whose sign is the other one.

    Args:
        texts: Split as x is.
        split: The same, split as the others are.

    Raises:
        InputError: More rows than `MOST_ROWS`.
    """
    rows, x = texts.rows(0), texts.vector(0)
    others = pd.concat([split.rows(j).assign(text=name) for j, name in texts.others.items()])
    if (n := len(rows) * len(others)) > MOST_ROWS:
        of = " and ".join(texts.others.values())
        raise InputError(
            f"{len(rows):,} parts of x times {len(others):,} of {of} are {n:,} rows, more than "
            f"{MOST_ROWS:,}; split one text alone, or into fewer parts"
        )
    added = [
        two_sided(texts.parts(0), split.parts(j), x, texts.vector(j), texts.joint_set(0, j))
        * (-1 if name == "z" else 1)
        for j, name in texts.others.items()
    ]
    if len(added) == 1:
        others = others.drop(columns="text")
    table = rows.merge(others.add_prefix("other_"), "cross")
    return table.assign(contribution=torch.cat(added, 1).numpy().ravel()).drop(columns="other_key")
