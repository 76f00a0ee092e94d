"""The Content-Disposition header of a download (RFC 6266), for our responses and for presigned URLs.

Old clients read the ASCII ``filename``, others ``filename*`` in UTF-8 (RFC 8187). No character of a name can end the value,
the header or the URL (T23).
"""

from __future__ import annotations

import re
import unicodedata
from typing import Literal
from urllib.parse import quote

_ATTR_CHARS = "!#$&+-.^_`|~"  # RFC 8187 §3.2.1, beside letters and digits
# All but printable ASCII; also quotes, backslashes, and "%", which some clients decode (RFC 6266 appendix D).
_NOT_PLAIN = re.compile(r'[^\x20-\x7e]|["\\%]')
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff\u2028\u2029]")


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
