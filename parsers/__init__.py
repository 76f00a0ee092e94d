"""Parsers of untrusted files. Each file is parsed in a locked child process of its own (T91, T132).

``reading.read`` chooses the parser by the file's type; ``run.run`` starts a child, which imports one module of this package,
gives it the file and sends back what it made. Such a module has ``parse(data, arguments) -> (values, blobs)``. ``data`` are
bytes, or a file object if the module ``SEEKS``; ``values`` must be JSON. It may start threads only if it says ``THREADS``.
``parse`` may be a generator that yields ``(values, part)`` before its hardest part, mostly "picture": if that fails, even if
the child is killed, these values are the answer, and ``values["failed"]`` names the part with the reason.

Invariants
    Nothing of a file is parsed outside a child, except its first 64 KiB, to find its type (services/library/sniff.py).
    A child has an empty environment, no network, no writable file, and limits on time, memory and output.
    However a child ends, the caller sees an answer, Unsupported or ParserFailed. Answers are checked like any input.
    No bytes, names or messages from a library reach logs or clients, only this package's own texts.

Open run.py first, then reading.py.
    run.py, child.py    both sides of the process: request, limits, answer
    locks.py, sandbox.py    seccomp and Landlock, and whether this machine has them
    ranged.py           large files, of which only ranges are read
    reading.py          which parser reads which type, and what is read
    image, heif, svg, media, pdf     pictures and metadata; pictures, thumbhash, exif, declared and mp3 help
    office, sheets, packages         documents that are ZIP files of XML
    text, markup, table, html_text   text files
    archive, zip_directory           listings; the entries of ZIP files
    entry_names                      names in archives that do not say how they are encoded
    mail                             messages and mailboxes
    place                            the location in pictures, to be removed
    plain_text, language, cpu_timer  cleaning, language detection, limits of time within a child
"""

from collections.abc import Generator, Sequence
from typing import Any

Partly = Generator[tuple[dict[str, Any], str], None, tuple[dict[str, Any], list[bytes]]]  # what ``parse`` may return

PROTECTED = "The document is protected by a password"


class ParserFailed(Exception):
    """The file could not be parsed: a result, not to be retried. ``reason`` is shown to people."""

    def __init__(self, reason: str):
        super().__init__(reason)
        self.reason = reason


class Unsupported(ParserFailed):
    """No parser reads this kind of file."""


class WeakSandbox(Exception):
    """Nothing was parsed, since the child lacks the locks named in ``missing``."""

    def __init__(self, missing: Sequence[str]):
        super().__init__(f"The sandbox of parsers lacks {' and '.join(missing)}")
        self.missing = tuple(missing)
