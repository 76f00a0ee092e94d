"""Headers of the IETF draft "Resumable Uploads for HTTP", interop versions 3 to 9.

They are Structured Fields (RFC 9651); a malformed one is ignored. What changed between the drafts:

    interop   drafts      Upload-Complete          append's Content-Type           Upload-Limit
    3         -01         Upload-Incomplete, inverted
    4, 5      -02, -03    Upload-Complete
    6         -04, -05    Upload-Complete          application/partial-upload      expires
    7         -06 … -08   Upload-Complete          application/partial-upload      max-age
    8         -09 … -11   Upload-Complete          application/partial-upload      max-age
    9         -12         Upload-Complete          application/partial-upload      max-age; GET is HEAD"""

from __future__ import annotations

from core.structured_fields import boolean, natural

VERSIONS = range(3, 10)
CONTENT_TYPE = "application/partial-upload"
FIELDS = ("Upload-Draft-Interop-Version", "Upload-Complete", "Upload-Incomplete")

_PROBLEMS = "https://iana.org/assignments/http-problem-types#"
MISMATCHING_OFFSET = _PROBLEMS + "mismatching-upload-offset"
INCONSISTENT_LENGTH = _PROBLEMS + "inconsistent-upload-length"
COMPLETED_UPLOAD = _PROBLEMS + "completed-upload"


def version(text: str | None) -> int:
    """The client's interop version; the newest supported one if it sends no supported one."""
    found = natural(text)
    return found if found is not None and found in VERSIONS else VERSIONS[-1]


def completes(version: int, complete: str | None, incomplete: str | None) -> bool:
    """Whether the upload ends with this request's body; it does by default."""
    if version == 3:
        return not boolean(incomplete)
    return boolean(complete) is not False


def completeness(version: int, complete: bool) -> dict[str, str]:
    """The header that says whether the upload is complete."""
    if version == 3:
        return {"Upload-Incomplete": "?0" if complete else "?1"}
    return {"Upload-Complete": "?1" if complete else "?0"}


def limits(version: int, *, max_size: int, max_age: int | None) -> str:
    """The value of Upload-Limit: sizes in bytes, ``max_age`` in seconds."""
    values = {"max-size": max_size, "min-size": 0}
    if max_age is not None:
        values["expires" if version <= 6 else "max-age"] = max(0, max_age)
    return ", ".join(f"{name}={value}" for name, value in values.items())
