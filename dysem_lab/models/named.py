"""A model that is known by its name, and loaded when it first has to run."""

from pathlib import Path
from weakref import WeakValueDictionary

from dysem_lab.models.embedded import EMBEDDED
from dysem_lab.models.facts import ModelFacts
from dysem_lab.models.lens import LensModel
from dysem_lab.models.loading import load_model, resolve_device, size_of, source_digest
from dysem_lab.models.names import check_name
from dysem_lab.models.store import VectorStore
from dysem_lab.models.untrained import name_of, untrained

# Those who name the same model share it for as long as one of them holds it.
_LOADED: WeakValueDictionary[tuple[str, str, str], LensModel] = WeakValueDictionary()


class NamedModel:
    """A model by its name; what a store knows of it needs no weights in memory.

    Arguments and errors as for `dysem_lab.load_model`, but what is loaded already will do as well.
    """

    def __init__(
        self, model: str | Path | LensModel, device: str = "auto", dtype: str = "auto"
    ) -> None:
        """Check name, device and data type; nothing is loaded."""
        if not isinstance(model, LensModel):
            check_name(model)
        self._given = model if isinstance(model, LensModel) else None
        self._source = model.name if isinstance(model, LensModel) else model
        self._device, self._dtype = resolve_device(device, dtype)
        self._lens: LensModel | None = self._given
        self._facts: ModelFacts | None = None

    @property
    def name(self) -> str:
        """The name that it is loaded by."""
        return str(self._source)

    @property
    def dtype(self) -> str:
        """The data type that it computes in."""
        return self._given.facts.dtype if self._given is not None else self._dtype

    @property
    def weights(self) -> str | None:
        """What is said of its weights, where that is known without loading it."""
        known = self._given or self._facts
        if known is None and self.name in EMBEDDED:
            return EMBEDDED[self.name].weights(self._dtype)
        return known.weights if known else None

    @property
    def lens(self) -> LensModel:
        """The model, loaded on first use."""
        if self._lens is None:
            key = (source_digest(self._source), self._device, self._dtype)
            lens = _LOADED.get(key)
            if lens is None or lens.facts.source != lens.source:  # changed in memory by its user
                lens = load_model(self._source, device=self._device, dtype=self._dtype)
                _LOADED[key] = lens
            self._lens = lens
        return self._lens

    def release(self) -> None:
        """Let go of a model that was loaded here; it is freed when nobody else holds it."""
        self._lens = self._given

    def known(self, store: VectorStore) -> ModelFacts | None:
        """Return what is known of the model without loading it, or None."""
        if self._given is not None:
            return self._given.facts
        return store.recall(source_digest(self._source), self._dtype)

    def facts(self, store: VectorStore) -> ModelFacts:
        """Return what is known of the model; it is loaded only if the store has never seen it.

        Raises:
            ModelError: As for `dysem_lab.capture` with a store.
        """
        if self._given is not None:
            self._given.check_own_pass()
            return self._given.facts  # its user may change it
        if self._facts is None:
            self._facts = self.known(store) or self.lens.facts
        return self._facts

    def size(self) -> tuple[int, int] | None:
        """Return (L, d), from the configuration alone; None where that does not tell."""
        if self._given is not None:
            return self._given.n_layers, self._given.d_model
        return size_of(self.name)


class UntrainedModel(NamedModel):
    """A model of the same architecture that was never trained, made when it first has to run.

    Args:
        of: The model.
        seed: As for `dysem_lab.untrained`.
    """

    def __init__(self, of: NamedModel, seed: int = 0) -> None:
        """Keep the model and the seed; nothing is loaded."""
        self._of, self._seed = of, seed
        self._given = self._lens = self._facts = None

    @property
    def name(self) -> str:
        """The model's, with the seed."""
        return name_of(self._of.name, self._seed)

    @property
    def dtype(self) -> str:
        """The data type that it computes in."""
        return self._of.dtype

    @property
    def weights(self) -> str:
        """That they are random."""
        return "random weights"

    @property
    def lens(self) -> LensModel:
        """The model, made on first use."""
        if self._lens is None:
            self._lens = untrained(self._of.lens, self._seed)
        return self._lens

    def release(self) -> None:
        """Let go of it, and of the trained one."""
        self._lens = None
        self._of.release()

    def known(self, store: VectorStore) -> ModelFacts | None:
        """Return what is known of it, once it was made."""
        return self._facts

    def size(self) -> tuple[int, int] | None:
        """Return (L, d), from the configuration alone; None where that does not tell."""
        return self._of.size()
