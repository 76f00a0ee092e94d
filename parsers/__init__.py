"""Untrusted bytes are parsed here, each file in a limited child process of its own (THREATS T91).

Services call ``parsers.run`` and nothing else: ``run.read`` starts a child, which imports one module of this package
(``image``, …), gives it the bytes and sends back what it made. A parser module has ``parse(data, arguments) -> (values,
blobs)``, where data are bytes, or a file if it ``SEEKS``. It may fail in any way it likes: the parent sees
``ParserFailed``.
"""

from collections.abc import Sequence


class ParserFailed(Exception):
    """The file could not be parsed; a normal result, not to be retried. ``reason`` is written for people."""

    def __init__(self, reason: str):
        super().__init__(reason)
        self.reason = reason


class Unsupported(ParserFailed):
    """The parser does not know this kind of file."""


class WeakSandbox(Exception):
    """Nothing was parsed, since the child's process lacks locks, which ``missing`` names."""

    def __init__(self, missing: Sequence[str]):
        super().__init__(f"The sandbox of parsers lacks {' and '.join(missing)}")
        self.missing = tuple(missing)
