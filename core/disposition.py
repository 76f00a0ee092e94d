"""The Content-Disposition header (RFC 6266): of downloads, in our responses and in presigned URLs, and of what clients send.

For downloads: old clients read the ASCII ``filename``, others ``filename*`` in UTF-8 (RFC 8187). No character of a name can end
the value, the header or the URL (T23). What clients send is read as they mean it, each name decoded once (T22).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from typing import Literal
from urllib.parse import quote, unquote_to_bytes

from multipart import content_disposition_unquote

from core import charsets, encoded_words

_ATTR_CHARS = "!#$&+-.^_`|~"  # RFC 8187 §3.2.1, beside letters and digits
# All but printable ASCII; also quotes, backslashes, and "%", which some clients decode (RFC 6266 appendix D).
_NOT_PLAIN = re.compile(r'[^\x20-\x7e]|["\\%]')
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff\u2028\u2029]")
# An open quote runs to the end: no second try. Some clients don't quote values that need it.
_PARAMETER = re.compile(r';\s*([^\s=;"]+)\s*=\s*("(?:[^"\\]|\\.?)*(?:"|$)|[^;]*)', re.DOTALL)


def content_disposition(kind: Literal["inline", "attachment"], name: str) -> str:
    """The header in printable ASCII: ``filename="ascii"``, never empty, and ``filename*=UTF-8''…``."""
    name = _CONTROLS.sub("", name)
    letters = "".join(c for c in unicodedata.normalize("NFKD", name) if not unicodedata.combining(c))
    plain = _NOT_PLAIN.sub("_", letters).strip()
    if not plain.strip("._ "):
        plain = "file"
    elif plain.startswith("_") and not plain.partition(".")[0].strip("_ "):
        plain = "file" + plain[plain.index(".") :]  # 日本語.pdf -> file.pdf, not ___.pdf
    return f"{kind}; filename=\"{plain}\"; filename*=UTF-8''{quote(name or 'file', safe=_ATTR_CHARS)}"


def parameters(header: str) -> dict[str, str]:
    """The parameters of this header, or of a Content-Type, by lower-case name, without the escapes of browsers (HTML standard:
    %22, %0D, %0A)."""
    return {name.lower(): content_disposition_unquote(value.strip()) for name, value in _PARAMETER.findall(header)}


def sent_filename(sent: Mapping[str, str]) -> str | None:
    """The name of the file in the parameters that a client has sent; None if there is none.

    Decoded are ``filename*`` (RFC 8187), also in pieces, and in ``filename`` the encoded words (RFC 2047) of .NET and Delphi.
    Raises ValueError, with a message for the client, if the charset of ``filename*`` is not known or not what its text is in."""
    extended = sent.get("filename*", _joined(sent))
    if extended is not None:
        label, _, rest = extended.partition("'")
        return charsets.strictly_decoded(unquote_to_bytes(rest.partition("'")[2]), charsets.named(label))
    name = sent.get("filename")
    if not name:
        return name
    try:
        words = encoded_words.runs(name, strict=True)
        return "".join(charsets.strictly_decoded(data, charsets.named(label or "utf-8")) for label, data in words)
    except ValueError:
        return name


def _joined(sent: Mapping[str, str]) -> str | None:
    """``filename*0``, ``filename*1*`` and so on, in which libraries for mail split long names (RFC 2231 §3), as ``filename*``."""
    value, number = "" if "filename*0*" in sent else "utf-8''", 0
    while piece := sent.get(f"filename*{number}*", quote(sent.get(f"filename*{number}", ""))):
        value, number = value + piece, number + 1
    return value if number else None
