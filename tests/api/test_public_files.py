"""Public files as others see them: no data about the owner, and no location in the bytes."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest
import requests

from core.principal import Principal
from core.scan import Scan
from db import Database, objects, readings, scans
from db.records import ReadingKey
from parsers import ParserFailed
from parsers import run as parsers
from services import Services
from services.objects.deferred_deletions import remove_due
from tests.api.test_serving import picture, proxied
from tests.client import GatewayClient
from tests.compressed_files import time_passes
from tests.conftest import NOTHING
from tests.crash_points import Killed
from tests.parsers.samples import corners, encoded
from tests.parsers.test_place import exif, heic, pixels, tells_a_place, with_exif
from tests.presigned import put
from tests.rows import sql
from tests.services.processing.scanning.test_scan_tasks import work
from tests.subtests import with_subtests

PUBLIC = {
    "id",
    "original_name",
    "mime_type",
    "file_size",
    "file_hash",
    "uploaded_at",
    "expires_at",
    "status",
    "previews",
    "links",
}
PHOTO = with_exif("JPEG")
OFFERED = ("", "/download", "/url", "/preview")


@pytest.fixture
def strangers(anonymous: GatewayClient, other: GatewayClient) -> list[tuple[GatewayClient, int]]:
    """Callers who do not own the file, each with the status for a missing file."""
    return [(anonymous, 401), (other, 404)]


def publish(services: Services, file: dict[str, Any]) -> None:
    """Run the worker's job for a file that was made public."""
    services.public_copies.publish(UUID(file["id"]))


def address(file: dict[str, Any], path: str = "") -> str:
    return f"/api/files/{file['id']}{path}"


def path_of(url: str) -> str:
    return url.removeprefix("http://gateway.test")


def fetched(client: GatewayClient, path: str) -> bytes:
    """The bytes at the address, following a redirect to the bucket."""
    answer = client.get(path)
    assert answer.status in (200, 302), answer.body
    return answer.body if answer.status == 200 else requests.get(answer.headers["Location"], timeout=30).content


def queued(db: Database) -> int:
    [row] = sql(db, "select count(*) from procrastinate_jobs where task_name = 'publish_file' and status = 'todo'")
    return int(row[0])


# -- visible data ----------------------------------------------------------------------------------------------------


def test_T139_others_see_public_members_only(client: GatewayClient, strangers: Any, services: Services) -> None:
    begun = client.put("/api/upload/p.jpg?visibility=public&tags=secret", data=PHOTO).json
    sql(services.db, 'update files set metadata = \'{"custom": {"secret": 1}}\'')
    services.pipeline.process(UUID(begun["id"]))
    publish(services, begun)
    mine = client.get(address(begun)).json
    assert "SecretCam" in str(mine["metadata"])
    assert set(mine) > PUBLIC
    for stranger, _ in strangers:
        answer = stranger.get(address(begun))
        assert set(answer.json) == PUBLIC
        assert b"secret" not in answer.body.lower()
        same = PUBLIC - {"file_hash"}
        assert {name: answer.json[name] for name in same} == {name: mine[name] for name in same}
        assert stranger.get(answer.json["previews"][0]["url"].removeprefix("http://gateway.test")).status == 200


def test_T139_expired_files_look_missing(client: GatewayClient, strangers: Any, db: Database) -> None:
    """The database's clock decides."""
    folder = client.post("/api/folders", json={"name": "all"}).json["id"]
    gone = client.add("gone.jpg", picture(), visibility="public", folder_id=str(folder))
    client.add("here.txt", b"here", folder_id=str(folder))
    link = path_of(client.get(address(gone, "/url")).json["url"])
    sql(db, "update files set expires_at = now() where original_name = 'gone.jpg'")
    for stranger, nothing in strangers:
        for path in OFFERED:
            assert stranger.get(address(gone, path)).status == nothing
        assert stranger.get(link).status == 401
    other = strangers[1][0]
    assert other.get(f"/api/files/archive?ids={gone['id']}").status == 404
    with zipfile.ZipFile(io.BytesIO(client.get(f"/api/files/archive?folder={folder}").body)) as archive:
        assert archive.namelist() == ["here.txt"]
    assert client.get(address(gone)).status == 200
    assert client.get(address(gone, "/download")).code == "file_in_trash"


@pytest.mark.parametrize("way", ["link", "rename"])
def test_T139_a_photo_first_kept_as_a_type_without_location_loses_it(
    client: GatewayClient, strangers: Any, services: Services, db: Database, way: str
) -> None:
    """The location belongs to the bytes, whatever the first file with them was taken for."""
    file = client.add("p", PHOTO, visibility="public")
    sql(
        db, "update files set mime_type = 'application/octet-stream', file_type = 'other'"
    )  # so detected by older rules
    assert fetched(strangers[0][0], address(file, "/download")) == PHOTO
    if way == "link":
        file = client.add("p.jpg", PHOTO, visibility="public")
    else:
        assert client.patch(address(file), json={"original_name": "p.jpg"}).json["mime_type"] == "image/jpeg"
    assert sql(db, "select count(distinct file_path) from files") == [(1,)]
    assert strangers[0][0].get(address(file)).json["status"] == "processing"
    publish(services, file)
    assert not tells_a_place(fetched(strangers[0][0], address(file, "/download")))


# -- links -----------------------------------------------------------------------------------------------------------


def change(**members: Any) -> Callable[[GatewayClient, dict[str, Any]], Any]:
    return lambda owner, file: owner.patch(address(file), json=members)


@with_subtests(
    ("ending", "status"),
    [
        (change(visibility="private"), 401),
        (change(expires_at="2020-01-01T00:00:00Z"), 401),
        (lambda owner, file: owner.delete(address(file)), 401),
        (lambda owner, file: owner.delete(address(file, "?permanent=true")), 404),
    ],
)
def test_T139_links_end_when_the_file_is_no_longer_public(
    client: GatewayClient, strangers: Any, ending: Callable[..., Any], status: int
) -> None:
    file = client.add("a.txt", b"text", visibility="public")
    links = []
    for asker in (client, strangers[0][0], strangers[1][0]):
        for query in ("", "?expires_in=5", "?expires_in=80000&disposition=inline"):
            link = path_of(asker.get(address(file, f"/url{query}")).json["url"])
            assert link.startswith("/d/")
            assert fetched(strangers[0][0], link) == b"text"
            links.append(link)
    ending(client, file)
    assert {strangers[0][0].get(link).status for link in links} == {status}


def test_T139_links_end_when_the_file_is_infected(
    client: GatewayClient, anonymous: GatewayClient, db: Database
) -> None:
    file = client.add("a.txt", b"text", visibility="public")
    link = path_of(client.get(address(file, "/url")).json["url"])
    sql(db, "update files set status = 'infected'")
    assert anonymous.get(link).code == "file_not_ready"


@pytest.mark.settings(download_url_ttl=600)
def test_T139_presigned_urls_expire_within_their_ttl(client: GatewayClient, anonymous: GatewayClient) -> None:
    file = client.add("a.txt", b"text")
    short, long = (client.get(address(file, f"/url?expires_in={life}")).json["url"] for life in (600, 601))
    assert "X-Amz-Expires=600" in short
    assert path_of(long).startswith("/d/")
    assert "X-Amz-Expires=600" in anonymous.get(path_of(long)).headers["Location"]
    brief = path_of(
        client.get(address(client.add("b.txt", b"b", visibility="public"), "/url?expires_in=60")).json["url"]
    )
    location = anonymous.get(brief).headers["Location"]
    assert int(location.partition("X-Amz-Expires=")[2].partition("&")[0]) <= 60  # nor longer than the link


def test_an_owners_link_to_a_private_file_stays_valid(client: GatewayClient, anonymous: GatewayClient) -> None:
    """Until it expires or is trashed; making it public and private again changes nothing."""
    file = client.add("a.jpg", PHOTO)
    link = path_of(client.get(address(file, "/url?expires_in=80000")).json["url"])
    for visibility in ("private", "public", "private"):
        client.patch(address(file), json={"visibility": visibility})
        assert fetched(anonymous, link) == PHOTO
    client.delete(address(file))
    assert anonymous.get(link).status == 409


@with_subtests("status", ["processing", "rejected", "infected"])
def test_T139_the_hash_of_a_public_picture_is_hidden_until_ready(
    client: GatewayClient, anonymous: GatewayClient, db: Database, status: str
) -> None:
    """Otherwise a location could be guessed by comparing hashes."""
    file = client.add("p.jpg", PHOTO, visibility="public")
    sql(db, "update files set status = %s", status)
    shown = anonymous.get(address(file)).json
    assert (shown["status"], shown["file_hash"]) == (status, None)


@pytest.mark.settings(download_mode="proxy")
def test_links_stream_if_downloads_do(client: GatewayClient, anonymous: GatewayClient) -> None:
    file = client.add("a.txt", b"text", visibility="public")
    answer = anonymous.get(path_of(client.get(address(file, "/url")).json["url"]), headers={"Range": "bytes=1-2"})
    assert (answer.status, answer.body) == (206, b"ex")


# -- location in pictures --------------------------------------------------------------------------------------------


@with_subtests("format", ["JPEG", "PNG", "WEBP", "HEIC"])
def test_T139_public_downloads_have_no_location(
    client: GatewayClient, strangers: Any, services: Services, format: str
) -> None:
    data = heic(exif=exif().tobytes()) if format == "HEIC" else with_exif(format)
    file = client.add(f"p.{format.lower()}", data, visibility="public")
    for stranger, _ in strangers:
        for path in ("/download", "/download?mode=proxy", "/url"):
            answer = stranger.get(address(file, path))
            assert (answer.status, answer.code) == (409, "file_not_ready")
        assert stranger.head(address(file, "/download")).status == 409
        shown = stranger.get(address(file))
        assert (shown.json["status"], shown.json["file_hash"]) == ("processing", None)
        assert stranger.get(address(file, "/preview")).status == 200
    link = path_of(client.get(address(file, "/url")).json["url"])
    assert strangers[0][0].get(link).status == 409
    publish(services, file)
    publish(services, file)  # a repeat changes nothing
    owned = proxied(client, file)
    for stranger, _ in strangers:
        now = stranger.get(address(file)).json
        got = proxied(stranger, file)
        assert not tells_a_place(got.body)
        assert pixels(got.body) == pixels(data)
        assert now["status"] == "ready"
        assert (now["file_size"], now["file_hash"]) == (len(got.body), hashlib.sha256(got.body).hexdigest())
        assert got.headers["ETag"] == f'"{now["file_hash"]}"'
        assert got.headers["ETag"] == stranger.head(address(file, "/download")).headers["ETag"]
        assert proxied(stranger, file, If_None_Match=f'"{file["file_hash"]}"').status == 200
        assert proxied(stranger, file, If_Modified_Since=owned.headers["Last-Modified"]).status == 200
        assert proxied(stranger, file, Range="bytes=20-", If_Range=owned.headers["Last-Modified"]).body == got.body
        assert proxied(stranger, file, Range="bytes=20-99").body == got.body[20:100]
        assert fetched(stranger, address(file, "/download")) == got.body
        assert fetched(stranger, path_of(stranger.get(address(file, "/url")).json["url"])) == got.body
        assert fetched(stranger, link) == got.body
        preview = stranger.get(address(file, "/preview"))
        assert file["file_hash"][:32] not in preview.headers["ETag"]  # a location could be guessed from it
    with zipfile.ZipFile(io.BytesIO(strangers[1][0].get(f"/api/files/archive?ids={file['id']}").body)) as archive:
        assert archive.read(archive.namelist()[0]) == got.body
    mine = client.get(address(file)).json
    assert (mine["file_hash"], mine["metadata"]) == (file["file_hash"], file["metadata"] | mine["metadata"])
    assert proxied(client, file).body == data
    assert fetched(client, address(file, "/download")) == data


def test_T139_every_way_of_publishing_enqueues_the_copy(
    client: GatewayClient, db: Database, services: Services
) -> None:
    client.add("private.jpg", PHOTO)
    assert queued(db) == 0
    file = client.add("linked.jpg", PHOTO, visibility="public")  # shares the first file's object
    assert queued(db) == 1
    changed = client.add("changed.jpg", with_exif("JPEG", ">"))
    client.patch(address(changed), json={"tags": ["a"]})
    assert queued(db) == 1
    client.patch(address(changed), json={"visibility": "public"})
    assert queued(db) == 2
    kept = client.add("kept.png", with_exif("PNG"), visibility="public", keep_location="true")
    client.add("no picture.txt", b"text", visibility="public")
    assert queued(db) == 2
    client.patch(address(kept), json={"keep_location": False})
    assert queued(db) == 3
    publish(services, file)
    client.add("again.jpg", PHOTO, visibility="public")
    assert queued(db) == 3  # the copy exists already


def test_T139_the_owner_may_keep_the_location(
    client: GatewayClient, anonymous: GatewayClient, services: Services
) -> None:
    file = client.add("p.jpg", PHOTO, visibility="public", keep_location="true")
    raw = client.put("/api/upload/q.webp?visibility=public&keep_location=true", data=with_exif("WEBP")).json
    assert (file["keep_location"], raw["keep_location"]) == (True, True)
    assert proxied(anonymous, file).body == PHOTO
    assert tells_a_place(proxied(anonymous, raw).body)
    assert client.patch(address(file), json={"keep_location": False}).json["keep_location"] is False
    assert proxied(anonymous, file).status == 409
    publish(services, file)
    assert not tells_a_place(proxied(anonymous, file).body)
    client.patch(address(file), json={"keep_location": True})
    assert proxied(anonymous, file).body == PHOTO
    assert client.patch(address(file), json={"keep_location": "yes"}).status == 400
    assert client.add("r.jpg", PHOTO)["keep_location"] is False


def test_T139_a_worker_makes_the_copy_for_any_upload_route(
    client: GatewayClient, anonymous: GatewayClient, services: Services, database_url: str
) -> None:
    ended = [client.add("form.jpg", PHOTO, visibility="public")]
    for keep in (False, True):
        data = with_exif("PNG" if keep else "WEBP")
        body = {"filename": "direct", "size": len(data), "visibility": "public", "keep_location": keep}
        begun = client.post("/api/uploads", json=body).json
        put(begun["url"], data, begun["headers"])
        ended.append(client.post(f"/api/uploads/{begun['id']}/complete", json={}).json)
    work(services, database_url)
    got = [fetched(anonymous, address(file, "/download")) for file in ended]
    assert [tells_a_place(data) for data in got] == [False, False, True]


@with_subtests("format", ["JPEG", "PNG", "WEBP", "AVIF"])
def test_pictures_without_a_location_are_public_at_once(
    client: GatewayClient, anonymous: GatewayClient, format: str
) -> None:
    data = encoded(corners(), format)
    file = client.add(f"p.{format.lower()}", data, visibility="public")
    shown = anonymous.get(address(file)).json
    assert (shown["status"], shown["file_hash"]) == ("ready", file["file_hash"])
    assert proxied(anonymous, file).body == data


def test_T139_files_whose_location_can_not_be_removed_are_withheld(
    client: GatewayClient, anonymous: GatewayClient, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if parsing fails. The owner sees the problem and may retry or keep the location."""
    file = client.add("p.jpg", PHOTO, visibility="public")

    def unlucky(*arguments: Any, **options: Any) -> Any:
        raise ParserFailed("The parser crashed")

    with monkeypatch.context() as patch:
        patch.setattr(parsers, "run", unlucky)
        assert proxied(anonymous, file).status == 409
        publish(services, file)
    assert proxied(anonymous, file).status == 409
    assert client.get(address(file)).json["problem"]["code"] == "location_stays"
    client.patch(address(file), json={"keep_location": True})
    assert client.get(address(file)).json["problem"] is None
    assert proxied(anonymous, file).status == 200
    client.patch(address(file), json={"keep_location": False})
    publish(services, file)
    assert not tells_a_place(proxied(anonymous, file).body)
    assert client.get(address(file)).json["problem"] is None


def test_T139_hostile_parser_results_make_no_copy(
    client: GatewayClient, anonymous: GatewayClient, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = client.add("p.jpg", PHOTO, visibility="public")
    for values, blobs in (
        ({"offsets": [len(PHOTO)]}, [b"x"]),
        ({"offsets": [-1]}, [b"x"]),
        ({"offsets": [5, 5]}, [b"x", b"y"]),
        ({"offsets": [5]}, []),
        ({"offsets": ["5"]}, [b"x"]),
        ({"offsets": None}, [b"x"]),
        ({}, [b"x"]),
    ):
        with monkeypatch.context() as patch:
            answer = parsers.Answer(values, blobs)
            patch.setattr(parsers, "run", lambda *arguments, answer=answer, **options: answer)
            publish(services, file)
        assert proxied(anonymous, file).status == 409


# -- lifetime of the public copy -------------------------------------------------------------------------------------


def copy_of(services: Services, file: dict[str, Any]) -> str:
    key = services.files.get(Principal("alice"), UUID(file["id"])).public_key
    assert key is not None
    return key


def test_T139_the_copy_is_deleted_with_the_file(
    client: GatewayClient, anonymous: GatewayClient, services: Services, leftovers: Any, bucket: Any
) -> None:
    file = client.add("p.jpg", PHOTO, visibility="public")
    publish(services, file)
    key = copy_of(services, file)
    with services.db.connection() as tx:
        assert objects.known_keys(tx, [key, "files/other"]) == {key}  # the janitor's query
    services.janitor.run()
    assert leftovers() == NOTHING
    second = client.post(address(file, "/copy"), json={}).json
    client.delete(address(file, "?permanent=true"))
    client.patch(address(second), json={"visibility": "public"})
    assert not tells_a_place(proxied(anonymous, second).body)  # one copy for all files of the object
    client.delete(address(second, "?permanent=true"))
    assert leftovers() == NOTHING
    assert not list(bucket.list_objects("files/"))


def test_T139_a_lost_copy_is_remade_and_the_original_never_served(
    client: GatewayClient, anonymous: GatewayClient, services: Services, db: Database, bucket: Any
) -> None:
    file = client.add("p.jpg", PHOTO, visibility="public")
    publish(services, file)
    bucket.delete(copy_of(services, file))
    assert proxied(anonymous, file).code == "content_missing"
    assert proxied(anonymous, file).code == "file_not_ready"
    assert client.get(address(file)).json["status"] == "ready"
    sql(db, "delete from procrastinate_jobs")
    client.patch(address(file), json={"keep_location": True})
    assert services.public_copies.enqueue_missing() == 0  # no file needs it
    client.patch(address(file), json={"keep_location": False})
    sql(db, "delete from procrastinate_jobs")
    assert [services.public_copies.enqueue_missing() for _ in range(2)] == [1, 0]
    publish(services, file)
    assert not tells_a_place(proxied(anonymous, file).body)


@pytest.mark.parametrize("moment", ["before the bytes", "before it is used", "after it is used"])
def test_T139_a_killed_copy_job_leaves_nothing_and_can_be_repeated(
    client: GatewayClient,
    anonymous: GatewayClient,
    services: Services,
    leftovers: Any,
    db: Database,
    monkeypatch: pytest.MonkeyPatch,
    moment: str,
) -> None:
    file = client.add("p.jpg", PHOTO, visibility="public")
    real = objects.add_public_copy

    def killed(*arguments: Any, **options: Any) -> Any:
        if moment == "after it is used":
            with services.db.transaction() as tx:
                real(tx, *arguments[1:], **options)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(services.public_copies, "_give_up", lambda key: None)
        if moment == "before the bytes":
            patch.setattr(services.public_copies._store, "put", killed)
        else:
            patch.setattr(objects, "add_public_copy", killed)
        with pytest.raises(Killed):
            publish(services, file)
    time_passes(db)
    services.janitor.run()
    assert leftovers() == NOTHING
    publish(services, file)
    assert not tells_a_place(proxied(anonymous, file).body)
    assert leftovers() == NOTHING


def test_T139_quarantine_removes_the_copy_too(
    client: GatewayClient, anonymous: GatewayClient, services: Services, db: Database, leftovers: Any
) -> None:
    file = client.add("p.jpg", PHOTO, visibility="public")
    publish(services, file)
    url = anonymous.get(address(file, "/download")).headers["Location"]
    with db.transaction() as tx:
        scans.quarantine(
            tx,
            Scan("infected", "Test.Late", "1"),
            owner_id="alice",
            sha256=file["file_hash"],
            size=len(PHOTO),
            object_key=file["file_path"],
            problem={"code": "infected", "detail": "found"},
        )
    remove_due(db, services.public_copies._store)
    assert requests.get(url, timeout=30).status_code == 404
    assert anonymous.get(address(file, "/download")).status == 409
    assert leftovers() == NOTHING


# -- traces of anonymous requests ------------------------------------------------------------------------------------


def rows(db: Database) -> dict[str, int]:
    """Of each table but the counts of rate limits, which have a row for an address and a minute."""
    with db.connection() as tx:
        names = tx.execute("select tablename from pg_tables where schemaname = 'public' and tablename <> 'rate_limits'")
        tables = [row[0] for row in names]
        counts = {}
        for table in tables:
            row = tx.execute(f'select count(*) from "{table}"').fetchone()
            assert row is not None
            counts[table] = row[0]
    return counts


def test_T139_anonymous_requests_are_counted_without_rows(
    client: GatewayClient, anonymous: GatewayClient, services: Services, db: Database
) -> None:
    file = client.add("p.jpg", picture(), visibility="public")
    services.pipeline.process(UUID(file["id"]))
    before = rows(db)
    for _ in range(3):
        anonymous.get(address(file))
        fetched(anonymous, address(file, "/download"))
        proxied(anonymous, file)
        fetched(anonymous, path_of(anonymous.get(address(file, "/url")).json["url"]))
        anonymous.get(address(file, "/preview"))
    assert rows(db) == before
    details = client.get(address(file)).json
    assert (details["download_count"], details["statistics"]["downloads"]) == (9, 9)
    assert details["statistics"]["previews"] == 3
    assert details["statistics"]["first_access"] is not None
    assert details["statistics"]["last_access"] > details["last_accessed"]  # the last one was a preview
    assert [event["action"] for event in details["access_history"]] == ["uploaded"]


def test_T139_only_the_owner_clears_a_problem(client: GatewayClient, strangers: Any, db: Database) -> None:
    file = client.add("p.jpg", picture(), visibility="public")
    with db.connection() as tx:
        reading = ReadingKey(file["file_path"], "image/jpeg")
        readings.set_problem(tx, reading, {"code": "preview_failed", "detail": "as it was"})
    for (stranger, _), size in zip(strangers, (512, 1024), strict=True):
        assert stranger.get(address(file, f"/preview?size={size}&retry=true")).status == 200  # makes the preview
        assert client.get(address(file)).json["problem"]["detail"] == "as it was"
    assert client.get(address(file, "/preview?size=128&retry=true")).status == 200
    assert client.get(address(file)).json["problem"] is None


def test_T139_anonymous_requests_use_no_owners_slots(
    client_for: Callable[..., GatewayClient], anonymous: GatewayClient, services: Services
) -> None:
    """While an anonymous request holds its slot, even an owner named "anonymous" gets one."""
    limit = services.previews._limit
    taken: list[str] = []
    real = limit.slot
    owner = client_for("anonymous")
    file = owner.add("p.jpg", picture(), visibility="public")
    limit.slot = lambda owner_id: (taken.append(owner_id), real(owner_id))[1]  # type: ignore[method-assign]
    assert anonymous.get(address(file, "/preview?size=128")).status == 200
    public = set(taken)
    with real(public.pop()):
        assert not public
        assert owner.get(address(file, "/preview?size=512")).status == 200
