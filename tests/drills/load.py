"""Well-behaved clients: each keeps uploading, changing, reading and deleting files of its own, by every protocol.

A request that got no answer, or 503, is sent again, with the same Idempotency-Key where there is one, until the gateway says what
became of it. So in the end every outcome is known, and the ledger has all of them."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import random
import re
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote, urlencode, urlsplit
from uuid import uuid4

import requests
from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool
from urllib3.connection import HTTPConnection

from tests.client import Answer, form_data
from tests.drills.deployment import Deployment
from tests.drills.ledger import Entry, Ledger
from tests.samples import picture
from tests.tus import BYTES, TUS, metadata

MIB = 1024 * 1024
PATIENCE = 60.0  # seconds that a client waits for an answer; the gateway gives one much sooner
SETTLE = 180.0  # seconds after the end of the drill in which every open outcome must become known
# Not now: unreachable, busy, the first request still runs, another writer; a proxy's own; a full disk, which the drill empties
AGAIN = {502, 503, 504, 429, 423, 507}
_TIME = re.compile(rb"RequestTimeTooSkewed|[Ee]xpired|NotYetValid")  # in a bucket's refusal of a URL


class _Response(http.client.HTTPResponse):
    """Passes over interim responses, such as 104 of the IETF draft."""

    def _read_status(self) -> tuple[str, int, str]:
        while True:
            version, status, reason = super()._read_status()
            if status == 101 or status >= 200:
                return version, status, reason
            http.client.parse_headers(self.fp)


class _Connection(HTTPConnection):
    response_class = _Response


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _Adapter(HTTPAdapter):
    def init_poolmanager(self, *arguments: Any, **keywords: Any) -> None:
        super().init_poolmanager(*arguments, **keywords)
        self.poolmanager.pool_classes_by_scheme = {"http": _Pool}


class GivenUp(Exception):
    """The drill is over and the outcome is still unknown."""


class Over(Exception):
    """The file or upload can't be used as planned; the client plans something else."""


class Client(threading.Thread):
    """One user. Several may have one owner, each with files of its own."""

    def __init__(self, deployment: Deployment, ledger: Ledger, *, owner: str, key: str, number: int, seed: int):
        super().__init__(daemon=True, name=f"client-{number}")
        self.deployment, self.ledger, self.owner, self.key = deployment, ledger, owner, key
        self.random = random.Random(f"{seed} {number}")
        self.prefix = f"{number}-{uuid4().hex[:6]}"
        self.session, self.bucket = requests.Session(), requests.Session()
        self.bucket.trust_env = self.session.trust_env = False
        self.session.mount("http://", _Adapter())
        self.stopped = threading.Event()
        self.give_up = float("inf")  # of the monotonic clock
        self.mine: list[Entry] = []
        self.folder: int | None = None
        self.made = 0
        self.web = number
        self.pace = 0.02  # seconds between two actions at least

    # -- requests ------------------------------------------------------------------------------------------------------

    def once(
        self, method: str, path: str, *, json: Any = None, data: Any = None, headers: Mapping[str, str] | None = None
    ) -> Answer | None:
        """One request to one of the web servers; None without an answer, and the next goes to another server."""
        url = self.deployment.webs[self.web % len(self.deployment.webs)].url
        sent = {"Authorization": f"Bearer {self.key}", **(headers or {})}
        try:
            response = self.session.request(
                method, url + path, json=json, data=data, headers=sent, allow_redirects=False, timeout=(5, PATIENCE)
            )
        except requests.RequestException as error:
            self.web += 1
            if isinstance(error, requests.ReadTimeout):
                self.ledger.finding("no answer within the client's patience", method=method, path=path)
            self.ledger.count(unanswered=1)
            return None
        answer = Answer(response.status_code, dict(response.headers), response.content)
        if answer.status == 500:
            self.ledger.finding("500", method=method, path=path, body=answer.body[:300])
        return answer

    def pause(self, seconds: float = 0.3) -> None:
        if time.monotonic() > self.give_up:
            raise GivenUp
        time.sleep(seconds * self.random.uniform(0.5, 1.5))

    def ask(self, method: str, path: str, *expected: int, **options: Any) -> Answer:
        """Repeat a request until its outcome is known. Raises Over for a refusal that is not ``expected``, which is a finding
        unless it is due to a quota."""
        while True:
            answer = self.once(method, path, **options)
            if answer is not None and answer.status not in AGAIN and answer.code != "idempotency_in_progress":
                break
            if answer is not None:
                self.ledger.count(refused=1)
                self.web += 1
            self.pause()
        if answer.status not in expected:
            if answer.code != "quota_exceeded" and answer.status != 500:
                self.ledger.finding(
                    "refused", method=method, path=path, status=answer.status, body=answer.body[:300], client=self.name
                )
            raise Over
        return answer

    def create(
        self, method: str, path: str, *expected: int, headers: Mapping[str, str] | None = None, **options: Any
    ) -> Answer:
        return self.ask(method, path, *expected, headers={"Idempotency-Key": uuid4().hex, **(headers or {})}, **options)

    def store(self, method: str, url: str, data: bytes, headers: Mapping[str, str] | None = None) -> requests.Response:
        """Send bytes to the bucket by a presigned URL, until it has taken them, or until it refuses the URL, as after the
        gateway has found and completed an upload. Raises Over if it was signed by a clock that is wrong."""
        while True:
            try:
                response = self.bucket.request(method, url, data=data, headers=headers, timeout=(5, PATIENCE))
            except requests.RequestException:
                self.ledger.count(unanswered=1)
            else:
                if response.status_code == 403 and _TIME.search(response.content):
                    raise Over
                if response.status_code < 500:
                    return response
            self.pause()

    # -- the client's life ---------------------------------------------------------------------------------------------

    def run(self) -> None:
        try:
            self.folder = self.create("POST", "/api/folders", 201, json={"name": f"of {self.prefix}"}).json["id"]
            while not self.stopped.is_set():
                actions = self.actions()
                action = self.random.choices(list(actions), list(actions.values()))[0]
                with contextlib.suppress(Over):
                    action()
                self.pause(self.pace)
        except GivenUp:
            self.ledger.finding("the outcome of a request did not become known", client=self.name)
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            self.ledger.finding("a client failed", client=self.name, error=repr(error), line=where.lineno)

    def actions(self) -> dict[Callable[[], object], float]:
        ways: dict[Callable[[], object], float] = {
            self.by_form: 3.0,
            self.raw: 3.0,
            self.tus: 2.0,
            self.ietf: 1.0,
            self.direct: 2.0,
            self.by_s3: 0.7,
            self.large: 0.3,
        }
        here = len(self.mine)
        if here > 60:  # so that the audit at the end stays short, and quotas are not full for ever
            ways = {self.purge: 8.0}
        if here < 3:
            return ways
        return ways | {
            self.rename: 1.5,
            self.move: 1.5,
            self.copy: 1.5,
            self.tag: 1.0,
            self.trash: 1.5,
            self.restore: 1.0,
            self.purge: ways.get(self.purge, 2.0),
            self.batch: 1.0,
            self.download: 4.0,
            self.preview: 1.0,
            self.search: 0.5,
            self.look: 1.0,
        }

    # -- content -------------------------------------------------------------------------------------------------------

    def content(self, size: int | None = None) -> tuple[str, bytes]:
        """A new name and its bytes, which are sometimes those that another file of the owner has."""
        self.made += 1
        kind = self.random.choice(["bin", "bin", "txt", "png"])
        random_ = random.Random(f"shared {self.random.randrange(8)}") if self.random.random() < 0.2 else self.random
        size = size or int(10 ** random_.uniform(1, 5.3))
        if kind == "png":
            data = picture("PNG", random_.randrange(1, 300), 30, (random_.randrange(256), 3, random_.randrange(256)))
        elif kind == "txt":
            words = [f"word{random_.randrange(1000)}" for _ in range(max(1, min(size, 60_000) // 8))]
            data = " ".join(words).encode()
        else:
            data = b"\x93\x01\x02" + random_.randbytes(size)
        return f"{self.prefix}-{self.made}.{kind}", data

    def added(self, kind: str, file_id: str, name: str, data: bytes, *, folder: int | None = None) -> None:
        digest = hashlib.sha256(data).hexdigest()
        self.mine.append(self.ledger.add(kind, Entry(file_id, self.owner, name, digest, len(data), folder)))

    def one(self, *states: str) -> Entry:
        found = [entry for entry in self.mine if entry.state in (states or ("here",))]
        if not found:
            raise Over
        return self.random.choice(found)

    # -- uploads -------------------------------------------------------------------------------------------------------

    def by_form(self) -> None:
        files = [self.content() for _ in range(self.random.choice([1, 1, 3]))]
        body, content_type = form_data(files)
        answer = self.create("POST", "/api/upload", 201, 207, data=body, headers={"Content-Type": content_type})
        made = {file["original_name"]: file["id"] for file in answer.json["files"]}
        for name, data in files:
            if name in made:
                self.added("form", made[name], name, data)
        refused = {item["problem"]["code"] for item in answer.json["rejected"]}
        if refused - {"quota_exceeded"}:
            self.ledger.finding("files of a form were refused", answer=answer.json["rejected"])

    def raw(self) -> None:
        name, data = self.content()
        folder = self.random.choice([None, self.folder])
        query = "" if folder is None else f"?folder_id={folder}"
        answer = self.create("PUT", f"/api/upload/{quote(name)}{query}", 201, data=data)
        self.added("raw", answer.json["id"], name, data, folder=folder)

    def large(self) -> None:
        """More than one part."""
        name, data = self.content(self.random.randrange(9 * MIB, 11 * MIB))
        self.random.choice([self._raw, self._tus, self._direct])(name, data)

    def _raw(self, name: str, data: bytes) -> None:
        answer = self.create("PUT", f"/api/upload/{quote(name)}", 201, data=data)
        self.added("raw", answer.json["id"], name, data)

    def tus(self) -> None:
        self._tus(*self.content())

    def _tus(self, name: str, data: bytes) -> None:
        """Chunks of any size, continued at the offset that the gateway names; what was confirmed must be there."""
        sent = {**TUS, "Upload-Length": str(len(data)), "Upload-Metadata": metadata(filename=name)}
        where = self._begun("/api/tus", sent)
        self._append(where, data, "tus", name, lambda offset, end: {**BYTES, "Upload-Offset": str(offset)}, TUS)

    def ietf(self) -> None:
        name, data = self.content()
        first = self.random.randrange(len(data))
        draft = {"Upload-Draft-Interop-Version": "8"}
        named = {**draft, "Upload-Complete": "?0", "Content-Disposition": f'attachment; filename="{name}"'}
        where = self._begun("/api/tus", named, data[:first])

        def fields(offset: int, end: int) -> dict[str, str]:
            complete = "?1" if end == len(data) else "?0"
            kind = {"Content-Type": "application/partial-upload"}
            return {**draft, **kind, "Upload-Complete": complete, "Upload-Offset": str(offset)}

        self._append(where, data, "ietf", name, fields, draft)

    def _begun(self, path: str, headers: Mapping[str, str], data: bytes = b"") -> str:
        """A new upload. If there was no answer, it is begun again: the first one expires."""
        answer = self.ask("POST", path, 201, headers=headers, data=data)
        return urlsplit(answer.headers["Location"]).path

    def _append(
        self,
        where: str,
        data: bytes,
        kind: str,
        name: str,
        fields: Callable[[int, int], dict[str, str]],
        looking: Mapping[str, str],
    ) -> None:
        confirmed, pieces = 0, self.random.randrange(1, 5)
        while True:
            seen = self.ask("HEAD", where, 200, 204, headers=looking)
            offset = int(seen.headers["Upload-Offset"])
            if offset < confirmed:
                self.ledger.finding("confirmed bytes of an upload are gone", offset=offset, confirmed=confirmed)
            if (file_id := seen.headers.get("Upload-File-Id")) is not None:
                return self.added(kind, file_id, name, data)
            end = min(len(data), offset + max(1, len(data) // pieces))
            answer = self.once("PATCH", where, data=data[offset:end], headers=fields(offset, end))
            if answer is not None and answer.status == 204:
                confirmed = int(answer.headers["Upload-Offset"])
                if (file_id := answer.headers.get("Upload-File-Id")) is not None:
                    return self.added(kind, file_id, name, data)
            elif answer is None or answer.status in AGAIN | {409}:  # 409: another offset, since an answer was lost
                self.ledger.count(refused=answer is not None)
                self.pause()
            else:
                if answer.code != "quota_exceeded":
                    self.ledger.finding(
                        "an upload was refused", kind=kind, status=answer.status, body=answer.body[:300]
                    )
                raise Over

    def direct(self) -> None:
        self._direct(*self.content())

    def _direct(self, name: str, data: bytes) -> None:
        begun = self.create("POST", "/api/uploads", 201, json={"filename": name, "size": len(data)}).json
        if begun["method"] == "PUT":
            self.store("PUT", begun["url"], data, begun["headers"])
        else:
            size = begun["part_size"]
            for part in begun["parts"]:
                start = (part["part_number"] - 1) * size
                self.store("PUT", part["url"], data[start : start + size], part["headers"])
        done = self.ask("POST", f"/api/uploads/{begun['id']}/complete", 201, json={})
        self.added("direct", done.json["id"], name, data)

    def by_s3(self) -> None:
        """As the plugin uploads: a multipart upload of small parts."""
        name, data = self.content()
        metadata = {"filename": name, "type": "application/octet-stream", "metadata": {}}
        created = self.ask("POST", "/s3/multipart", 200, json=metadata).json
        at = f"/s3/multipart/{created['uploadId']}"
        query = urlencode({"key": created["key"]})
        signed = self.ask("GET", f"{at}/1?{query}", 200).json
        stored = self.store("PUT", signed["url"], data)
        if not stored.ok:
            self.ledger.finding("a part was refused", status=stored.status_code, body=stored.content[:300])
            raise Over
        etag = stored.headers["ETag"].strip('"')
        parts = {"parts": [{"PartNumber": 1, "ETag": etag}]}
        self.ask("POST", f"{at}/complete?{query}", 200, json=parts)
        # The plugin learns no id from this; the upload's row has it.
        found = self._named(name)
        if found is None:
            self.ledger.finding("a completed upload has no file", name=name)
        else:
            self.added("s3", found, name, data)

    def _named(self, name: str) -> str | None:
        files = self.ask("GET", "/api/files?limit=200&sort=-uploaded_at", 200).json["items"]
        return next((file["id"] for file in files if file["original_name"] == name), None)

    # -- changes -------------------------------------------------------------------------------------------------------

    def rename(self) -> None:
        entry = self.one()
        self.made += 1
        name = f"{self.prefix}-{self.made}-renamed.{entry.name.rpartition('.')[2]}"
        self.ask("PATCH", f"/api/files/{entry.id}", 200, json={"original_name": name})
        entry.name = name
        self.ledger.did("rename")

    def move(self) -> None:
        entry = self.one()
        folder = self.random.choice([None, self.folder])
        self.ask("PUT", f"/api/files/{entry.id}/move", 200, json={"target_folder_id": folder})
        entry.folder = folder
        self.ledger.did("move")

    def copy(self) -> None:
        entry = self.one()
        if not self.ready(entry):
            raise Over
        self.made += 1
        name = f"{self.prefix}-{self.made}-copy.{entry.name.rpartition('.')[2]}"
        made = self.create("POST", f"/api/files/{entry.id}/copy", 201, json={"original_name": name}).json
        new = Entry(made["id"], self.owner, name, entry.sha256, entry.size, entry.folder, entry.tags)
        self.mine.append(self.ledger.add("copy", new))

    def tag(self) -> None:
        entry, tags = self.one(), [f"t{self.random.randrange(9)}"]
        self.ask("PATCH", f"/api/files/{entry.id}", 200, json={"tags": tags})
        entry.tags = tuple(tags)
        self.ledger.did("tag")

    def trash(self) -> None:
        entry = self.one()
        self.ask("DELETE", f"/api/files/{entry.id}", 200)
        entry.state = "trashed"
        self.ledger.did("trash")

    def restore(self) -> None:
        entry = self.one("trashed")
        self.ask("POST", f"/api/files/{entry.id}/restore", 200, 409)  # 409: a repeat, after an answer was lost
        if self.ask("GET", f"/api/files/{entry.id}", 200).json["is_deleted"]:
            self.ledger.finding("a restored file is in the trash", file=entry.id)
        entry.state = "here"
        self.ledger.did("restore")

    def purge(self) -> None:
        entry = self.one("here", "trashed")
        self.ask("DELETE", f"/api/files/{entry.id}?permanent=true", 200, 404)  # 404: a repeat
        self._purged(entry)

    def _purged(self, entry: Entry) -> None:
        entry.state = "purged"
        self.mine.remove(entry)
        self.ledger.did("purge")

    def batch(self) -> None:
        entries = self.random.sample(self.mine, min(len(self.mine), 5))
        action, state = self.random.choice([("delete", "trashed"), ("restore", "here"), ("purge", "purged")])
        if action == "restore":
            entries = [entry for entry in entries if entry.state == "trashed"]
        if not entries:
            raise Over
        ids = [entry.id for entry in entries]
        results = self.ask("POST", "/api/files/batch", 200, json={"action": action, "ids": ids}).json["results"]
        for entry, result in zip(entries, results, strict=True):
            if result["status"] in {"delete": (200,), "restore": (200, 409), "purge": (200, 404)}[action]:
                if state == "purged":
                    self._purged(entry)
                else:
                    entry.state = state  # type: ignore[assignment]
                    self.ledger.did(action)
            elif result["status"] not in AGAIN:
                self.ledger.finding("a batch refused", action=action, result=result)
            else:  # whether it was done is to be looked up
                self._settle(entry)

    def _settle(self, entry: Entry) -> None:
        answer = self.ask("GET", f"/api/files/{entry.id}", 200, 404)
        if answer.status == 404:
            self._purged(entry)
        else:
            entry.state = "trashed" if answer.json["is_deleted"] else "here"

    # -- reading -------------------------------------------------------------------------------------------------------

    def ready(self, entry: Entry) -> bool:
        """Whether it has been checked; once ready, a file stays so."""
        if not entry.seen_ready:
            entry.seen_ready = self.ask("GET", f"/api/files/{entry.id}", 200).json["status"] == "ready"
        return entry.seen_ready

    def download(self) -> None:
        entry = self.one()
        if self.ready(entry):
            way = self.random.choice(["proxy", "redirect"])
            data = self.fetch(entry, way)
            if data is not None and hashlib.sha256(data).hexdigest() != entry.sha256:
                self.ledger.finding("other bytes", file=entry.id, way=way, size=len(data), expected=entry.size)
            self.ledger.did("download")

    def fetch(self, entry: Entry, way: str) -> bytes | None:
        """The file's bytes; None if there was no whole answer."""
        answer = self.once("GET", f"/api/files/{entry.id}/download?mode={way}")
        if answer is None or answer.status in AGAIN:
            return None
        if answer.status == 302:
            try:
                found = self.bucket.get(answer.headers["Location"], timeout=(5, PATIENCE))
            except requests.RequestException:
                return None
            if found.status_code >= 500:
                return None
            answer = Answer(found.status_code, dict(found.headers), found.content)
        if answer.status != 200:
            self.ledger.finding("no download", file=entry.id, way=way, status=answer.status, body=answer.body[:300])
            return None
        return answer.body

    def preview(self) -> None:
        entry = self.one()
        if entry.name.endswith(".png") and self.ready(entry):
            answer = self.ask("GET", f"/api/files/{entry.id}/preview?size=128", 200, 422)
            if answer.status == 200:
                self.ledger.did("preview")
            elif b"too much processor time or memory" not in answer.body:  # what a parser is taken for that was killed
                self.ledger.finding("no preview", file=entry.id, body=answer.body[:300])

    def search(self) -> None:
        self.ask("GET", f"/api/search?query={quote(self.prefix)}&limit=5", 200)
        self.ledger.did("search")

    def look(self) -> None:
        """A list shows no file that was purged, and a file what was last acknowledged."""
        entry = self.one("here", "trashed")
        file = self.ask("GET", f"/api/files/{entry.id}", 200).json
        compare(self.ledger, entry, file)
        self.ledger.did("look")


def compare(ledger: Ledger, entry: Entry, file: Mapping[str, Any]) -> None:
    """Whether the gateway shows the file as it was last acknowledged."""
    expected = {
        "original_name": entry.name,
        "file_size": entry.size,
        "folder_id": entry.folder,
        "tags": list(entry.tags),
        "is_deleted": entry.state == "trashed",
    }
    shown = {name: file[name] for name in expected}
    if shown != expected or file["status"] not in ("ready", "processing"):
        ledger.finding(
            "a file is not as it was acknowledged", file=entry.id, shown=shown, expected=expected, status=file["status"]
        )


class Load:
    """All clients of a drill: three owners, of whom one has a quota."""

    def __init__(self, deployment: Deployment, ledger: Ledger, *, seed: int, clients: int = 6):
        self.deployment, self.ledger = deployment, ledger
        admin = deployment.admin()
        self.keys: dict[str, str] = {}
        for number in range(3):
            owner = f"owner-{number}-{uuid4().hex[:6]}"
            answer = admin.post("/api/admin/keys", json={"owner_id": owner})
            assert answer.status == 201, answer.body
            self.keys[owner] = answer.json["key"]
        owners = list(self.keys)
        answer = admin.put(f"/api/admin/quotas/{owners[-1]}", json={"max_bytes": 40 * MIB, "max_files": 60})
        assert answer.status == 200, answer.body
        self.clients = [
            Client(
                deployment,
                ledger,
                owner=owners[number % 3],
                key=self.keys[owners[number % 3]],
                number=number,
                seed=seed,
            )
            for number in range(clients)
        ]

    def start(self) -> None:
        for client in self.clients:
            client.start()

    def stop(self, *, settle: float = SETTLE) -> None:
        """Let every client learn the outcome of what it has begun."""
        for client in self.clients:
            client.give_up = time.monotonic() + settle
            client.stopped.set()
        for client in self.clients:
            client.join(settle + 2 * PATIENCE)
