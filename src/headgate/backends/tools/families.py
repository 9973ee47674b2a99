"""The reader for each family of spellings."""

from collections.abc import Collection

from headgate.backends.dialect import Family
from headgate.backends.tools.hermes import Hermes
from headgate.backends.tools.llama import Llama
from headgate.backends.tools.mistral import Mistral
from headgate.backends.tools.reader import Reader

_READERS: dict[Family, type[Reader]] = {"hermes": Hermes, "llama": Llama, "mistral": Mistral}


def reader(family: Family, names: Collection[str], *, parallel: bool = True) -> Reader:
    """Cuts one answer of such a model into text and calls of the tools with these names."""
    return _READERS[family](names, parallel=parallel)
