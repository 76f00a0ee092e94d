"""The IETF draft "Resumable Uploads for HTTP" in its own words, for interop versions 3 to 9: headers to values and back.

Fields are Structured Fields (RFC 9651); one that is malformed counts as not there. What changed between the drafts:

    interop   drafts      Upload-Complete          append's Content-Type           Upload-Limit
    3         -01         Upload-Incomplete, inverted
    4, 5      -02, -03    Upload-Complete
    6         -04, -05    Upload-Complete          application/partial-upload      expires
    7         -06 … -08   Upload-Complete          application/partial-upload      max-age
    8         -09 … -11   Upload-Complete          application/partial-upload      max-age
    9         2026-07     Upload-Complete          application/partial-upload      max-age; GET is HEAD"""

from __future__ import annotations

from core.structured_fields import boolean, natural

VERSIONS = range(3, 10)
CONTENT_TYPE = "application/partial-upload"

_PROBLEMS = "https://iana.org/assignments/http-problem-types#"
MISMATCHING_OFFSET = _PROBLEMS + "mismatching-upload-offset"
INCONSISTENT_LENGTH = _PROBLEMS + "inconsistent-upload-length"
COMPLETED_UPLOAD = _PROBLEMS + "completed-upload"


def version(text: str | None) -> int:
    """The client's interop version; the newest we know where it names none of ours."""
    found = natural(text)
    return found if found is not None and found in VERSIONS else VERSIONS[-1]


def completes(version: int, complete: str | None, incomplete: str | None) -> bool:
    """Whether the upload ends with this request's body; it does where nothing is said."""
    if version == 3:
        return not boolean(incomplete)
    return boolean(complete) is not False


def completeness(version: int, complete: bool) -> dict[str, str]:
    if version == 3:
        return {"Upload-Incomplete": "?0" if complete else "?1"}
    return {"Upload-Complete": "?1" if complete else "?0"}


def limits(version: int, *, max_size: int, max_age: int | None) -> str:
    """The value of Upload-Limit: bytes and seconds."""
    told = {"max-size": max_size, "min-size": 0}
    if max_age is not None:
        told["expires" if version <= 6 else "max-age"] = max(0, max_age)
    return ", ".join(f"{name}={value}" for name, value in told.items())
