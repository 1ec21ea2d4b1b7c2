"""What does a part of a text's stream carry? It is put into the pass of another text.

At the last token of block b a part of the donor's residual stream takes the place of the
receiver's, and the pass goes on; beside it, the same with other parts of the same vector. One pair
of texts shows what a patch does. Whether it holds over many is what
`dysem_lab.questions.causal.set_interchange` tests.
"""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from dysem_lab.display import Progress, silent
from dysem_lab.encoders.base import require_language
from dysem_lab.encoders.settings import check_settings
from dysem_lab.errors import InputError
from dysem_lab.inputs import (
    at_least,
    by_language,
    check_k,
    checked,
    index_of,
    names_of,
    one_of,
    seed_of,
)
from dysem_lab.joint import cosine
from dysem_lab.models.capture import unique_prompts
from dysem_lab.models.edits import patch
from dysem_lab.models.last_token import LastToken, Prefix, prefixes, record_edits
from dysem_lab.models.lens import LensModel, require_model
from dysem_lab.models.places import Place
from dysem_lab.models.readout import token_texts, visible
from dysem_lab.models.record import Edit, finite
from dysem_lab.prompts import TEMPLATE_NAMES, wrap
from dysem_lab.questions.causal_sets import OWN, At, Draws, parts_of
from dysem_lab.questions.finding import Facts, Finding
from dysem_lab.questions.pair_view import require_renderings
from dysem_lab.questions.patching_picture import (
    DONOR,
    RECEIVER,
    SETS,
    SHOWN,
    Effect,
    caption,
    figure,
)

QUOTED = 40  # of a text under its title
BOUNDED = [of + end for of in ("moved", "gain") for end in ("", "_low", "_high")]
COLUMNS = ["set", "n_draws", "n_dims", "share", *BOUNDED, "to_donor", "to_receiver"]


def patch_effect(
    lens: LensModel,
    receiver: str,
    donor: str | Mapping[str, str],
    layer: int,
    languages: Sequence[str] | None = None,
    dimensions: str = OWN,
    *,
    k: int | float = 0.25,
    template: str = "prompteol",
    setting: str = "language-specific",
    language: str = "en",
    n_draws: int = 20,
    top: int = 5,
    seed: int = 0,
) -> Finding:
    """Put a part of a donor's residual stream into a receiver's pass, beside its controls.

    Args:
        lens: As for `Exchange`, like `receiver`, `donor`, `languages` and the prompt's settings.
        receiver: The text whose pass is changed.
        donor: The text whose vector is put in, or language → it.
        layer: Block b, 0-based; the vector is h^b at the last token.
        languages: 𝓛 of the donor's consensus.
        dimensions: What the figure and the caption are about, of `SETS`: "S(x)", the donor's
            consensus set of h^b (Eqs. 11-13), or "largest |v|", as many with the largest values.
        k: Dimensions of S(x), or fraction of d.
        template: Prompt template.
        setting: "english" or "language-specific".
        language: Of the receiver, and of the donor's vector.
        n_draws: Random sets of equal size, and random rotations of the stream.
        top: Next tokens of each pass.
        seed: Of the first draw.

    Returns:
        One row per ``set``: the receiver's own pass, `SHOWN` of
        `dysem_lab.questions.patching_picture`, and the donor's own pass.
        ``n_draws``; ``n_dims`` and ``share``, size of the part and its share of the length of the
        whole change, mean over the draws; ``moved``, how much of the way from the receiver's h^L to
        the donor's it goes (0 is none, 1 all: the projection on that way), with the least and the
        most of the draws, ``moved_low`` and ``moved_high``; ``to_donor`` and ``to_receiver``,
        cosines of h^L with theirs; ``gain``, change of the log-probability (nats) of the donor's
        own top token, with ``gain_low`` and ``gain_high``; ``tokens``, the most probable next ones
        with their probability, of the mean over the draws.

    Raises:
        InputError: As for `Exchange` and `Exchange.effect`, or an unknown set.
        MissingTranslationError: As for `Exchange`.

    Source: interchange interventions, Geiger et al. (arXiv 2106.02997).
    """
    one_of(dimensions, SETS, "dimensions")
    _draws(lens, layer, k, n_draws, top, seed)  # what is wrong is said before a pass
    texts = Exchange(lens, receiver, donor, languages, template, setting, language)
    effect = texts.effect(layer, k, n_draws=n_draws, top=top, seed=seed)
    drawn, said = figure(effect, dimensions), caption(effect, dimensions)
    facts = replace(effect.facts, unsaid={**effect.facts.unsaid, "dimensions": dimensions})
    return Finding("patch_effect", effect.table, drawn, said, facts)


def _draws(lens: LensModel, layer: int, k: int | float, n_draws: int, top: int, seed: int) -> Draws:
    """Return what is drawn, once all that an effect is asked for is known to be sound."""
    index_of(layer, require_model(lens).n_layers, "layer")
    check_k(k, lens.d_model)
    at_least(top, 1, "top")
    n_draws = at_least(n_draws, 1, "n_draws")
    return Draws(n_draws, n_draws, seed_of(seed))


class Exchange:
    """A receiver and a donor; all that no patch changes is run once.

    Args:
        lens: The model.
        receiver: The text whose pass is changed.
        donor: The text whose vectors are put in, or language → it.
        languages: 𝓛 of the donor's consensus; None is all that it is given in.
        template: Prompt template.
        setting: "english" or "language-specific".
        language: Of the receiver, and of the donor's vectors.
        progress: Called between the passes.

    Raises:
        InputError: An empty text, an unknown name, or a donor that is the receiver.
        MissingTranslationError: The donor is not given in one of the languages.
    """

    def __init__(
        self,
        lens: LensModel,
        receiver: str,
        donor: str | Mapping[str, str],
        languages: Sequence[str] | None = None,
        template: str = "prompteol",
        setting: str = "language-specific",
        language: str = "en",
        progress: Progress = silent,
    ) -> None:
        """Run both texts as they are."""
        self.lens, (self.receiver,) = require_model(lens), checked([receiver], "receiver")
        require_language(language)
        given = {language: donor} if isinstance(donor, str) else by_language(donor)
        self.codes = list(given) if languages is None else names_of(languages, "language")
        check_settings(self.codes, "resid", template, setting, "mean")
        self.language, self.template, self.setting = language, template, setting
        wanted = list(dict.fromkeys([*self.codes, language]))
        require_renderings("donor", given, wanted)
        self.donor = {code: given[code] for code in wanted}
        of_donor = {code: wrap([given[code]], template, setting, code)[0] for code in wanted}
        self._prompt: str = wrap([self.receiver], template, setting, language)[0]
        if of_donor[language] == self._prompt:
            raise InputError(
                f"donor and receiver are the same text, {self.receiver!r}, so nothing would "
                "change; give another one"
            )
        (self._prefix,) = prefixes(lens, [self._prompt])
        read: dict[str, Read] = {}
        prompts = unique_prompts([*of_donor.values()])
        for prefix in (self._prefix, *prefixes(lens, prompts)):
            progress(len(read), 1 + len(prompts), "Reading")
            read |= self._plain(prefix)
        self._receiver = read[self._prompt]
        self._donor = {code: read[prompt] for code, prompt in of_donor.items()}

    def _plain(self, prefix: Prefix) -> "dict[str, Read]":
        """Return prompt → what its own pass says."""
        places = [Place("resid", block) for block in range(self.lens.n_layers)]
        (found,) = record_edits(
            self.lens, prefix, {"": Edit(self.lens)}, places, logits=True
        ).values()
        streams = torch.stack([found.vectors[place] for place in places], 1)
        rows = zip(prefix.prompts, self._log_p([found]), streams, strict=True)
        return {prompt: Read(log_p[None], stream) for prompt, log_p, stream in rows}

    def _log_p(self, passes: Sequence[LastToken]) -> Float[Tensor, "n n_tokens"]:
        """Return the log-probabilities of the next token."""
        logits = torch.cat([of.logits for of in passes if of.logits is not None])
        return finite(self.lens, "the prediction", logits).log_softmax(-1)

    def effect(
        self, layer: int, k: int | float = 0.25, *, n_draws: int = 20, top: int = 5, seed: int = 0
    ) -> Effect:
        """Return what patches at a block do; a pass of the receiver's last token for each.

        Args:
            layer: Block b, 0-based.
            k: As for `patch_effect`, as are the other arguments.
            n_draws: Random sets, and random rotations.
            top: Next tokens.
            seed: Of the first draw.

        Raises:
            InputError: A block that the model does not have, or k, draws or tokens out of range.
        """
        lens, end = self.lens, Place("resid")
        draws = _draws(lens, layer, k, n_draws, top, seed)
        receiver, donor = self._receiver, self._donor[self.language]
        new, change = donor.stream[layer], donor.stream[layer] - receiver.stream[layer]
        consensus = torch.stack([self._donor[code].stream[layer] for code in self.codes])
        no_corpus = torch.zeros_like(new)  # none of `SHOWN` is chosen by variance
        parts = parts_of(At(consensus[None], new[None], change[None], no_corpus), k, draws, SHOWN)
        edits = {
            (name, i): patch(
                lens,
                {self._prompt: new},
                f"resid.{layer}",
                dimensions=part.masks[0],
                basis=part.basis,
            )
            for name, drawn in parts.items()
            for i, part in enumerate(drawn)
        }
        found = record_edits(lens, self._prefix, edits, [end], logits=True)
        rows = [self._row(RECEIVER, receiver.log_p, receiver.stream[-1:])]
        for name, drawn in parts.items():
            mine = [found[name, i] for i in range(len(drawn))]
            row = self._row(name, self._log_p(mine), torch.cat([of.vectors[end] for of in mine]))
            row["n_draws"] = len(drawn)
            row["n_dims"] = float(np.mean([int(part.masks.sum()) for part in drawn]))
            lengths = torch.cat([part.of(change[None]).norm(dim=-1) for part in drawn])
            row["share"] = (lengths.mean() / change.norm()).item()
            rows.append(row)
        rows.append(self._row(DONOR, donor.log_p, donor.stream[-1:]))
        tokens = pd.concat([_top(lens, row, top) for row in rows], ignore_index=True)
        said = tokens["token"].map(visible) + tokens["probability"].map(" {:.2f}".format)
        table = pd.DataFrame(rows).reindex(columns=COLUMNS)
        table["tokens"] = table["set"].map(said.groupby(tokens["set"]).agg(", ".join))
        moved = {row["set"]: row["draws"] for row in rows}
        asked = {"k": k, "n_draws": n_draws, "top": top, "seed": seed}
        return Effect(table, tokens, moved, layer, lens.d_model, self._facts(layer, asked))

    def _row(
        self, name: str, log_p: Float[Tensor, "draws n_tokens"], stream: Float[Tensor, "draws d"]
    ) -> dict[str, Any]:
        """Return what is measured on the draws of a set, or on a pass of its own."""
        receiver, donor = self._receiver, self._donor[self.language]
        start = receiver.stream[-1].double()
        way = donor.stream[-1].double() - start
        moved = (stream.double() - start) @ way / way.square().sum()
        gain = (log_p - receiver.log_p)[:, donor.log_p.argmax()]
        row: dict[str, Any] = {"set": name, "draws": moved, "p": log_p.exp().mean(0)}
        for measure, values in (("moved", moved), ("gain", gain)):
            row[measure] = values.mean().item()
            row |= {f"{measure}_low": values.min().item(), f"{measure}_high": values.max().item()}
        for whose, of in ((DONOR, donor), (RECEIVER, receiver)):
            row[f"to_{whose}"] = cosine(stream, of.stream[-1:].expand_as(stream)).mean().item()
        return row

    def _facts(self, layer: int, asked: dict[str, Any]) -> Facts:
        """Return what it was measured on."""
        donor = textwrap.shorten(self.donor[self.language], QUOTED, placeholder=" …")
        receiver = textwrap.shorten(self.receiver, QUOTED, placeholder=" …")
        said = [
            f"“{donor}” into “{receiver}”",
            TEMPLATE_NAMES.get(self.template, self.template),
            self.setting,
            "/".join(self.codes),
        ]
        of_texts = {"receiver": self.receiver, "donor": self.donor, "language": self.language}
        unsaid = {"languages": self.codes, "template": self.template, "setting": self.setting}
        settings = {"layer": layer, **asked}
        label = f"{self.donor[self.language]} / {self.receiver}"
        return Facts(
            self.lens.facts,
            ", ".join(said),
            label,
            1,
            settings=settings,
            unsaid={**of_texts, **unsaid},
        )


class Read(NamedTuple):
    """What a pass says at the last token: log-probabilities of the next one, and each h^b."""

    log_p: Float[Tensor, "1 n_tokens"]
    stream: Float[Tensor, "L d"]


def _top(lens: LensModel, row: Mapping[str, Any], top: int) -> pd.DataFrame:
    """Return the most probable next tokens of a row."""
    best = row["p"].topk(min(top, len(row["p"])))
    ids = best.indices.tolist()
    ranked = {"rank": range(1, len(ids) + 1), "token": token_texts(lens, ids), "id": ids}
    return pd.DataFrame({"set": row["set"], **ranked, "probability": best.values.tolist()})
