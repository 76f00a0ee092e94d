"""Unmodified tus clients, tus-js-client in node and tuspy, against a running gateway: every extension that they
support, and network failures. In the end the file's SHA-256 is always correct and nothing is left over."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tusclient.client import TusClient
from tusclient.exceptions import TusCommunicationError
from tusclient.storage import filestorage

from tests.e2e.conftest import Owner, made, needs, packages
from tests.e2e.gateway import Gateway, all_written, expire
from tests.e2e.wire import Answer, Request, exchange
from tests.fault_proxy import Fault

MIB = 1024 * 1024
TUS = Path(__file__).parent / "tus"
IETF = ["ietf-draft-03", "ietf-draft-05"]
UNICODE = "Überblick – 計画 🗂.txt"

pytestmark = [
    pytest.mark.timeout(120),
    # tuspy leaves its files and connections to the garbage collector, and hands aiohttp whole bodies.
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(autouse=True)
def _fresh(gateway: Gateway) -> None:
    """Remove the faults and the objects that the previous test left."""
    gateway.front.heal()
    gateway.back.heal()
    gateway.empty()


@pytest.fixture
def owner(gateway: Gateway) -> Owner:
    return gateway.owner()


# -- tus-js-client -----------------------------------------------------------------------------------------------------


class Job:
    """What tus-js-client did: the answers it got, and how it ended."""

    def __init__(self, output: str):
        events = [json.loads(line) for line in output.splitlines()]
        assert events, "the client printed nothing"
        self.end = events[-1]
        self.answers = [event for event in events if event["event"] == "response"]

    def statuses(self, method: str) -> list[int]:
        return [answer["status"] for answer in self.answers if answer["method"] == method]

    @property
    def url(self) -> str:
        return self.end["url"]

    def succeeded(self) -> Job:
        shown = [(a["method"], a["status"], a["body"][:200]) for a in self.answers[-3:]]
        assert self.end["event"] == "success", (self.end, shown)
        return self


@pytest.fixture(scope="session")
def tus_js() -> Callable[..., Job]:
    """Runs one job (tests/e2e/tus/client.mjs) in its own node process."""
    node, folder = needs("node"), packages(TUS, "tus-js-client")

    def run(owner: Owner, path: Path, *, bearer: str | None = None, **job: Any) -> Job:
        options = {
            "endpoint": owner.live.tus,  # type: ignore[attr-defined]
            "headers": {"Authorization": f"Bearer {bearer or owner.key}"},
            "metadata": {"filename": path.name, "filetype": "text/plain"},
            **job.pop("options", {}),
        }
        done = subprocess.run(
            [node, str(TUS / "client.mjs")],
            input=json.dumps({"path": str(path), **job, "options": options}),
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=100,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        return Job(done.stdout)

    return run


WAYS: dict[str, dict[str, Any]] = {
    "one request": {},
    "chunks of 5 MiB": {"options": {"chunkSize": 5 * MIB}},
    "chunks under the least part": {"options": {"chunkSize": 3 * MIB + 1}},
    "with the creation": {"options": {"uploadDataDuringCreation": True}},
    "with the creation, in chunks": {"options": {"uploadDataDuringCreation": True, "chunkSize": 6 * MIB}},
    "deferred length": {"source": "stream", "options": {"uploadLengthDeferred": True, "chunkSize": 5 * MIB + 3}},
    "method override": {"options": {"overridePatchMethod": True, "chunkSize": 8 * MIB}},
    "buffer": {"source": "buffer", "options": {"chunkSize": 8 * MIB}},
    "parallel": {"options": {"parallelUploads": 3}},
    "parallel, in chunks": {"options": {"parallelUploads": 2, "chunkSize": 2 * MIB}},
    "parallel, with the creation": {"options": {"parallelUploads": 2, "uploadDataDuringCreation": True}},
}
DRAFT_WAYS: dict[str, dict[str, Any]] = {
    "one request": {},
    "in chunks": {"options": {"chunkSize": 5 * MIB}},
    "buffer in chunks": {"source": "buffer", "options": {"chunkSize": 3 * MIB}},
    "with the creation": {"options": {"uploadDataDuringCreation": True}},
    "deferred length": {"source": "stream", "options": {"uploadLengthDeferred": True, "chunkSize": 5 * MIB + 3}},
}
for name, job in DRAFT_WAYS.items():
    drafts = IETF if name in ("one request", "with the creation") else IETF[1:]  # the others differ in headers alone
    WAYS |= {f"{draft}, {name}": {**job, "options": {**job.get("options", {}), "protocol": draft}} for draft in drafts}


@pytest.mark.parametrize("way", WAYS)
def test_js_uploads(way: str, gateway: Gateway, owner: Owner, tus_js: Callable[..., Job], tmp_path: Path) -> None:
    path = made(tmp_path, "report.bin", 9 * MIB + 17)
    job = tus_js(owner, path, **WAYS[way]).succeeded()
    [file] = owner.ready(path)
    assert job.end["headers"].get("upload-file-id") == file["id"]
    assert job.url.startswith(gateway.tus)  # the configured public address
    if "method override" in way:
        assert job.statuses("PATCH") == []
        assert job.statuses("POST") == [201, 204, 204]


@pytest.mark.parametrize("size", [0, 1, 8 * MIB])
@pytest.mark.parametrize("protocol", ["tus-v1", IETF[1]])
def test_js_sizes_at_part_boundaries(
    size: int, protocol: str, owner: Owner, tus_js: Callable[..., Job], tmp_path: Path
) -> None:
    path = made(tmp_path, "edge.bin", size)
    tus_js(owner, path, source="buffer", options={"protocol": protocol}).succeeded()
    owner.ready(path)


@pytest.mark.parametrize("protocol", ["tus-v1", IETF[1]])
def test_js_metadata_is_stored_with_the_file(
    protocol: str, owner: Owner, tus_js: Callable[..., Job], tmp_path: Path
) -> None:
    folder = owner.client.post("/api/folders", json={"name": "Pläne"}).json["id"]
    path = made(tmp_path, UNICODE, 1000)
    metadata = {
        "filename": UNICODE,
        "filetype": "text/plain",
        "folder_id": str(folder),
        "visibility": "public",
        "tags": "a,b",
        "Kunde": "Größe 漢字",
        "width": "no width of ours",
    }
    tus_js(owner, path, options={"protocol": protocol, "metadata": metadata}).succeeded()
    [file] = owner.ready(path)
    assert (file["folder_id"], file["visibility"], sorted(file["tags"])) == (folder, "public", ["a", "b"])
    custom = file["metadata"]["custom"]
    assert (custom["Kunde"], custom["width"]) == ("Größe 漢字", "no width of ours")


@pytest.mark.parametrize("place", ["path", "header"])
@pytest.mark.parametrize("protocol", ["tus-v1", "ietf-draft-05"])
def test_js_with_an_upload_token(
    place: str, protocol: str, gateway: Gateway, owner: Owner, tus_js: Callable[..., Job], tmp_path: Path
) -> None:
    made_token = owner.client.post("/api/upload-tokens", json={"owner_id": owner.name, "max_size": 7 * MIB}).json
    path = made(tmp_path, "by-token.bin", 6 * MIB)
    options: dict[str, Any] = {"protocol": protocol, "chunkSize": 5 * MIB}
    if place == "path":
        assert made_token["endpoints"]["tus"].startswith(gateway.front.url)
        options |= {"endpoint": made_token["endpoints"]["tus"], "headers": {}}
    job = tus_js(owner, path, bearer=made_token["token"], options=options).succeeded()
    if place == "path":
        # The client sends no token header, so the URL must contain the token.
        assert job.url.startswith(made_token["endpoints"]["tus"])
    owner.ready(path)
    large = made(tmp_path, "too-large.bin", 7 * MIB + 1)
    refused = tus_js(owner, large, bearer=made_token["token"], options=options)
    assert refused.end["event"] == "error"
    assert refused.statuses("POST") == [413]
    owner.ready(path)


@pytest.mark.parametrize(
    ("action", "protocol"), [("cut", "tus-v1"), ("reset", "tus-v1"), ("cut", IETF[0]), ("reset", IETF[1])]
)
def test_js_resumes_after_a_lost_connection(
    action: Any, protocol: str, gateway: Gateway, owner: Owner, tus_js: Callable[..., Job], tmp_path: Path
) -> None:
    path = made(tmp_path, "cut.bin", 9 * MIB + 5)
    gateway.front.arm(Fault(action, after=4 * MIB + 11, times=2))
    job = tus_js(owner, path, options={"protocol": protocol}).succeeded()
    assert gateway.front.struck >= 1
    assert 200 in job.statuses("HEAD") or 204 in job.statuses("HEAD")
    assert job.statuses("POST") == [201]  # it continued and did not start again
    gateway.janitor()
    owner.ready(path)


@pytest.mark.parametrize(
    "options",
    [{"chunkSize": 2 * MIB}, {"parallelUploads": 2}, {"protocol": "ietf-draft-05", "chunkSize": 2 * MIB}],
    ids=["tus", "parallel", "ietf"],
)
def test_js_resumes_in_a_new_process(
    options: dict[str, Any], owner: Owner, tus_js: Callable[..., Job], tmp_path: Path
) -> None:
    path, storage = made(tmp_path, "later.bin", 9 * MIB + 5), str(tmp_path / "urls.json")
    first = tus_js(owner, path, urlStorage=storage, stopAt=5 * MIB, options=options)
    assert first.end["event"] == "stopped", first.end
    second = tus_js(owner, path, urlStorage=storage, resume=True, options=options).succeeded()
    created = [
        answer
        for answer in second.answers
        if answer["method"] == "POST" and not str(answer["sent"].get("upload-concat", "")).startswith("final")
    ]
    assert created == []
    owner.ready(path)


def test_js_resumes_after_the_gateway_was_killed(
    gateway: Gateway, owner: Owner, tus_js: Callable[..., Job], tmp_path: Path
) -> None:
    path = made(tmp_path, "killed.bin", 9 * MIB + 5)
    gateway.front.arm(Fault("stall", after=6 * MIB))
    ended: list[Job] = []
    client = threading.Thread(
        target=lambda: ended.append(tus_js(owner, path, options={"retryDelays": [0] + [1000] * 60}))
    )
    client.start()
    deadline, struck = time.monotonic() + 30, gateway.front.struck
    while gateway.front.struck == struck and time.monotonic() < deadline:
        time.sleep(0.02)
    gateway.kill()
    gateway.front.heal()
    gateway.serve()
    client.join(100)
    [job] = ended
    assert job.succeeded().statuses("POST") == [201]
    gateway.janitor()
    owner.ready(path)


@pytest.mark.parametrize("protocol", ["tus-v1", IETF[1]])
def test_js_terminates(protocol: str, owner: Owner, tus_js: Callable[..., Job], tmp_path: Path) -> None:
    path = made(tmp_path, "unwanted.bin", 9 * MIB)
    job = tus_js(owner, path, terminateAt=5 * MIB, options={"protocol": protocol, "chunkSize": 4 * MIB})
    assert job.end["event"] == "stopped", job.end
    assert job.statuses("DELETE")[-1] == 204
    owner.nothing_left()
    assert exchange("HEAD", job.url, tus_headers(owner)).status in (404, 410)


def test_T56_js_terminating_a_finished_upload_keeps_the_file(
    owner: Owner, tus_js: Callable[..., Job], tmp_path: Path
) -> None:
    path = made(tmp_path, "kept.txt", 5000)
    tus_js(owner, path, terminateAfter=True).succeeded()
    owner.ready(path)


@pytest.mark.parametrize("protocol", ["tus-v1", IETF[1]])
def test_T58_js_starts_again_if_its_upload_has_expired(
    protocol: str, gateway: Gateway, owner: Owner, tus_js: Callable[..., Job], tmp_path: Path
) -> None:
    path, storage = made(tmp_path, "late.bin", 9 * MIB + 5), str(tmp_path / "urls.json")
    options = {"protocol": protocol, "chunkSize": 4 * MIB}
    first = tus_js(owner, path, urlStorage=storage, stopAt=5 * MIB, options=options)
    if protocol == "tus-v1":
        assert all("upload-expires" in answer["headers"] for answer in first.answers if answer["method"] != "HEAD")
    expire(owner)
    second = tus_js(owner, path, urlStorage=storage, resume=True, options=options).succeeded()
    assert second.statuses("HEAD")[0] == 410
    assert second.url != first.url
    gateway.janitor()
    owner.ready(path)


# -- tuspy -------------------------------------------------------------------------------------------------------------


def tuspy(gateway: Gateway, credential: str | None, endpoint: str | None = None) -> TusClient:
    headers = {"Authorization": f"Bearer {credential}"} if credential else {}
    return TusClient(endpoint or gateway.tus, headers=headers)


@pytest.mark.parametrize(
    ("chunk_size", "checksum"), [(None, False), (None, True), (5 * MIB, False), (3 * MIB + 1, True)]
)
def test_py_uploads(chunk_size: int | None, checksum: bool, gateway: Gateway, owner: Owner, tmp_path: Path) -> None:
    path = made(tmp_path, UNICODE, 9 * MIB + 17)
    options: dict[str, Any] = {} if chunk_size is None else {"chunk_size": chunk_size}
    uploader = tuspy(gateway, owner.key).uploader(
        str(path), metadata={"filename": path.name}, upload_checksum=checksum, **options
    )
    uploader.upload()
    [file] = owner.ready(path)
    assert uploader.request is not None
    assert uploader.request.response_headers["upload-file-id"] == file["id"]


@pytest.mark.parametrize("size", [0, 1, 5 * MIB])
def test_py_sizes_at_part_boundaries(size: int, gateway: Gateway, owner: Owner, tmp_path: Path) -> None:
    path = made(tmp_path, "edge.bin", size)
    tuspy(gateway, owner.key).uploader(str(path), metadata={"filename": path.name}).upload()
    owner.ready(path)


def test_py_asynchronous(gateway: Gateway, owner: Owner, tmp_path: Path) -> None:
    path = made(tmp_path, "async.bin", 9 * MIB + 17)

    async def upload() -> None:
        uploader = tuspy(gateway, owner.key).async_uploader(
            str(path), metadata={"filename": path.name}, chunk_size=4 * MIB, upload_checksum=True
        )
        await uploader.upload()

    asyncio.run(upload())
    owner.ready(path)


@pytest.mark.parametrize("place", ["path", "header"])
def test_py_with_an_upload_token(place: str, gateway: Gateway, owner: Owner, tmp_path: Path) -> None:
    path = made(tmp_path, "by-token.bin", 6 * MIB)
    made_token = owner.client.post("/api/upload-tokens", json={"owner_id": owner.name}).json
    by_path = place == "path"
    client = tuspy(
        gateway, None if by_path else made_token["token"], made_token["endpoints"]["tus"] if by_path else None
    )
    client.uploader(str(path), metadata={"filename": path.name}, chunk_size=5 * MIB).upload()
    owner.ready(path)


def test_py_resumes_after_a_lost_connection(gateway: Gateway, owner: Owner, tmp_path: Path) -> None:
    path = made(tmp_path, "cut.bin", 9 * MIB + 5)
    gateway.front.arm(Fault("reset", after=4 * MIB + 11))
    uploader = tuspy(gateway, owner.key).uploader(
        str(path), metadata={"filename": path.name}, retries=8, retry_delay=1, upload_checksum=True
    )
    uploader.upload()
    gateway.janitor()
    owner.ready(path)


def test_py_resumes_with_a_stored_url(gateway: Gateway, owner: Owner, tmp_path: Path) -> None:
    path, storage = made(tmp_path, "later.bin", 9 * MIB + 5), str(tmp_path / "urls.json")
    options: dict[str, Any] = {
        "metadata": {"filename": path.name},
        "chunk_size": 2 * MIB,
        "store_url": True,
        "url_storage": filestorage.FileStorage(storage),
    }
    client = tuspy(gateway, owner.key)
    first = client.uploader(str(path), **options)
    first.upload(stop_at=4 * MIB)
    second = client.uploader(str(path), **{**options, "url_storage": filestorage.FileStorage(storage)})
    assert (second.url, second.offset) == (first.url, 4 * MIB)
    second.upload()
    owner.ready(path)


def test_T58_py_gets_an_error_for_an_expired_upload(gateway: Gateway, owner: Owner, tmp_path: Path) -> None:
    path = made(tmp_path, "late.bin", 3 * MIB)
    client = tuspy(gateway, owner.key)
    uploader = client.uploader(str(path), metadata={"filename": path.name}, chunk_size=MIB)
    uploader.upload(stop_at=MIB)
    expire(owner)
    with pytest.raises(TusCommunicationError) as told:
        client.uploader(str(path), url=uploader.url)
    assert told.value.status_code == 410
    gateway.janitor()
    owner.nothing_left()


# -- requests that no library sends: the draft as URLSession uses it ---------------------------------------------------


def tus_headers(owner: Owner) -> dict[str, str]:
    return {"Authorization": f"Bearer {owner.key}", "Tus-Resumable": "1.0.0"}


def draft_headers(owner: Owner, version: int) -> dict[str, str]:
    return {"Authorization": f"Bearer {owner.key}", "Upload-Draft-Interop-Version": str(version)}


def complete(version: int, *, last: bool) -> dict[str, str]:
    if version == 3:
        return {"Upload-Incomplete": "?0" if last else "?1"}
    return {"Upload-Complete": "?1" if last else "?0"}


def appended(version: int) -> dict[str, str]:
    return {"Content-Type": "application/partial-upload"} if version >= 6 else {}


def urlsession(version: int, gateway: Gateway, owner: Owner, path: Path, **headers: str) -> Request:
    """The single POST that URLSession sends for a whole file."""
    named = {
        "Content-Type": "text/plain",
        "Content-Disposition": f'attachment; filename="{path.name}"',
        "Content-Length": str(path.stat().st_size),
    }
    return Request(
        "POST", gateway.tus, {**draft_headers(owner, version), **complete(version, last=True), **named, **headers}
    )


@pytest.mark.parametrize("version", [3, 4, 5, 6, 7, 8, 9])
def test_ietf_104_precedes_the_body_and_an_interrupted_post_resumes(
    version: int, gateway: Gateway, owner: Owner, tmp_path: Path
) -> None:
    path = made(tmp_path, "session.bin", 7 * MIB + 3)
    content = path.read_bytes()
    post = urlsession(version, gateway, owner, path)
    interim = post.interim()  # not one byte of the body has been sent
    assert interim.status == 104
    assert interim.headers["upload-draft-interop-version"] == str(version)
    location = interim.headers["location"]
    assert location.startswith(gateway.tus)
    post.send(content[: 3 * MIB + 77])
    post.cut("fin")
    all_written(owner)  # a HEAD while bytes are arriving may end the request that writes them

    def offset() -> Answer:
        return exchange("HEAD", location, draft_headers(owner, version))

    head = settled(offset)
    assert head.status in (200, 204), head
    assert head.headers["cache-control"] == "no-store"
    at = int(head.headers["upload-offset"])
    assert 3 * MIB <= at <= 3 * MIB + 77
    assert head.headers["upload-incomplete" if version == 3 else "upload-complete"] == ("?1" if version == 3 else "?0")
    done = exchange(
        "PATCH",
        location,
        {
            **draft_headers(owner, version),
            **complete(version, last=True),
            **appended(version),
            "Upload-Offset": str(at),
        },
        content[at:],
    )
    assert done.status in (200, 201, 204), done
    gateway.janitor()
    [file] = owner.ready(path)
    assert done.headers["upload-file-id"] == file["id"]


@pytest.mark.parametrize("version", [3, 5, 8])
def test_ietf_one_post_without_faults(version: int, gateway: Gateway, owner: Owner, tmp_path: Path) -> None:
    path = made(tmp_path, "session.bin", 2 * MIB)
    post = urlsession(version, gateway, owner, path)
    assert post.interim().status == 104
    post.send(path.read_bytes())
    answer = post.answer()
    assert answer.status in (200, 201), answer
    [file] = owner.ready(path)
    assert answer.headers["upload-file-id"] == file["id"]


@pytest.mark.parametrize("version", ["", "2", "99", "six"])
def test_ietf_no_104_to_clients_of_other_versions(version: str, gateway: Gateway, owner: Owner, tmp_path: Path) -> None:
    """A client that does not know this 104 could treat it as a protocol error."""
    path = made(tmp_path, "plain.txt", 1000)
    headers = {
        "Authorization": f"Bearer {owner.key}",
        "Upload-Complete": "?1",
        "Content-Type": "text/plain",
        "Content-Disposition": 'attachment; filename="plain.txt"',
    }
    if version:
        headers["Upload-Draft-Interop-Version"] = version
    answer = exchange("POST", gateway.tus, headers, path.read_bytes())
    assert answer.interim == []
    assert answer.status in (200, 201), answer
    owner.ready(path)


@pytest.mark.parametrize("version", [5, 8])
def test_ietf_curl_accepts_a_104_while_it_sends_the_body(
    version: int, gateway: Gateway, owner: Owner, tmp_path: Path
) -> None:
    """Another HTTP implementation accepts our interim answer."""
    curl = needs("curl")
    path = made(tmp_path, "curl.txt", 1000)
    fields = {
        **draft_headers(owner, version),
        "Upload-Complete": "?1",
        "Content-Type": "text/plain",
        "Content-Disposition": 'attachment; filename="curl.txt"',
        "Expect": "",
    }
    sent = [part for name, value in fields.items() for part in ("-H", f"{name}: {value}" if value else f"{name}:")]
    shown = subprocess.run(
        [curl, "-sS", "-i", *sent, "--data-binary", f"@{path}", gateway.tus],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    ).stdout
    assert [line.split()[1] for line in shown.splitlines() if line.startswith("HTTP/1.1 ")] in (
        ["104", "200"],
        ["104", "201"],
    ), shown
    owner.ready(path)


def test_ietf_digests_are_verified(gateway: Gateway, owner: Owner, tmp_path: Path) -> None:
    """The digest of a body is verified at once; that of the file when the worker reads it, like every declared SHA-256."""
    path = made(tmp_path, "digest.txt", 5000)
    right = base64.b64encode(hashlib.sha256(path.read_bytes()).digest()).decode()
    wrong = base64.b64encode(hashlib.sha256(b"other").digest()).decode()
    for name in ("Repr-Digest", "Content-Digest"):
        post = urlsession(8, gateway, owner, path, **{name: f"sha-256=:{wrong}:"})
        post.send(path.read_bytes())
        answer = post.answer()
        if name == "Content-Digest" or not 200 <= answer.status < 300:
            assert 400 <= answer.status < 500, (name, answer)
    digests = {"Repr-Digest": f"sha-256=:{right}:", "Content-Digest": f"sha-256=:{right}:"}
    post = urlsession(8, gateway, owner, path, **digests)
    post.send(path.read_bytes())
    assert post.answer().status in (200, 201)
    expire(owner)  # uploads that the refused requests left for a retry
    gateway.janitor()
    ready_or_rejected(owner, path)


def ready_or_rejected(owner: Owner, path: Path) -> None:
    """One file has the right bytes; any other is marked as rejected."""
    files = owner.client.get("/api/files").json["items"]
    deadline = time.monotonic() + 30
    while any(file["status"] == "processing" for file in files) and time.monotonic() < deadline:
        time.sleep(0.1)
        files = owner.client.get("/api/files").json["items"]
    sha = hashlib.sha256(path.read_bytes()).hexdigest()
    assert [file["file_hash"] for file in files if file["status"] == "ready"] == [sha], files
    assert {file["status"] for file in files} <= {"ready", "rejected"}, files


def settled(head: Callable[[], Answer], seconds: float = 60.0) -> Answer:
    """Repeat HEAD while the interrupted request still holds the upload (423, or 409 for drafts)."""
    deadline = time.monotonic() + seconds
    while (answer := head()).status in (409, 423, 503) and time.monotonic() < deadline:
        time.sleep(0.2)
    return answer
