"""dysem-lab: where in a language model does sentence meaning live?

The names of `__init__.pyi` load on first use, so importing the package is quick and needs no model
library.
"""

from importlib.metadata import version

import lazy_loader

from dysem_lab.startup import garbage_collection_paused

__version__ = version("dysem-lab")
_load, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


def __getattr__(name: str) -> object:
    with garbage_collection_paused():
        return _load(name)
