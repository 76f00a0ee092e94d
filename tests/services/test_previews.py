"""Thumbnails: made when uploaded or asked for, shared by equal files, gone with the object."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest
from PIL import Image

from core.errors import FileNotReady, PreviewFailed, PreviewUnsupported
from core.principal import Principal
from db import Database
from services import Services
from tests.conftest import NOTHING
from tests.material import picture
from tests.services.test_intake import upload

Leftovers = Callable[[], dict[str, list[str]]]


def test_all_sizes_are_made_once_and_shared_by_equal_files(
    services: Services,
    alice: Principal,
    bucket: Any,
    leftovers: Leftovers,
) -> None:
    photo = upload(services, alice, "a.jpg", picture("JPEG", 1600, 1200))
    copy = services.files.copy(alice, photo.id)
    services.previews.make_all(photo.id)
    services.previews.make_all(copy.id)
    assert len(list(bucket.list_objects("previews/"))) == 4
    shown = services.files.previews_of([photo, copy])
    assert [(p.variant, p.width, p.height) for p in shown[copy.id]] == [
        (128, 128, 96),
        (256, 256, 192),
        (512, 512, 384),
        (1024, 1024, 768),
    ]
    measured = services.files.get(alice, photo.id).metadata
    assert (measured["width"], measured["height"]) == (1600, 1200)
    services.files.purge(alice, photo.id)
    assert len(list(bucket.list_objects("previews/"))) == 4
    services.files.purge(alice, copy.id)
    assert leftovers() == NOTHING
    assert list(bucket.list_objects("previews/")) == []


@pytest.mark.parametrize(
    ("mime_type", "kind"), [("image/webp", "WEBP"), ("image/jpeg", "JPEG"), ("image/png", "PNG")]
)
def test_what_is_missing_is_made_on_demand(
    services: Services, alice: Principal, bucket: Any, mime_type: str, kind: str
) -> None:
    photo = upload(services, alice, "a.png", picture("PNG", 300, 200))
    first = services.previews.thumbnail(alice, photo.id, size=128, mime_type=mime_type)
    with Image.open(io.BytesIO(first.body)) as shown:
        assert (shown.format, shown.size) == (kind, (128, 85))
    again = services.previews.thumbnail(
        alice, photo.id, size=128, mime_type=mime_type, if_none_match=first.etag
    )
    assert again.not_modified
    for lost in bucket.list_objects("previews/"):  # an operator's mistake heals itself
        bucket.delete(lost.key)
    assert services.previews.thumbnail(alice, photo.id, size=128, mime_type=mime_type).etag == first.etag
    assert len(list(bucket.list_objects("previews/"))) == 1


def test_a_picture_that_cannot_be_decoded_is_a_result(
    services: Services, alice: Principal, db: Database
) -> None:
    broken = upload(services, alice, "a.png", picture("PNG", 300, 200)[:60])
    with pytest.raises(PreviewFailed):
        services.previews.thumbnail(alice, broken.id, size=128)
    services.previews.make_all(broken.id)
    problem = services.files.get(alice, broken.id).problem
    assert problem is not None
    assert problem["code"] == "preview_failed"


def test_what_has_no_picture_or_is_not_ready_has_no_preview(
    services: Services, alice: Principal, db: Database
) -> None:
    text = upload(services, alice, "a.txt", b"text")
    with pytest.raises(PreviewUnsupported):
        services.previews.thumbnail(alice, text.id, size=128)
    photo = upload(services, alice, "a.png", picture("PNG"))
    with db.connection() as tx:
        tx.execute("update files set status = 'processing' where id = %s", [photo.id])
    with pytest.raises(FileNotReady):
        services.previews.thumbnail(alice, photo.id, size=128)
