"""Runs random steps as clients do, and checks the invariants after each (tests/e2e/test_tus_sequences.py)."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import threading
import time
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from tests.e2e.conftest import Owner
from tests.e2e.gateway import Gateway
from tests.e2e.tus_steps import (
    MIB,
    BucketFault,
    Create,
    Cut,
    Expire,
    Head,
    Janitor,
    Kill,
    Patch,
    Stale,
    Stalled,
    Terminate,
    TwoWriters,
)
from tests.e2e.wire import Answer, Request, chunked, exchange
from tests.fault_proxy import Fault

PATIENCE = 60.0  # seconds until the lease of an interrupted writer must have ended
CLAIM = 120.0  # seconds until the file must exist; the lease of a killed process lasts 60
CONTENT = hashlib.shake_256(b"tus").digest(9 * MIB).hex().encode()  # text without equal parts


# -- uploads as their clients see them ---------------------------------------------------------------------------------


@dataclass
class Upload:
    create: Create
    content: bytes
    name: str
    url: str = ""
    acknowledged: int = 0  # the highest offset that any answer gave
    sent: int = 0  # no offset may be above this
    sure: bool = False  # the last answer reported the offset
    declared: bool = False  # the gateway knows the length
    cut: bool = False  # bytes of an interrupted request may still arrive
    state: str = "open"  # or "done", "gone"
    file_id: str | None = None

    @property
    def total(self) -> int:
        return len(self.content)


@dataclass
class Run:
    """One sequence, with its own owner."""

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
            {"Upload-Incomplete": "?0" if last else "?1"} if draft == 3 else {"Upload-Complete": "?1" if last else "?0"}
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
                headers["Upload-Metadata"] = f"filename {name},filetype {base64.b64encode(b'text/plain').decode()}"
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
            "the offset decreased, or exceeds the bytes sent",
            upload,
            answer,
        )
        assert exactly is None or offset == exactly, ("not all was acknowledged", exactly, answer)
        upload.acknowledged, upload.sure = offset, True
        if "upload-file-id" in answer.headers:
            upload.state, upload.file_id = "done", answer.headers["upload-file-id"]

    def look(self, upload: Upload) -> Answer:
        """Repeat HEAD while an interrupted or killed writer still holds the upload."""
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
            return answer  # a finished upload was terminated; its file is checked in the end
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
        """Send the head of a PATCH at the upload's offset; return the request, the offset and the body."""
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
        """Without faults a PATCH is accepted completely; it may only have to wait for the previous one."""
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
                assert upload.cut or upload.acknowledged == at, "bytes that fail their checksum must be discarded"
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
        self.send_part(request, upload, at, body[: step.at])
        if step.how == "silence":
            time.sleep(0.5)
        request.cut("reset" if step.how == "reset" else "fin")
        upload.cut = True
        self.look(upload)

    @staticmethod
    def send_part(request: Request, upload: Upload, at: int, part: memoryview) -> None:
        upload.sent = max(upload.sent, at + len(part))
        request.send(part)

    def ready_to_write(self, upload: Upload, size: int) -> tuple[Any, int, memoryview]:
        if upload.state == "open" and not upload.sure:
            self.look(upload)
        if upload.state != "open":
            self.look(upload)
            return None, 0, memoryview(b"")
        return self.open_patch(upload, size)

    def on_head(self, upload: Upload, step: Head) -> None:
        """The list of uploads agrees with the protocol's answers."""
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
        # An offset beyond the end is wrong in two ways.
        assert answer.status in ((409, 423) if wrong <= upload.total else (400, 409, 413, 423)), answer
        self.look(upload)
        assert upload.cut or upload.acknowledged == before

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
        assert upload.acknowledged >= highest, "an acknowledged offset decreased"

    def on_stalled(self, upload: Upload, step: Stalled) -> None:
        request, at, body = self.ready_to_write(upload, step.size)
        if request is None:
            return
        self.send_part(request, upload, at, body[: step.at])
        time.sleep(0.2)
        self.look(upload)
        self.on_patch(upload, Patch(step.which, MIB))
        request.send(body[step.at :])  # the stalled writer continues at its old offset, without the lease
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
            self.send_part(request, upload, at, body[: step.at])
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
        healing = threading.Timer(1.0, self.gateway.back.heal)  # the longest stall
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
        self.look(upload)  # waits until no request holds the upload
        if upload.state == "open":
            self.gateway.sql(
                "update uploads set expires_at = now() - interval '1 minute' where id::text = %s returning id",
                self.id(upload),
            )
            upload.state = "gone"
            assert self.look(upload).status == 410

    def shown(self, upload: Upload) -> dict[str, Any]:
        """The upload as GET /api/uploads shows it."""
        api = {"Authorization": f"Bearer {self.owner.key}"}
        answer = exchange("GET", f"{self.gateway.url}/api/uploads/{self.id(upload)}", api)
        assert answer.status == 200, answer
        return dict(answer.json)

    @staticmethod
    def id(upload: Upload) -> str:
        return upload.url.rstrip("/").rpartition("/")[2]

    # -- the end --

    def finish(self) -> None:
        """Finish every open upload from its offset, then compare everything."""
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
        deadline = time.monotonic() + PATIENCE  # the worker may be between deleting an object and updating its row
        while (left := self.left()) != (expected, [], [], [], []):
            assert time.monotonic() < deadline, ("left: files, keys, multiparts, reservations, uploads", left)
            time.sleep(0.1)

    def concatenate(self, partials: list[Upload]) -> None:
        final = Upload(Create(0), b"".join(upload.content for upload in partials), f"{uuid4().hex}.txt", state="done")
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
            again = exchange("PATCH", final.url, {**self.headers(final, body=True), "Upload-Offset": "0"}, b"!")
            assert again.status == 403, again

    def wait_for_file(self, upload: Upload) -> None:
        """All bytes are stored. If the process that completes the upload was killed or failed, another one completes it after
        the lease."""
        deadline = time.monotonic() + CLAIM
        while upload.file_id is None:
            shown = self.shown(upload)
            upload.file_id = shown["file_id"]
            assert upload.file_id or shown["status"] in ("uploading", "completing"), shown
            assert time.monotonic() < deadline, ("the upload was not completed", shown)
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
        assert (file.get("status"), file.get("file_size"), file.get("file_hash"), file.get("original_name")) == (
            "ready",
            upload.total,
            sha,
            upload.name,
        ), file
        stored = exchange("GET", f"{self.gateway.url}/api/files/{upload.file_id}/download?mode=proxy", api)
        assert hashlib.sha256(stored.body).hexdigest() == sha

    def left(self) -> tuple[int, list[str], list[str], list[int], list[str]]:
        """Number of files of the owner; objects without a file; multiparts; reserved quota; uploads not cleaned."""
        look = self.gateway
        # Objects before rows: a worker adds the row before it writes the object.
        present = {info.key for info in look.store.list_objects("")}
        wanted = look.sql(
            "select object_key from objects union all select preview_path from file_previews"
            " union all select object_key from deferred_deletions"
        )
        files = look.sql("select count(*) from files where owner_id = %s", self.owner.name)
        held = look.sql("select reserved_bytes from owner_usage where owner_id = %s", self.owner.name)
        unclean = look.sql(
            "select id, status from uploads where owner_id = %s and status <> 'done' and not cleaned", self.owner.name
        )
        return (
            files[0][0],
            sorted(present - {key for (key,) in wanted}),
            [ref.key for ref in look.store.list_multiparts("")],
            [size for (size,) in held if size],
            [f"{status} {id}" for id, status in unclean],
        )
