"""``GET /api/files/<id>/preview`` over HTTP: formats, pages, texts, and access by other callers."""

from __future__ import annotations

import io
from typing import Any
from uuid import UUID

import pytest
from PIL import Image

from core.principal import Principal
from services import Services
from tests.client import SANDBOX, Answer, GatewayClient
from tests.parsers import samples
from tests.rows import sql
from tests.samples import picture


def told(answer: Answer) -> tuple[int, str | None]:
    return answer.status, answer.code


def process(services: Services, file: dict[str, Any]) -> None:
    services.pipeline.process(UUID(file["id"]))


@pytest.mark.parametrize(
    ("accept", "mime_type"),
    [
        ("*/*", "image/webp"),
        ("image/avif,image/webp,image/*,*/*;q=0.8", "image/webp"),
        ("image/jpeg", "image/jpeg"),
        ("image/png,image/webp;q=0.5", "image/png"),
        ("text/html", "image/webp"),
    ],
)
def test_accept_chooses_the_picture_format(client: GatewayClient, accept: str, mime_type: str) -> None:
    file = client.add("p.png", picture("PNG", 300, 200))
    answer = client.get(f"/api/files/{file['id']}/preview?size=128", headers={"Accept": accept})
    assert (answer.status, answer.headers["Content-Type"]) == (200, mime_type)
    assert "Accept" in answer.headers["Vary"]
    with Image.open(io.BytesIO(answer.body)) as image:
        assert Image.MIME[str(image.format)] == mime_type
        assert image.size == (128, 85)


def test_T31_previews_have_safe_headers(client: GatewayClient) -> None:
    photo, text = client.add("p.png", picture("PNG")), client.add("a.md", b"# <script>alert(1)</script>")
    for file, mime_type in ((photo, "image/webp"), (text, "application/json")):
        answer = client.get(f"/api/files/{file['id']}/preview")
        assert answer.status == 200
        assert answer.headers["Content-Type"] == mime_type
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Content-Security-Policy"] == SANDBOX
        assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin"
        assert answer.headers["Referrer-Policy"] == "no-referrer"
        assert "private" in answer.headers["Cache-Control"]
        again = client.get(f"/api/files/{file['id']}/preview", headers={"If-None-Match": answer.headers["ETag"]})
        assert (again.status, again.body) == (304, b"")
        assert again.headers["ETag"] == answer.headers["ETag"]


def test_file_details_list_previews_and_metadata(client: GatewayClient, services: Services) -> None:
    photo = client.add("p.jpg", picture("JPEG", 1600, 1200))
    text = client.add("a.py", b"import this\n" * 30)
    for file in (photo, text):
        process(services, file)
    found = client.get(f"/api/files/{photo['id']}").json
    assert [(p["type"], p["width"], p["height"]) for p in found["previews"]] == [
        ("thumbnail", 128, 96),
        ("thumbnail", 256, 192),
        ("thumbnail", 512, 384),
        ("thumbnail", 1024, 768),
    ]
    assert (found["metadata"]["width"], found["metadata"]["height"]) == (1600, 1200)
    assert found["metadata"]["processed_at"]
    for preview in found["previews"]:
        answer = client.get(preview["url"].removeprefix("http://gateway.test"))
        assert (answer.status, answer.headers["Content-Type"]) == (200, preview["mime_type"])
    found = client.get(f"/api/files/{text['id']}").json
    assert [(p["type"], p["mime_type"]) for p in found["previews"]] == [("text", "application/json")]
    shown = client.get(found["links"]["preview"].removeprefix("http://gateway.test")).json
    assert shown["content"].startswith("import this")
    assert shown["language"] == "python"


def test_pages_out_of_range_are_400(client: GatewayClient, services: Services) -> None:
    file = client.add("a.pdf", samples.pdf())
    address = f"/api/files/{file['id']}/preview?type=page&page="
    assert client.get(address + "2").headers["Content-Type"] == "image/webp"
    process(services, file)
    assert client.get(f"/api/files/{file['id']}").json["metadata"]["pages"] == 2
    for beyond in ("3", "9223372036854775807", "0", "x"):
        assert told(client.get(address + beyond)) == (400, "invalid_input")


def test_unsupported_previews_are_415_and_broken_files_422(client: GatewayClient, services: Services) -> None:
    file = client.add("a.bin", bytes(range(256)))
    for query in ("", "?type=text", "?type=contents", "?type=page", "?type=thumbnail"):
        answer = client.get(f"/api/files/{file['id']}/preview{query}")
        assert told(answer) == (415, "preview_unsupported")
    broken = client.add("a.png", picture("PNG", 300, 200)[:60])
    process(services, broken)
    assert client.get(f"/api/files/{broken['id']}").json["problem"]["code"] == "preview_failed"
    for query in ("", "?retry=true"):
        answer = client.get(f"/api/files/{broken['id']}/preview{query}")
        assert told(answer) == (422, "preview_failed")


def test_T37_only_the_owner_sees_location_and_camera(
    client: GatewayClient, other: GatewayClient, anonymous: GatewayClient, services: Services
) -> None:
    gps = Image.Exif()
    gps.get_ifd(0x8825).update({1: "N", 2: (48.0, 8.0, 0.0), 3: "E", 4: (11.0, 34.0, 0.0)})
    gps[0x0110] = "SecretCam"
    body = io.BytesIO()
    Image.new("RGB", (60, 40)).save(body, "JPEG", exif=gps)
    file = client.add("p.jpg", body.getvalue(), visibility="public")
    process(services, file)
    mine = client.get(f"/api/files/{file['id']}").json["metadata"]
    assert mine["gps"]
    assert "SecretCam" in str(mine["exif"])
    for stranger in (other, anonymous):
        found = stranger.get(f"/api/files/{file['id']}")
        assert b"SecretCam" not in found.body
        shown = stranger.get(f"/api/files/{file['id']}/preview?size=128", headers={"Accept": "image/jpeg"})
        assert shown.status == 200
        assert b"SecretCam" not in shown.body
        with Image.open(io.BytesIO(shown.body)) as image:
            assert not image.getexif()


def test_measured_metadata_does_not_replace_the_clients(
    client: GatewayClient, services: Services, alice: Principal
) -> None:
    """The client's width is under custom; the measured one is beside it."""
    file = client.add("p.png", picture("PNG", 30, 20))
    sql(services.db, 'update files set metadata = \'{"custom": {"width": 9999}}\'')
    process(services, file)
    metadata = client.get(f"/api/files/{file['id']}").json["metadata"]
    assert (metadata["custom"], metadata["width"]) == ({"width": 9999}, 30)
