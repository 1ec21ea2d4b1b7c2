"""Where a similarity stands among those of the demo pairs, in a panel: said, or offered."""

from functools import cache
from typing import Any

from dysem_lab.data.sts import STSData, load_data
from dysem_lab.display import Progress
from dysem_lab.encoders.base import Encoder, LensEncoder
from dysem_lab.errors import DysemLabError
from dysem_lab.explorers.panel import Offer
from dysem_lab.models.store import VectorStore
from dysem_lab.questions.scale import (
    Scale,
    read_pairs,
    scale_of,
    seconds_needed,
    unread,
)

Key = tuple[Any, ...]
TIMED = 4  # passes by which the time of the rest is told: somebody waits for the answer


class Standing:
    """The scales of a panel's model: those whose demo pairs have been read, and no others.

    Args:
        store: Where what was read is kept; None is the user's store.
    """

    def __init__(self, store: VectorStore | None = None) -> None:
        """Look nothing up yet."""
        self._given = store
        self._missing: dict[Key, int] = {}
        self._seconds: dict[str, float] = {}  # fingerprint → of one pass
        self._read: dict[Key, Any] = {}
        self._scales: dict[Key, Scale] = {}

    def of(
        self, encoder: Encoder, similarity: float, language: str = "en"
    ) -> tuple[str, Offer | None]:
        """Say where a similarity stands; where the demo pairs were not read, offer to do so.

        Args:
            encoder: What gave it.
            similarity: The number.
            language: The texts' own.

        Returns:
            What is said, such as "higher than 71 % of …", and the offer; "" and None where the
            encoder has no scale: it reads no model of ours, or there is no store.
        """
        scale, offer = self.scale(encoder, language)
        return ("" if scale is None else scale.place(similarity)), offer

    def scale(self, encoder: Encoder, language: str = "en") -> tuple[Scale | None, Offer | None]:
        """Return the scale of an encoder, or an offer to make it; see `of`."""
        if not isinstance(encoder, LensEncoder) or (store := self._store()) is None:
            return None, None
        settings = {name: value for name, value in encoder.config.items() if name != "k"}
        key = (encoder.lens.fingerprint, language, repr(sorted(settings.items())))
        if key not in self._missing:
            self._missing[key] = unread(encoder, store, language=language)
        if self._missing[key]:
            return None, self._offer(key, encoder, store, language)
        asked = (*key, encoder.config.get("k"))
        if asked not in self._scales:
            self._scales[asked] = self._made(key, encoder, store, language)
        return self._scales[asked], None

    def _store(self) -> VectorStore | None:
        if self._given is None:
            try:
                self._given = VectorStore()
            except DysemLabError:  # no folder that can be written
                return None
        return self._given

    def _offer(
        self, key: Key, encoder: LensEncoder, store: VectorStore, language: str
    ) -> Offer | None:
        model = key[0]
        if model not in self._seconds:
            seconds = seconds_needed(encoder, store, language=language, timed=TIMED)
            n = self._missing[key] = unread(encoder, store, language=language)
            self._seconds[model] = seconds / n if n else 0.0
        n = self._missing[key]

        def work(progress: Progress) -> None:
            read_pairs(encoder, store, language=language, progress=progress)
            del self._missing[key]

        pairs = len(_demo((language, *encoder.languages)))
        label = (
            f"Where does it stand? Read the {pairs} demo pairs ({n:,} passes, "
            f"about {_duration(n * self._seconds[model])})"
        )
        return Offer(label, work)

    def _made(self, key: Key, encoder: LensEncoder, store: VectorStore, language: str) -> Scale:
        data = _demo((language, *encoder.languages))
        columns = {code: data.texts(code) for code in data.languages}
        views = encoder.views(columns, language)
        if key not in self._read:
            self._read.clear()
            self._read[key] = encoder.read(views, store=store, progress=False)
        encoded = encoder.combined(views, self._read[key])
        return scale_of(encoder, data, encoded, "the demo set")


@cache
def _demo(codes: tuple[str, ...]) -> STSData:
    """Return the demo pairs in some languages."""
    return load_data("demo", languages=tuple(dict.fromkeys(codes)))


def _duration(seconds: float) -> str:
    return f"{max(1, round(seconds))} s" if seconds < 90 else f"{round(seconds / 60)} min"


def headline(what: str, value: float, said: str, digits: int = 4) -> str:
    """Return a similarity and where it stands as HTML: what a panel answers first."""
    shown = "undefined" if value != value else f"{value:.{digits}f}"
    place = f": {said}." if said else "."
    return f'<p><span class="dysem-big">{shown}</span><b>{what}</b>{place}</p>'
