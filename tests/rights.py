"""Who may do what, written by hand: the rule for each kind of route, and the kind of each route, with a request.

tests/api/test_rights.py makes every request as every caller, and fails for a route without an entry. The table for readers:

    .venv/bin/python -m tests.rights > docs/rights.md
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any
from urllib.parse import urlsplit

from tests.client import GatewayClient, form_data
from tests.presigned import put
from tests.tus import BYTES, TUS
from tests.tus import begin as begin_tus
from tests.tus import path as path_of

CALLERS = {
    "anonymous": "no credential",
    "owner": "a key of the owner with all scopes",
    "session": "a browser in which the owner has signed in, on a page of the gateway",
    "other": "a key of another owner",
    "token": "an upload token of the owner",
    "read": "a key of the owner with the scope `read`",
    "write": "with the scope `write`",
    "delete": "with the scope `delete`",
    "folder": "limited to the folder in which all this is",
    "elsewhere": "limited to another folder of the owner",
    "expired": "an expired key of the owner",
    "revoked": "a revoked key of the owner",
    "admin-": "a key with the role `admin` and without the scope `admin`",
    "admin": "a key with the role `admin` and all scopes",
}

# What each caller gets, in the order of CALLERS; "ok" is the route's own success. "one": a thing that belongs to the owner.
_ROWS = """
kind            anonymous owner session other token read write delete folder elsewhere expired revoked admin- admin
open            ok        ok    ok      ok    ok    ok   ok    ok     ok     ok        ok      ok      ok     ok
read            401       ok    ok      ok    403   ok   403   403    ok     ok        401     401     ok     ok
read one        401       ok    ok      404   403   ok   403   403    ok     404       401     401     ok     ok
read public     ok        ok    ok      ok    403   ok   403   403    ok     ok        401     401     ok     ok
statistics      401       ok    ok      ok    403   ok   403   403    403    403       401     401     ok     ok
write           401       ok    ok      ok    403   403  ok    403    ok     ok        401     401     ok     ok
write one       401       ok    ok      404   403   403  ok    403    ok     404       401     401     ok     ok
delete          401       ok    ok      ok    403   403  403   ok     ok     ok        401     401     ok     ok
delete one      401       ok    ok      404   403   403  403   ok     ok     404       401     401     ok     ok
make token      401       ok    ok      403   403   403  ok    403    ok     ok        401     401     ok     ok
upload          401       ok    ok      ok    ok    403  ok    403    ok     ok        401     401     ok     ok
uploads         401       ok    ok      ok    ok    ok   ok    403    ok     ok        401     401     ok     ok
go on           401       ok    ok      404   404   403  ok    403    ok     404       401     401     ok     ok
look            401       ok    ok      404   404   ok   ok    403    ok     404       401     401     ok     ok
link            ok        ok    ok      ok    403   ok   403   403    ok     ok        401     401     ok     ok
signed go on    ok        ok    ok      404   404   403  ok    403    ok     404       401     401     ok     ok
signed look     ok        ok    ok      404   404   ok   ok    403    ok     404       401     401     ok     ok
admin           401       403   403     403   403   403  403   403    403    403       401     401     403    ok
sign out        401       403   ok      403   403   403  403   403    403    403       401     401     403    403
"""
_HEAD, *_LINES = [line.rsplit(maxsplit=len(CALLERS)) for line in _ROWS.strip().splitlines()]
assert _HEAD[1:] == list(CALLERS)
RULES: Mapping[str, Mapping[str, str]] = {line[0].strip(): dict(zip(CALLERS, line[1:], strict=True)) for line in _LINES}


OUTSIDE = "away from all"  # the name of a folder and a file that the owner's limited keys don't reach


class World:
    """What the owner has: all that is asked for is in ``folder``, beside which is another."""

    def __init__(self, owner: GatewayClient, admin: GatewayClient):
        self.owner, self.admin = owner, admin
        self._numbers = count()
        outside = self.new_folder(None, OUTSIDE)
        owner.add(f"{OUTSIDE}.txt", OUTSIDE.encode(), folder_id=str(outside), tags=OUTSIDE)
        self.folder = self.new_folder(outside)
        self.elsewhere = self.new_folder(outside)

    def new_name(self) -> str:
        return f"name {next(self._numbers)}"

    def new_folder(self, parent: int | None, name: str = "") -> int:
        made = self.owner.post("/api/folders", json={"name": name or self.new_name(), "parent_folder_id": parent})
        return int(made.json["id"])

    def file(self, *, visibility: str = "private") -> str:
        file = self.owner.add(f"{self.new_name()}.txt", folder_id=str(self.folder), visibility=visibility)
        return f"/api/files/{file['id']}"

    def id(self) -> str:
        return self.file().rpartition("/")[2]

    def link(self) -> str:
        return urlsplit(self.owner.get(f"{self.file(visibility='public')}/url").json["url"]).path

    def direct(self, *, sent: bool = False) -> str:
        body = {"filename": "a.txt", "size": 1, "folder_id": self.folder}
        begun = self.owner.post("/api/uploads", json=body).json
        if sent:
            put(begun["url"], b"a", begun["headers"])
        return f"/api/uploads/{begun['id']}"

    def tus(self) -> str:
        return path_of(begin_tus(self.owner, 2, folder_id=str(self.folder)))

    def multipart(self, step: str = "") -> str:
        body = {"filename": "a.bin", "metadata": {"folder_id": self.folder}}
        begun = self.owner.post("/s3/multipart", json=body).json
        return f"/s3/multipart/{begun['uploadId']}{step}?key={begun['key']}"

    def signed(self) -> str:
        body = {"method": "POST", "key": "a.bin", "metadata": {"folder_id": self.folder}}
        address = urlsplit(self.owner.post("/s3/sign", json=body).json["url"])
        return f"{address.path}?{address.query}"

    def token(self) -> str:
        body = {"owner_id": "alice", "folder_id": self.folder}
        return str(self.owner.post("/api/upload-tokens", json=body).json["id"])

    def key(self) -> str:
        return str(self.admin.post("/api/admin/keys", json={"owner_id": "alice"}).json["id"])


Request = tuple[str, Mapping[str, Any]]  # the path, and options of GatewayClient.request


@dataclass(frozen=True)
class Case:
    """A request for a route. It is prepared anew after each success, unless it only reads."""

    kind: str  # of RULES
    ok: int  # the status of success
    prepare: Callable[[World], str | Request]
    note: str = ""
    method: str | None = None  # if not the route's

    def request(self, world: World) -> Request:
        prepared = self.prepare(world)
        return (prepared, {}) if isinstance(prepared, str) else prepared


def _form() -> dict[str, Any]:
    body, content_type = form_data([("a.txt", b"a")])
    return {"data": body, "headers": {"Content-Type": content_type}}


def _json(**members: Any) -> dict[str, Any]:
    return {"json": members}


def _at(path: str) -> Callable[[World], str]:
    return lambda world: path


def _public_too(step: str, ok: int) -> tuple[Case, Case]:
    return (
        Case("read one", ok, lambda world: world.file() + step, "a private file"),
        Case("read public", ok, lambda world: world.file(visibility="public") + step, "a public file"),
    )


_DRAFT = {"Upload-Draft-Interop-Version": "6", "Upload-Complete": "?1"}
_NO_PART = [{"PartNumber": 1, "ETag": '"x"'}]

ROUTES: Mapping[str, tuple[Case, ...]] = {
    "GET /": (Case("open", 200, _at("/")),),
    "GET /docs": (Case("open", 200, _at("/docs"), "unless `OPS_ACCESS` closes it"),),
    "GET /healthz": (Case("open", 200, _at("/healthz")),),
    "GET /metrics": (Case("open", 200, _at("/metrics"), "unless `OPS_ACCESS` closes it"),),
    "GET /openapi.json": (Case("open", 200, _at("/openapi.json"), "unless `OPS_ACCESS` closes it"),),
    "GET /readyz": (Case("open", 200, _at("/readyz")),),
    # files
    "GET /api/files": (Case("read", 200, _at("/api/files")),),
    "GET /api/files/<uuid:file_id>": _public_too("", 200),
    "PATCH /api/files/<uuid:file_id>": (Case("write one", 200, lambda world: (world.file(), _json(tags=["x"]))),),
    "DELETE /api/files/<uuid:file_id>": (
        Case("delete one", 200, World.file),
        Case("delete one", 200, lambda world: f"{world.file()}?permanent=true", "`?permanent=true`"),
    ),
    "POST /api/files/<uuid:file_id>/copy": (Case("write one", 201, lambda world: (f"{world.file()}/copy", _json())),),
    "GET /api/files/<uuid:file_id>/download": _public_too("/download", 302),
    "HEAD /api/files/<uuid:file_id>/download": _public_too("/download", 200),
    "GET /api/files/<uuid:file_id>/history": (Case("read one", 200, lambda world: f"{world.file()}/history"),),
    "PUT /api/files/<uuid:file_id>/move": (
        Case("write one", 200, lambda world: (f"{world.file()}/move", _json(target_folder_id=world.folder))),
    ),
    "GET /api/files/<uuid:file_id>/preview": _public_too("/preview?type=text", 200),
    "POST /api/files/<uuid:file_id>/restore": (Case("write one", 200, lambda world: f"{world.file()}/restore"),),
    "GET /api/files/<uuid:file_id>/url": _public_too("/url", 200),
    "GET /api/files/archive": (
        Case("read one", 200, lambda world: f"/api/files/archive?ids={world.id()}", "`?ids=`"),
        Case("read one", 200, lambda world: f"/api/files/archive?folder={world.folder}", "`?folder=`"),
    ),
    "POST /api/files/archive": (
        Case("read one", 200, lambda world: ("/api/files/archive", _json(ids=[world.id()])), "`ids`"),
        Case("read one", 200, lambda world: ("/api/files/archive", _json(folder=world.folder)), "`folder`"),
    ),
    "POST /api/files/batch": (
        Case("delete", 200, lambda world: ("/api/files/batch", _json(action="delete", ids=[])), "`delete`, `purge`"),
        Case("write", 200, lambda world: ("/api/files/batch", _json(action="tag", ids=[], add=["x"])), "other actions"),
    ),
    "GET /d/<string:token>": (Case("link", 302, World.link),),
    "HEAD /d/<string:token>": (Case("link", 200, World.link),),
    # folders, search, statistics
    "POST /api/folders": (Case("write", 201, lambda world: ("/api/folders", _json(name=world.new_name()))),),
    "GET /api/folders": (Case("read", 200, _at("/api/folders")),),
    "GET /api/folders/<folder_id:folder_id>": (Case("read one", 200, lambda world: f"/api/folders/{world.folder}"),),
    "PATCH /api/folders/<folder_id:folder_id>": (
        Case("write one", 200, lambda world: (_folder(world), _json(description="x"))),
    ),
    "DELETE /api/folders/<folder_id:folder_id>": (Case("delete one", 200, lambda world: _folder(world)),),
    "GET /api/search": (Case("read", 200, _at("/api/search?query=a")),),
    "GET /api/search/suggest": (Case("read", 200, _at("/api/search/suggest?prefix=a")),),
    "GET /api/storage/stats": (Case("statistics", 200, _at("/api/storage/stats")),),
    # uploads
    "POST /api/upload": (Case("upload", 201, lambda world: ("/api/upload", _form())),),
    "PUT /api/upload/<path:filename>": (Case("upload", 201, lambda world: ("/api/upload/a.txt", {"data": b"a"})),),
    "POST /api/uploads": (Case("upload", 201, lambda world: ("/api/uploads", _json(filename="a.txt", size=1))),),
    "GET /api/uploads": (Case("uploads", 200, _at("/api/uploads")),),
    "GET /api/uploads/<uuid:upload_id>": (Case("look", 200, World.direct),),
    "DELETE /api/uploads/<uuid:upload_id>": (Case("go on", 204, World.direct),),
    "POST /api/uploads/<uuid:upload_id>/complete": (
        Case("go on", 201, lambda world: f"{world.direct(sent=True)}/complete"),
    ),
    "POST /api/uploads/<uuid:upload_id>/parts": (
        Case("go on", 200, lambda world: (f"{world.direct()}/parts", _json(part_numbers=[1]))),
    ),
    "POST /api/tus": (
        Case("upload", 201, lambda world: ("/api/tus", {"headers": {**TUS, "Upload-Length": "2"}}), "tus"),
        Case("upload", 201, lambda world: ("/api/tus", {"data": b"a", "headers": _DRAFT}), "IETF draft"),
    ),
    "GET /api/tus/<string:upload_id>": (
        Case("go on", 200, lambda world: (world.tus(), {"headers": TUS}), "HEAD", method="HEAD"),
    ),
    "PATCH /api/tus/<string:upload_id>": (
        Case("go on", 204, lambda world: (world.tus(), {"data": b"a", "headers": {**BYTES, "Upload-Offset": "0"}})),
    ),
    "DELETE /api/tus/<string:upload_id>": (Case("go on", 204, lambda world: (world.tus(), {"headers": TUS})),),
    "POST /api/tus/<string:upload_id>": (
        Case("go on", 204, lambda world: (world.tus(), {"headers": {**TUS, "X-HTTP-Method-Override": "DELETE"}})),
    ),
    "POST /s3/multipart": (Case("upload", 200, lambda world: ("/s3/multipart", _json(filename="a.bin"))),),
    "GET /s3/multipart/<string:upload_id>": (Case("look", 200, World.multipart),),
    "DELETE /s3/multipart/<string:upload_id>": (Case("go on", 200, World.multipart),),
    "GET /s3/multipart/<string:upload_id>/<string:part_number>": (
        Case("go on", 200, lambda world: world.multipart("/1")),
    ),
    "GET /s3/multipart/<string:upload_id>/batch": (
        Case("go on", 200, lambda world: f"{world.multipart('/batch')}&partNumbers=1"),
    ),
    "POST /s3/multipart/<string:upload_id>/complete": (
        Case("go on", 409, lambda world: (world.multipart("/complete"), _json(parts=_NO_PART)), "without its parts"),
    ),
    "POST /s3/objects/<uuid:upload_id>": (Case("signed go on", 200, World.signed),),
    "GET /s3/objects/<uuid:upload_id>": (Case("signed look", 200, World.signed),),
    "DELETE /s3/objects/<uuid:upload_id>": (Case("signed go on", 204, World.signed),),
    "GET /s3/params": (Case("upload", 200, _at("/s3/params?filename=a.txt&type=text/plain")),),
    "POST /s3/sign": (Case("upload", 200, lambda world: ("/s3/sign", _json(method="PUT", key="a.txt", size=1))),),
    "GET /s3/sts": (Case("upload", 404, _at("/s3/sts"), "not offered"),),
    # upload tokens
    "POST /api/upload-tokens": (
        Case("make token", 201, lambda world: ("/api/upload-tokens", _json(owner_id="alice")), "for the owner"),
    ),
    "GET /api/upload-tokens": (Case("read", 200, _at("/api/upload-tokens")),),
    "DELETE /api/upload-tokens/<uuid:token_id>": (
        Case("write one", 204, lambda world: f"/api/upload-tokens/{world.token()}"),
    ),
    # administration
    "POST /api/admin/janitor": (Case("admin", 200, lambda world: ("/api/admin/janitor", _json())),),
    "GET /api/admin/jobs": (Case("admin", 200, _at("/api/admin/jobs")),),
    "DELETE /api/admin/jobs/<job_id:job_id>": (Case("admin", 404, _at("/api/admin/jobs/1000000"), "unknown"),),
    "POST /api/admin/jobs/<job_id:job_id>/retry": (
        Case("admin", 404, _at("/api/admin/jobs/1000000/retry"), "unknown"),
    ),
    "POST /api/admin/keys": (Case("admin", 201, lambda world: ("/api/admin/keys", _json(owner_id="alice"))),),
    "GET /api/admin/keys": (Case("admin", 200, _at("/api/admin/keys")),),
    "DELETE /api/admin/keys/<uuid:key_id>": (Case("admin", 204, lambda world: f"/api/admin/keys/{world.key()}"),),
    "POST /api/admin/backups": (Case("admin", 409, _at("/api/admin/backups"), "without a place"),),
    "GET /api/admin/backups": (Case("admin", 200, _at("/api/admin/backups")),),
    "POST /api/admin/rescan": (Case("admin", 409, _at("/api/admin/rescan"), "without a scanner"),),
    "GET /api/admin/rescan": (Case("admin", 409, _at("/api/admin/rescan"), "without a scanner"),),
    "POST /api/admin/scrub": (Case("admin", 202, _at("/api/admin/scrub")),),
    "GET /api/admin/scrub": (Case("admin", 200, _at("/api/admin/scrub")),),
    "GET /api/admin/quotas": (Case("admin", 200, _at("/api/admin/quotas")),),
    "PUT /api/admin/quotas/<path:owner_id>": (
        Case("admin", 200, lambda world: ("/api/admin/quotas/alice", _json(max_bytes=None, max_files=None))),
    ),
    "GET /api/audit": (Case("admin", 200, _at("/api/audit")),),
    # sessions of browsers
    "POST /api/session": (Case("open", 200, lambda world: ("/api/session", _json(key=world.owner.key))),),
    "DELETE /api/session": (Case("sign out", 204, _at("/api/session")),),
    "GET /api/session/oidc": (Case("open", 503, _at("/api/session/oidc"), "without the provider"),),
    "GET /api/session/oidc/callback": (Case("open", 401, _at("/api/session/oidc/callback"), "for another browser"),),
}


def _folder(world: World) -> str:
    return f"/api/folders/{world.new_folder(world.folder)}"


def expected(case: Case, caller: str) -> int:
    """The status that the caller gets."""
    rule = RULES[case.kind][caller]
    return case.ok if rule == "ok" else int(rule)


def document() -> str:
    """docs/rights.md."""
    head = ["route", *CALLERS]
    rows = [
        [f"`{route}`{f' ({case.note})' if case.note else ''}", *(str(expected(case, caller)) for caller in CALLERS)]
        for route, cases in ROUTES.items()
        for case in cases
    ]
    lines = [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]
    callers = [f"- **{name}**: {text}" for name, text in CALLERS.items()]
    return "\n".join([_TITLE, *callers, "", *lines, ""])


_TITLE = """\
# Who gets what

Written by `.venv/bin/python -m tests.rights > docs/rights.md` from the rules in `tests/rights.py`. `tests/api/test_rights.py`
makes every one of these requests, and fails for a route that is missing here and if this page is not up to date. How keys get
scopes and folders: [identities.md](identities.md).

What is asked for belongs to one owner and is in a folder. Statuses of success are those of a request that is otherwise valid; an
open, public or signed address needs no credential.
"""

if __name__ == "__main__":
    print(document(), end="")
