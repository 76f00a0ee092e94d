"""multipart/form-data (RFC 7578) as a stream: fields and files in the order in which they arrive.

``request.files`` would write every file to disk before a view sees it. Here a file is a stream from the socket: memory holds
one read of 1 MiB, whatever the file's size. The ``multipart`` library's push parser parses the syntax; this module reads,
applies limits, and turns every fault into an error for the client (T3, T4, T6).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from multipart import MultipartError, MultipartSegment, ParserLimitReached, PushMultipartParser

from core import charsets, disposition
from core.errors import GatewayError, MalformedUpload, RequestTooLarge, TooManyFiles

READ_BYTES = 1024 * 1024  # one read of the socket; 64 KiB reads cost three times the CPU
_MAX_QUIET = 64 * 1024  # bytes in a row that are neither a header nor in a part
_BOUNDARY = re.compile(r"[\x20-\x7e]{1,200}")  # RFC 2046 §5.1.1 says 70; some clients send more


@dataclass(frozen=True, slots=True)
class FormLimits:
    """Limits of one form."""

    max_files: int = 200
    max_segments: int = 1_000  # fields and files together
    max_field_size: int = 64 * 1024  # bytes of one value
    max_fields_size: int = 1024 * 1024  # bytes of all values together
    max_header_size: int = 8 * 1024  # bytes of one header line
    max_header_count: int = 16  # lines of one segment


class ByteSource(Protocol):
    """Like ``wsgi.input``."""

    def read(self, size: int, /) -> bytes:
        """Up to ``size`` bytes; b"" at the end."""


@dataclass(frozen=True, slots=True)
class Field:
    """A field that is not a file."""

    name: str
    value: str


class FilePart:
    """A file in the form. ``filename`` and ``content_type`` come from the client and must be cleaned and checked.

    It must be read before the next part; what is left then is skipped."""

    def __init__(self, name: str, filename: str, content_type: str, next_chunk: Callable[[], bytes]):
        self.name = name
        self.filename = filename  # decoded once, not cleaned: core.names.clean_name does that
        self.content_type = content_type  # "" if the client sent none
        self.bytes_read = 0
        self._next_chunk = next_chunk
        self._rest = memoryview(b"")
        self._ended = False

    def read(self, size: int = READ_BYTES, /) -> bytes:
        """Up to ``size`` bytes, b"" only at the file's end; the rest for a negative size. Raises MalformedUpload, again at each
        further call, if the body breaks off."""
        if size < 0:
            return b"".join(iter(self.read, b""))
        if not self._rest:
            if self._ended or size == 0:
                return b""
            chunk = self._next_chunk()
            self._ended = not chunk
            if len(chunk) <= size:  # without a copy
                self.bytes_read += len(chunk)
                return chunk
            self._rest = memoryview(chunk)
        piece, self._rest = self._rest[:size], self._rest[size:]
        self.bytes_read += len(piece)
        return bytes(piece)

    def skip(self) -> None:
        """Discard the rest of the file."""
        self._rest = memoryview(b"")
        while not self._ended:
            self._ended = not self._next_chunk()


class FormReader:
    """Iterate once to get each ``Field`` and ``FilePart`` of a body.

    Raises MalformedUpload if the body is not a form, breaks off, is shorter than its Content-Length, or has no file name in one
    of the ``file_fields``; TooManyFiles and RequestTooLarge at the limits. Only an iteration that ends without an error has
    seen the entire body. A file input that was left empty in a browser (no name, no bytes) is skipped."""

    def __init__(
        self,
        stream: ByteSource,
        content_type: str,
        content_length: int | None,
        limits: FormLimits | None = None,
        *,
        file_fields: frozenset[str] = frozenset({"files"}),
    ):
        self._stream = stream
        self._limits = limits or FormLimits()
        self._file_fields = file_fields
        self._length = content_length
        self._received = 0
        self._failure: GatewayError | None = None
        self._charset: str | None = "utf-8"  # of text that names none
        boundary = disposition.parameters(content_type).get("boundary", "")
        if content_type.partition(";")[0].strip().lower() != "multipart/form-data":
            raise MalformedUpload("The body must be multipart/form-data")
        if not _BOUNDARY.fullmatch(boundary):
            raise MalformedUpload("The Content-Type header gives no valid boundary")
        self._parser = PushMultipartParser(
            boundary,
            content_length=-1 if content_length is None else content_length,
            max_header_size=self._limits.max_header_size,
            max_header_count=self._limits.max_header_count,
            max_segment_count=self._limits.max_segments,
            header_charset="latin-1",  # a character for each byte: what they mean is decided here
        )
        self._events = self._parse()
        self._parts = self._iterate()

    def __iter__(self) -> Iterator[Field | FilePart]:
        return self._parts

    def _iterate(self) -> Iterator[Field | FilePart]:
        files = field_bytes = 0
        for segment in self._events:
            assert isinstance(segment, MultipartSegment)  # each part is read to its end below
            with _readable_text():
                sent = disposition.parameters(charsets.strictly_decoded(_disposition(segment), self._charset))
                name, filename = sent.get("name", ""), disposition.sent_filename(sent)
            if filename is None:
                if name in self._file_fields:
                    raise MalformedUpload(f"The field {name} is a file field, but has no filename")
                content_type = segment.header("Content-Type", "")
                if content_type.lower().startswith("multipart/"):  # RFC 7578 §4.3; it would hide files
                    raise MalformedUpload("Send each file in a part of its own")
                value = self._value()
                field_bytes += len(value)
                if field_bytes > self._limits.max_fields_size:
                    raise RequestTooLarge("The form's fields are too large")
                label = disposition.parameters(content_type).get("charset")
                with _readable_text():
                    text = charsets.strictly_decoded(value, charsets.named(label) if label else self._charset)
                if name == "_charset_" and text:  # RFC 7578 §4.6; as in HTML, UTF-16 stands for UTF-8
                    found = charsets.named(text)
                    self._charset = "utf-8" if found and found.startswith("utf-") else found
                yield Field(name, text)
            elif filename == "":
                if self._next_chunk():
                    raise MalformedUpload(f"A file in the field {name} has an empty filename")
            else:
                files += 1
                if files > self._limits.max_files:
                    raise TooManyFiles(f"At most {self._limits.max_files} files are allowed in one request")
                part = FilePart(name, filename, segment.header("Content-Type", ""), self._next_chunk)
                yield part
                part.skip()

    def _value(self) -> bytes:
        value = bytearray()
        while chunk := self._next_chunk():
            value += chunk
            if len(value) > self._limits.max_field_size:
                raise RequestTooLarge(f"A field of the form is larger than {self._limits.max_field_size} bytes")
        return bytes(value)

    def _next_chunk(self) -> bytes:
        """More bytes of the current part; b"" once, at its end."""
        if self._failure:  # the generator has ended, which would look like the end of the part
            raise self._failure
        return next(self._events, None) or b""

    def _parse(self) -> Iterator[Any]:
        """The parser's events: a segment, its bytes, None at its end. The body is read past the last boundary to tell a
        complete body from one that was cut there: the server's read() reports no error when the client disconnects."""
        quiet = 0
        try:
            while chunk := self._read():
                quiet += len(chunk)
                for event in self._parser.parse(chunk):
                    quiet = 0
                    yield event
                if quiet > _MAX_QUIET:
                    raise MalformedUpload("The body has too many bytes outside its parts")
            self._parser.close()
            if self._length is not None and self._received != self._length:
                raise MalformedUpload("The body is shorter than its Content-Length")
        except ParserLimitReached as error:
            self._failure = RequestTooLarge(f"The form is too large: {error}")
            raise self._failure from error
        except MultipartError as error:
            self._failure = MalformedUpload(f"The form can't be read: {error.args[0]}")
            raise self._failure from error
        except GatewayError as error:
            self._failure = error
            raise

    def _read(self) -> bytes:
        wanted = READ_BYTES if self._length is None else min(READ_BYTES, self._length - self._received)
        if wanted <= 0:
            return b""
        try:
            chunk = self._stream.read(wanted)
        except (OSError, EOFError) as error:  # gunicorn's NoMoreData and a stalled or reset socket are OSErrors
            raise MalformedUpload("The connection ended before the body was complete") from error
        self._received += len(chunk)
        return chunk


def _disposition(segment: MultipartSegment) -> bytes:
    """The part's Content-Disposition.

    Raises MalformedUpload for what two readers could understand differently: a second one, and transfer encodings, which are
    obsolete (RFC 7578 §4.7)."""
    headers = [value for name, value in segment.headerlist if name == "Content-Disposition"]
    if len(headers) != 1:
        raise MalformedUpload("A part must have exactly one Content-Disposition")
    if segment.header("Content-Transfer-Encoding", "binary").strip().lower() not in ("binary", "8bit", "7bit"):
        raise MalformedUpload("Parts must not have a Content-Transfer-Encoding")
    return headers[0].encode("latin-1")  # type: ignore[no-any-return]


@contextmanager
def _readable_text() -> Iterator[None]:
    """Text whose encoding is wrong or not known is malformed."""
    try:
        yield
    except ValueError as error:
        raise MalformedUpload(str(error)) from None
