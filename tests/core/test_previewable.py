from __future__ import annotations

import pytest

from core.previewable import family, kinds


@pytest.mark.parametrize(
    ("mime", "extension", "expected"),
    [
        ("image/png", "png", {"thumbnail"}),
        ("image/svg+xml", "svg", {"thumbnail"}),
        ("image/vnd.adobe.photoshop", "psd", set()),
        ("application/postscript", "eps", set()),
        ("application/pdf", "pdf", {"thumbnail", "page", "text"}),
        ("application/msword", "doc", set()),
        ("application/vnd.openxmlformats-officedocument.wordprocessingml.document", "docx", {"text"}),
        ("application/zip", "zip", {"contents"}),
        ("application/x-7z-compressed", "7z", set()),
        ("text/x-python", "py", {"text"}),
        ("text/plain; charset=utf-8", "", {"text"}),
        ("application/json", "json", {"text"}),
        ("video/mp4", "mp4", {"thumbnail"}),
        ("audio/midi", "mid", set()),
        ("application/octet-stream", "txt", {"text"}),
        ("application/octet-stream", "bin", set()),
        ("application/octet-stream", "png", set()),
        ("no type", "", set()),
    ],
)
def test_kinds(mime: str, extension: str, expected: set[str]) -> None:
    assert kinds(mime, extension) == expected
    assert (family(mime, extension) is None) == (not expected)
