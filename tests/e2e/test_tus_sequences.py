"""Random sequences of what clients, networks, buckets and operators do to resumable uploads.

After each the promise is held against what is there: a finished file has the right SHA-256, an unfinished upload says
where it stands (and can be finished from there), an acknowledged offset never goes back, and after one run of the janitor
nothing is left of what nobody finished.

The everyday run takes a few sequences, always the same. ``TUS_SEQUENCES=500 pytest -s tests/e2e/test_tus_sequences.py`` takes
500 new ones (``--hypothesis-seed=N`` the same again); what one did is noted at its failure."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from db.files import lock_names
from tests.e2e.conftest import Owner
from tests.e2e.gateway import Gateway
from tests.e2e.wire import Answer, Request, chunked, exchange
from tests.faults import Fault

MANY = int(os.environ.get("TUS_SEQUENCES", "0"))
COUNT = MANY or 8
PATIENCE = 60.0  # seconds until an upload must be free again, whatever became of its last writer
CLAIM = 120.0  # seconds until there must be a file whose maker may have been killed; its claim holds for 60
KIB, MIB = 1024, 1024 * 1024
SIZES = [0, 1, 1000, 64 * KIB + 1, MIB, 5 * MIB - 1, 5 * MIB, 5 * MIB + 1, 8 * MIB - 1, 8 * MIB, 8 * MIB + 1]
TOTALS = [0, 1, 1000, 5 * MIB - 1, 5 * MIB, 5 * MIB + 1, 8 * MIB, 8 * MIB + 1, 10 * MIB + 5, 16 * MIB + 1]
CONTENT = hashlib.shake_256(b"tus").digest(9 * MIB).hex().encode()  # text, and no two parts of it alike


# -- what may happen ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Create:
    """Another upload. ``draft``: the IETF's interop version, None for tus 1.0.0."""

    total: int
    draft: int | None = None
    deferred: bool = False
    partial: bool = False  # one of those that are concatenated in the end
    first: int = 0  # bytes that come with the creation


@dataclass(frozen=True)
class Patch:
    which: int
    size: int
    chunked: bool = False
    checksum: str | None = None  # "right" or "wrong"; tus only
    declare: bool = False  # a deferred length is told now


@dataclass(frozen=True)
class Cut:
    """A PATCH whose client leaves after ``at`` bytes: in order, broken, or after a silence."""

    which: int
    size: int
    at: int
    how: str


@dataclass(frozen=True)
class Head:
    which: int


@dataclass(frozen=True)
class Stale:
    """A PATCH at an offset that is not the upload's."""

    which: int
    by: int
    size: int


@dataclass(frozen=True)
class TwoWriters:
    """Two PATCHes of these sizes at the same offset and the same time."""

    which: int
    sizes: tuple[int, int]


@dataclass(frozen=True)
class Stalled:
    """A writer falls silent after ``at`` bytes and another goes on; then the first one wakes up."""

    which: int
    size: int
    at: int


@dataclass(frozen=True)
class Kill:
    """kill -9 of the gateway and its restart, ``after`` seconds after ``at`` bytes of a PATCH have been sent."""

    which: int
    size: int
    at: int
    after: float


@dataclass(frozen=True)
class BucketFault:
    """A PATCH while the connection between gateway and bucket misbehaves."""

    which: int
    size: int
    fault: tuple[str, int, str, int]  # action, after how many bytes, direction, times


@dataclass(frozen=True)
class Terminate:
    which: int


@dataclass(frozen=True)
class Expire:
    which: int


@dataclass(frozen=True)
class Janitor:
    pass


sizes, which = st.sampled_from(SIZES), st.integers(0, 3)
creations = st.one_of(
    st.builds(
        Create,
        total=st.sampled_from(TOTALS),
        draft=st.sampled_from([None, None, 3, 5, 6, 8]),
        deferred=st.booleans(),
        first=st.sampled_from([0, 0, *SIZES]),
    ),
    st.builds(Create, total=st.sampled_from(TOTALS), partial=st.just(True)),
)
patches = st.builds(
    Patch,
    which,
    sizes,
    chunked=st.booleans(),
    checksum=st.sampled_from([None, None, "right", "wrong"]),
    declare=st.booleans(),
)
cuts = st.builds(Cut, which, sizes, sizes, st.sampled_from(["fin", "reset", "silence"]))
faults = st.tuples(
    st.sampled_from(["cut", "reset", "stall"]),
    st.sampled_from([0, 1, 300, *SIZES[3:]]),
    st.sampled_from(["up", "down"]),
    st.integers(1, 3),
)
rare = [
    st.builds(Stale, which, st.sampled_from([-1, 1, 5 * MIB]), sizes),
    st.builds(TwoWriters, which, st.tuples(sizes, sizes)),
    st.builds(Stalled, which, sizes, sizes),
    st.builds(Kill, which, sizes, sizes, st.sampled_from([0, 0.05, 0.3])),
    st.builds(Janitor),
]
steps = st.one_of(
    patches,
    patches,
    patches,
    cuts,
    cuts,
    st.builds(Head, which),
    st.builds(BucketFault, which, sizes, faults),
    st.builds(BucketFault, which, sizes, faults),
    creations,
    *rare,
)
endings = st.one_of(st.builds(Terminate, which), st.builds(Expire, which))
sequences = st.tuples(
    creations,
    st.lists(steps, min_size=1, max_size=8),
    st.lists(endings, max_size=1),  # late, since nothing more can happen to an upload that is over
    st.lists(steps, max_size=2),
).map(lambda drawn: [drawn[0], *drawn[1], *drawn[2], *drawn[3]])


# -- the uploads as their clients see them -----------------------------------------------------------------------------


@dataclass
class Upload:
    create: Create
    content: bytes
    name: str
    url: str = ""
    acknowledged: int = 0  # the highest offset that any answer gave
    sent: int = 0  # no offset may be above this
    sure: bool = False  # the last answer said where the upload stands
    declared: bool = False  # the gateway knows the length
    state: str = "open"  # done, gone
    file_id: str | None = None

    @property
    def total(self) -> int:
        return len(self.content)


@dataclass
class Run:
    """One sequence, by an owner of its own."""

    gateway: Gateway
    owner: Owner
    uploads: list[Upload] = field(default_factory=list)
    trace: list[str] = field(default_factory=list)

    def step(self, step: Any) -> None:
        self.trace.append(repr(step))
        if isinstance(step, Create):
            self.create(step)
        elif isinstance(step, Janitor):
            self.gateway.janitor()
        elif self.uploads:
            upload = self.uploads[step.which % len(self.uploads)]
            getattr(self, "on_" + type(step).__name__.lower())(upload, step)

    # -- requests --

    def headers(self, upload: Upload | Create, *, body: bool = False) -> dict[str, str]:
        draft = upload.create.draft if isinstance(upload, Upload) else upload.draft
        base = {"Authorization": f"Bearer {self.owner.key}"}
        if draft is None:
            more = {"Content-Type": "application/offset+octet-stream"} if body else {}
            return {**base, "Tus-Resumable": "1.0.0", **more}
        more = {"Content-Type": "application/partial-upload"} if body and draft >= 6 else {}
        return {**base, "Upload-Draft-Interop-Version": str(draft), **more}

    @staticmethod
    def completes(draft: int, last: bool) -> dict[str, str]:
        return (
            {"Upload-Incomplete": "?0" if last else "?1"}
            if draft == 3
            else {"Upload-Complete": "?1" if last else "?0"}
        )

    def note(self, what: str, answer: Answer | None) -> None:
        if answer is None:
            self.trace.append(f"    {what}: no answer")
            return
        kept = {
            name: value
            for name, value in answer.headers.items()
            if name.startswith("upload-") and name != "upload-limit"
        }
        self.trace.append(f"    {what}: {answer.status} {kept} {answer.body[:200]!r}")

    def create(self, step: Create) -> None:
        start = len(self.uploads) * 4099
        upload = Upload(step, CONTENT[start : start + step.total], f"{uuid4().hex}.txt")
        first = min(step.first, step.total)
        headers = self.headers(step, body=first > 0)
        name = base64.b64encode(upload.name.encode()).decode()
        if step.draft is None:
            if not step.partial:
                headers["Upload-Metadata"] = (
                    f"filename {name},filetype {base64.b64encode(b'text/plain').decode()}"
                )
            else:
                headers["Upload-Concat"] = "partial"
            headers |= {"Upload-Defer-Length": "1"} if step.deferred else {"Upload-Length": str(step.total)}
        else:
            headers["Content-Type"] = "text/plain"
            headers["Content-Disposition"] = f'attachment; filename="{upload.name}"'
            headers |= self.completes(step.draft, first == step.total)
            if not step.deferred:
                headers["Upload-Length"] = str(step.total)
        answer = exchange("POST", self.gateway.tus, headers, upload.content[:first])
        self.note("POST", answer)
        assert answer.status in (200, 201), answer
        upload.url = answer.headers["location"]
        upload.declared = not step.deferred or (step.draft is not None and first == step.total)
        upload.sent = first
        self.uploads.append(upload)
        upload.sure = first == 0
        if answer.headers.get("upload-offset") is not None:
            self.acknowledge(upload, answer, exactly=first)
        if first == step.total:
            self.look(upload)

    def acknowledge(self, upload: Upload, answer: Answer, exactly: int | None = None) -> None:
        offset = int(answer.headers["upload-offset"])
        assert upload.acknowledged <= offset <= upload.sent, (
            "the offset went back, or ahead of what was sent",
            upload,
            answer,
        )
        assert exactly is None or offset == exactly, ("not all was acknowledged", exactly, answer)
        upload.acknowledged, upload.sure = offset, True
        if "upload-file-id" in answer.headers:
            upload.state, upload.file_id = "done", answer.headers["upload-file-id"]

    def look(self, upload: Upload) -> Answer:
        """HEAD, with patience while a writer that was cut or killed still holds the upload."""
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                answer: Answer | None = exchange("HEAD", upload.url, self.headers(upload))
            except OSError:
                answer = None
            if answer is not None and answer.status not in (409, 423, 500, 502, 503):
                break
            assert time.monotonic() < deadline, ("HEAD is refused for too long", answer)
            time.sleep(0.1)
        self.note("HEAD", answer)
        if upload.state == "gone":
            assert answer.status in (404, 410), answer
            assert "upload-offset" not in answer.headers, answer
            return answer
        if upload.state == "done" and answer.status in (404, 410):
            return answer  # a finished upload was terminated; its file is looked at in the end
        assert answer.status in (200, 204), answer
        assert answer.headers["cache-control"] == "no-store", answer
        self.acknowledge(upload, answer)
        if upload.create.draft is None:
            upload.declared = "upload-length" in answer.headers
            assert upload.declared or answer.headers["upload-defer-length"] == "1", answer
            finished = upload.declared and upload.acknowledged == upload.total
        else:
            told = answer.headers.get("upload-complete"), answer.headers.get("upload-incomplete")
            finished = told in (("?1", None), (None, "?0"))
            assert finished or told in (("?0", None), (None, "?1")), answer
            assert not finished or upload.acknowledged == upload.total, answer
        if upload.declared and "upload-length" in answer.headers:
            assert answer.headers["upload-length"] == str(upload.total), answer
        if finished:
            upload.state = "done"
        return answer

    def open_patch(
        self, upload: Upload, size: int, *, declare: bool = False, more: dict[str, str] | None = None
    ) -> tuple[Request, int, memoryview]:
        """A PATCH at the upload's offset whose head is sent; the offset and the body."""
        if not upload.sure:
            self.look(upload)
        at = upload.acknowledged
        body = memoryview(upload.content)[at : at + size]
        last = at + len(body) == upload.total
        headers = {**self.headers(upload, body=True), "Upload-Offset": str(at), **(more or {})}
        if "Transfer-Encoding" not in headers:
            headers["Content-Length"] = str(len(body))
        if upload.create.draft is not None:
            headers |= self.completes(upload.create.draft, last)
        elif not upload.declared and (last or declare):
            headers["Upload-Length"] = str(upload.total)
        upload.sure = False
        return Request("PATCH", upload.url, headers), at, body

    # -- steps --

    def on_patch(self, upload: Upload, step: Patch) -> None:
        """Without trouble a PATCH is taken whole; only a predecessor that is still held may make it wait."""
        if upload.state != "open":
            self.look(upload)
            return
        deadline = time.monotonic() + PATIENCE
        while upload.state == "open":
            more = {"Transfer-Encoding": "chunked"} if step.chunked else {}
            checksum = step.checksum if upload.create.draft is None else None
            if not upload.sure:
                self.look(upload)
                continue
            at = upload.acknowledged
            if checksum:
                right = upload.content[at : at + step.size]
                summed = hashlib.sha1(right if checksum == "right" else right + b"!").digest()
                more["Upload-Checksum"] = f"sha1 {base64.b64encode(summed).decode()}"
            request, at, body = self.open_patch(upload, step.size, declare=step.declare, more=more)
            upload.sent = max(upload.sent, at + len(body))
            if step.chunked:
                request.send(chunked([bytes(body[: len(body) // 2]), bytes(body[len(body) // 2 :])]))
            else:
                request.send(body)
            answer = request.answer()
            self.note(f"PATCH at {at}, {len(body)} bytes", answer)
            if answer.status in (409, 423, 503) and time.monotonic() < deadline:
                time.sleep(0.1)
                continue
            if checksum == "wrong":
                assert answer.status == 460, answer
                self.look(upload)
                assert upload.acknowledged == at, "bytes that fail their checksum must be discarded"
                return
            assert answer.status in (200, 201, 204), answer
            self.acknowledge(upload, answer, exactly=at + len(body))
            if upload.acknowledged == upload.total:
                self.look(upload)
            return

    def on_cut(self, upload: Upload, step: Cut) -> None:
        request, at, body = self.ready_to_write(upload, step.size)
        if request is None:
            return
        part = body[: step.at]
        upload.sent = max(upload.sent, at + len(part))
        request.send(part)
        if step.how == "silence":
            time.sleep(0.5)
        request.cut("reset" if step.how == "reset" else "fin")
        self.look(upload)

    def ready_to_write(self, upload: Upload, size: int) -> tuple[Any, int, memoryview]:
        if upload.state == "open" and not upload.sure:
            self.look(upload)
        if upload.state != "open":
            self.look(upload)
            return None, 0, memoryview(b"")
        return self.open_patch(upload, size)

    def on_head(self, upload: Upload, step: Head) -> None:
        """The list that shows uploads of every protocol agrees with what the protocol says."""
        self.look(upload)
        if upload.state != "open":
            return
        shown = self.shown(upload)
        assert shown["bytes_received"] == upload.acknowledged, shown

    def on_stale(self, upload: Upload, step: Stale) -> None:
        if upload.state != "open":
            return
        self.look(upload)
        wrong = upload.acknowledged + step.by
        if upload.state != "open" or wrong < 0:
            return
        headers = {**self.headers(upload, body=True), "Upload-Offset": str(wrong)}
        if upload.create.draft is not None:
            headers |= self.completes(upload.create.draft, False)
        body = CONTENT[: min(step.size, max(upload.total - wrong, 0))]
        answer = exchange("PATCH", upload.url, headers, body)
        self.note(f"stale PATCH at {wrong}", answer)
        before = upload.acknowledged
        # Beyond the end two things are wrong at once.
        assert answer.status in ((409, 423) if wrong <= upload.total else (400, 409, 413, 423)), answer
        self.look(upload)
        assert upload.acknowledged == before

    def on_twowriters(self, upload: Upload, step: TwoWriters) -> None:
        if upload.state == "open":
            self.look(upload)
        if upload.state != "open":
            return
        opened = []
        for size in step.sizes:
            upload.sure = True
            opened.append(self.open_patch(upload, size))
        upload.sent = max(upload.sent, *(at + len(body) for _, at, body in opened))
        answers: list[Answer | None] = [None, None]

        def write(index: int) -> None:
            request, _, body = opened[index]
            with contextlib.suppress(OSError):
                request.send(body)
                answers[index] = request.answer()

        writers = [threading.Thread(target=write, args=(index,)) for index in range(2)]
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join()
        highest = 0
        for answer, (_, at, body) in zip(answers, opened, strict=True):
            self.note(f"one of two PATCHes at {at}, {len(body)} bytes", answer)
            if answer is None:
                continue
            if 200 <= answer.status < 300:
                highest = max(highest, int(answer.headers["upload-offset"]))
                assert highest <= upload.sent
            else:
                assert answer.status in (403, 409, 410, 423), answer
        assert any(answers), "neither writer was answered"
        self.look(upload)
        assert upload.acknowledged >= highest, "an acknowledged offset was taken back"

    def on_stalled(self, upload: Upload, step: Stalled) -> None:
        request, at, body = self.ready_to_write(upload, step.size)
        if request is None:
            return
        part = body[: step.at]
        upload.sent = max(upload.sent, at + len(part))
        request.send(part)
        time.sleep(0.2)
        self.look(upload)
        self.on_patch(upload, Patch(step.which, MIB))
        request.send(
            body[len(part) :]
        )  # the sleeper goes on at its old place: the same bytes, but not its turn
        upload.sent = max(upload.sent, at + len(body))
        answer = None
        with contextlib.suppress(OSError):
            answer = request.answer()
        self.note("the stalled PATCH", answer)
        request.cut()
        upload.sure = False
        self.look(upload)

    def on_kill(self, upload: Upload, step: Kill) -> None:
        request, at, body = self.ready_to_write(upload, step.size)
        if request is not None:
            part = body[: step.at]
            upload.sent = max(upload.sent, at + len(part))
            request.send(part)
            time.sleep(step.after)
        self.gateway.kill()
        if request is not None:
            request.cut()
        self.gateway.serve()
        self.look(upload)

    def on_bucketfault(self, upload: Upload, step: BucketFault) -> None:
        request, at, body = self.ready_to_write(upload, step.size)
        if request is None:
            return
        action, after, direction, times = step.fault
        struck = self.gateway.back.struck
        self.gateway.back.arm(Fault(action, after, direction, times=times))  # type: ignore[arg-type]
        healing = threading.Timer(1.0, self.gateway.back.heal)  # no stall lasts longer
        healing.start()
        answer = None
        upload.sent = max(upload.sent, at + len(body))
        with contextlib.suppress(OSError):
            request.send(body)
            answer = request.answer()
        healing.cancel()
        self.gateway.back.heal()
        self.note(f"PATCH at {at}, {len(body)} bytes, faults {self.gateway.back.struck - struck}", answer)
        if answer is not None and 200 <= answer.status < 300:
            self.acknowledge(upload, answer, exactly=at + len(body))
        elif answer is not None:
            assert answer.status in (409, 423, 500, 502, 503, 504), answer
        self.look(upload)

    def on_terminate(self, upload: Upload, step: Terminate) -> None:
        deadline = time.monotonic() + PATIENCE
        while (answer := exchange("DELETE", upload.url, self.headers(upload))).status in (409, 423, 503):
            assert time.monotonic() < deadline, answer
            time.sleep(0.1)
        self.note("DELETE", answer)
        if upload.state == "open":
            assert answer.status == 204, answer
            upload.state = "gone"
        elif upload.create.partial and answer.status == 204:
            upload.state = "gone"
        self.look(upload)

    def on_expire(self, upload: Upload, step: Expire) -> None:
        if upload.state != "open":
            return
        self.look(upload)  # nobody holds it any more
        if upload.state == "open":
            self.gateway.sql(
                "update uploads set expires_at = now() - interval '1 minute' where id::text = %s returning id",
                self.id(upload),
            )
            upload.state = "gone"
            assert self.look(upload).status == 410

    def shown(self, upload: Upload) -> dict[str, Any]:
        """The upload as the list of all protocols shows it."""
        api = {"Authorization": f"Bearer {self.owner.key}"}
        answer = exchange("GET", f"{self.gateway.url}/api/uploads/{self.id(upload)}", api)
        assert answer.status == 200, answer
        return dict(answer.json)

    @staticmethod
    def id(upload: Upload) -> str:
        return upload.url.rstrip("/").rpartition("/")[2]

    # -- the end --

    def finish(self) -> None:
        """Whatever is open is finished from where it says that it stands; then everything is compared."""
        self.trace.append("the end")
        for upload in self.uploads:
            deadline = time.monotonic() + 2 * PATIENCE
            while upload.state == "open":
                assert time.monotonic() < deadline, ("the upload can't be finished", upload.url)
                upload.sure = False
                self.look(upload)
                self.on_patch(upload, Patch(0, upload.total))
            self.look(upload)
        partials = [upload for upload in self.uploads if upload.create.partial]
        if partials:
            self.concatenate(partials)
        expected = 0
        for upload in self.uploads:
            if upload.state == "done" and not upload.create.partial:
                self.compare(upload)
                expected += 1
        self.gateway.sql(
            "update uploads set updated_at = updated_at - interval '1 hour' where owner_id = %s returning id",
            self.owner.name,
        )
        self.gateway.janitor()
        deadline = time.monotonic() + PATIENCE  # the worker may be between an object and its row's end
        while (left := self.left()) != (expected, [], [], [], []):
            assert time.monotonic() < deadline, (
                "left: files, keys, multiparts, reservations, uploads",
                left,
            )
            time.sleep(0.1)

    def concatenate(self, partials: list[Upload]) -> None:
        final = Upload(
            Create(0), b"".join(upload.content for upload in partials), f"{uuid4().hex}.txt", state="done"
        )
        headers = {
            **self.headers(final),
            "Upload-Concat": "final;" + " ".join(upload.url for upload in partials),
            "Upload-Metadata": f"filename {base64.b64encode(final.name.encode()).decode()}",
        }
        answer = exchange("POST", self.gateway.tus, headers)
        self.note("final", answer)
        if any(upload.state == "gone" for upload in partials):
            assert answer.status in (400, 404, 410), answer
            for upload in partials:
                if upload.state == "done":
                    assert exchange("DELETE", upload.url, self.headers(upload)).status == 204
        else:
            assert answer.status == 201, answer
            final.url = answer.headers["location"]
            final.file_id = answer.headers.get("upload-file-id")
            self.uploads.append(final)
            again = exchange(
                "PATCH", final.url, {**self.headers(final, body=True), "Upload-Offset": "0"}, b"!"
            )
            assert again.status == 403, again

    def wait_for_file(self, upload: Upload) -> None:
        """Every byte is there, but whoever was making a file of them may have been killed, or met a fault: then another
        does when its claim has passed."""
        deadline = time.monotonic() + CLAIM
        while upload.file_id is None:
            shown = self.shown(upload)
            upload.file_id = shown["file_id"]
            assert upload.file_id or shown["status"] in ("uploading", "completing"), shown
            assert time.monotonic() < deadline, ("nobody made a file of it", shown)
            time.sleep(0.1)

    def compare(self, upload: Upload) -> None:
        api = {"Authorization": f"Bearer {self.owner.key}"}
        self.wait_for_file(upload)
        deadline = time.monotonic() + PATIENCE
        while True:
            file = exchange("GET", f"{self.gateway.url}/api/files/{upload.file_id}", api).json
            if file.get("status") != "processing":
                break
            assert time.monotonic() < deadline, file
            time.sleep(0.05)
        sha = hashlib.sha256(upload.content).hexdigest()
        assert (
            file.get("status"),
            file.get("file_size"),
            file.get("file_hash"),
            file.get("original_name"),
        ) == (
            "ready",
            upload.total,
            sha,
            upload.name,
        ), file
        stored = exchange("GET", f"{self.gateway.url}/api/files/{upload.file_id}/download?mode=proxy", api)
        assert hashlib.sha256(stored.body).hexdigest() == sha

    def left(self) -> tuple[int, list[str], list[str], list[int], list[str]]:
        """Files of the owner; what is in the bucket without a file; multiparts; quota held; uploads not cleaned."""
        look = self.gateway
        # In this order: what a worker writes meanwhile has its row before its first byte.
        present = {info.key for info in look.store.list_objects("")}
        wanted = look.sql(
            "select object_key from objects union all select preview_path from file_previews"
            " union all select object_key from retired_objects"
        )
        files = look.sql("select count(*) from files where owner_id = %s", self.owner.name)
        held = look.sql("select reserved_bytes from owner_usage where owner_id = %s", self.owner.name)
        unclean = look.sql(
            "select id, status from uploads where owner_id = %s and status <> 'done' and not cleaned",
            self.owner.name,
        )
        return (
            files[0][0],
            sorted(present - {key for (key,) in wanted}),
            [ref.key for ref in look.store.list_multiparts("")],
            [size for (size,) in held if size],
            [f"{status} {id}" for id, status in unclean],
        )


def test_T101_killed_while_it_makes_the_file(gateway: Gateway) -> None:
    """To its client the upload is complete. For the time of the claim it is shown as completing; then the worker goes on."""
    one = Run(gateway, gateway.owner())
    one.create(Create(1000))
    [upload] = one.uploads
    with psycopg.connect(gateway.database_url) as names:
        lock_names(names, one.owner.name, None)  # what the file's publication waits for
        request, _, body = one.open_patch(upload, upload.total)
        request.send(body)
        upload.sent = upload.total
        deadline = time.monotonic() + PATIENCE
        while one.shown(upload)["status"] != "completing":
            assert time.monotonic() < deadline
            time.sleep(0.05)
        gateway.kill()
    request.cut()
    gateway.serve()
    one.look(upload)
    shown = one.shown(upload)
    assert (upload.state, shown["status"], shown["file_id"]) == ("done", "completing", None)
    gateway.sql(
        "update uploads set updated_at = updated_at - interval '1 minute' where id::text = %s returning id",
        one.id(upload),
    )
    one.finish()


ran: Counter[str] = Counter()


@pytest.mark.timeout(600 + 60 * COUNT)
def test_T53_T54_random_sequences_keep_every_promise(gateway: Gateway) -> None:
    @settings(
        max_examples=COUNT,
        derandomize=not MANY,
        deadline=None,
        database=None,
        phases=[Phase.generate],  # no shrinking: each try is real traffic, and timing is part of it
        suppress_health_check=list(HealthCheck),
        print_blob=False,
    )
    @given(sequences)
    def run(sequence: list[Any]) -> None:
        if gateway.process is None or gateway.process.poll() is not None:
            gateway.serve()  # the sequence before failed between a kill and the restart
        one = Run(gateway, gateway.owner())
        begun = time.monotonic()
        try:
            for step in sequence:
                one.step(step)
                ran[type(step).__name__] += 1
            one.finish()
        except BaseException as error:
            error.add_note("\n".join(one.trace))
            raise
        finally:
            gateway.back.heal()
            gateway.front.heal()
        ran["sequences"] += 1
        ran["seconds"] += round(time.monotonic() - begun)
        ran["files"] += sum(upload.state == "done" and not upload.create.partial for upload in one.uploads)

    try:
        run()
    finally:
        print(dict(ran))
