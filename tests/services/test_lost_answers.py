"""If the answer to any commit is lost, done or not, files that are ``ready`` have their bytes and nothing is left over."""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest

from core.parts import PART_SIZE
from core.placement import Placement
from core.principal import Principal
from db import Database
from services import Services
from services.access.upload_tokens import Budget
from services.library.files import FileQuery
from services.processing.previews import PreviewRequest
from services.uploads.resumable import NewResumable
from storage_backends.base import PresignedPost
from tests.compressed_files import read, text, time_passes
from tests.conftest import NOTHING, Leftovers
from tests.direct_steps import begin, direct, let_lease_pass, resumable, send_all
from tests.lost_commits import LossyGateway
from tests.rows import sql
from tests.samples import Source
from tests.services.uploads.test_intake import upload

Action = Callable[[Any], Any]  # run by the gateway that loses answers
Prepare = Callable[[Services, Principal], Action]  # another gateway prepares what the action needs
_SEEDS = itertools.count()
PREPARED: dict[str, Prepare] = {}


def action(prepare: Prepare) -> Prepare:
    PREPARED[prepare.__name__] = prepare
    return prepare


def form(services: Services, who: Principal, *bodies: bytes, **placement: Any) -> Any:
    with services.intake.batch(who, protocol="form") as batch:
        for number, body in enumerate(bodies):
            batch.receive(name=f"{number}.bin", claimed_type=None, stream=Source(body))
        return batch.commit(Placement(**placement))


@action
def a_raw_upload(services: Services, who: Principal) -> Action:
    return lambda gateway: upload(gateway, who, "a.bin", os.urandom(100), size=100)


@action
def a_raw_upload_in_parts(services: Services, who: Principal) -> Action:
    return lambda gateway: upload(gateway, who, "a.bin", os.urandom(PART_SIZE + 1))


@action
def a_form_with_equal_files(services: Services, who: Principal) -> Action:
    data = os.urandom(100)
    return lambda gateway: form(gateway, who, data, os.urandom(50), data)


@action
def an_upload_by_token(services: Services, who: Principal) -> Action:
    token = services.upload_tokens.create(Principal("backend", "admin"), who.owner_id, Budget())[1]
    guest = services.upload_tokens.authenticate(token)
    return lambda gateway: upload(gateway, guest, "a.bin", os.urandom(100), size=100)


def _equal(wish: str) -> Prepare:
    def prepare(services: Services, who: Principal) -> Action:
        data = os.urandom(100)
        upload(services, who, "a.bin", data)
        return lambda gateway: form(gateway, who, data, os.urandom(50), on_duplicate=wish)

    prepare.__name__ = f"a_form_with_known_bytes_to_{wish}"
    return prepare


for wish in ("link", "copy", "reject"):
    action(_equal(wish))


def _direct(size: int) -> Prepare:
    def prepare(services: Services, who: Principal) -> Action:
        data = os.urandom(size)
        return lambda gateway: send_all(begin(gateway, who, data), data)

    prepare.__name__ = f"a_direct_upload_of_{size}_is_begun"
    return prepare


def _completed(size: int) -> Prepare:
    def prepare(services: Services, who: Principal) -> Action:
        data = os.urandom(size)
        plan = begin(services, who, data)
        send_all(plan, data)
        return lambda gateway: direct(gateway).complete(who, plan.upload.id)

    prepare.__name__ = f"a_direct_upload_of_{size}_is_completed"
    return prepare


def _aborted(size: int) -> Prepare:
    def prepare(services: Services, who: Principal) -> Action:
        data = os.urandom(size)
        plan = begin(services, who, data)
        send_all(plan, data)
        return lambda gateway: direct(gateway).abort(who, plan.upload.id)

    prepare.__name__ = f"a_direct_upload_of_{size}_is_aborted"
    return prepare


for make in (_direct(100), _completed(100), _aborted(100), _completed(PART_SIZE + 100)):
    action(make)


@action
def a_posted_form_is_completed(services: Services, who: Principal) -> Action:
    from tests.presigned import post_form

    assert services.s3_uploads is not None
    form_upload = services.s3_uploads.begin(
        who, single=True, filename="a.bin", content_type=None, placement=Placement()
    )
    signed = services.s3_uploads.request_for(who, form_upload)
    assert isinstance(signed, PresignedPost)
    assert post_form(signed, os.urandom(100)).ok
    return lambda gateway: direct(gateway).complete(who, form_upload.id)


@action
def the_sweep(services: Services, who: Principal) -> Action:
    data = os.urandom(100)
    send_all(begin(services, who, data), data)
    return lambda gateway: direct(gateway).sweep()


def _checked(wish: str | None) -> Prepare:
    def prepare(services: Services, who: Principal) -> Action:
        data = os.urandom(100)
        if wish is not None:
            upload(services, who, "a.bin", data)
        plan = begin(services, who, data, placement=Placement(on_duplicate=wish or "link"))  # type: ignore[arg-type]
        send_all(plan, data)
        file = direct(services).complete(who, plan.upload.id)
        return lambda gateway: gateway.verification.check(file.id)

    prepare.__name__ = f"a_check_with_equal_bytes_to_{wish}"
    return prepare


for wish_or_none in (None, "link", "reject"):
    action(_checked(wish_or_none))


def new_resumable(size: int | None, *, protocol: Any = "tus", **options: Any) -> NewResumable:
    return NewResumable(protocol, "a.bin", None, size, Placement(), **options)


def begun(services: Services, who: Principal, size: int | None, first: bytes = b"", **options: Any) -> UUID:
    """Create a resumable upload with its first bytes."""
    upload_id = resumable(services).create(who, new_resumable(size, **options)).upload.id
    if first:
        resumable(services).append(who, upload_id, offset=0, body=Body(first))
    return upload_id


class Body(Source):
    broken = False

    def stop_soon(self) -> None:
        pass

    def acknowledge(self, offset: int, /) -> None:
        pass


def _appended(name: str, size: int, first: int, more: int, protocol: str = "tus") -> None:
    def prepare(services: Services, who: Principal) -> Action:
        upload_id = begun(services, who, size, os.urandom(first), protocol=protocol)
        return lambda gateway: resumable(gateway).append(who, upload_id, offset=first, body=Body(os.urandom(more)))

    PREPARED[name] = prepare


_appended("a_resumable_upload_goes_on", 300, 100, 100, protocol="ietf")
_appended("a_small_resumable_upload_ends", 300, 100, 200)
_appended("a_large_resumable_upload_ends", PART_SIZE + 300, 100, PART_SIZE + 200)


@action
def a_resumable_upload_is_begun(services: Services, who: Principal) -> Action:
    return lambda gateway: begun(gateway, who, 300)


@action
def uploads_are_joined(services: Services, who: Principal) -> Action:
    parts = [begun(services, who, 200, os.urandom(200), partial=True) for _ in range(2)]
    return lambda gateway: resumable(gateway).concatenate(who, new_resumable(None), parts, concat="final;")


@action
def a_resumable_upload_is_terminated(services: Services, who: Principal) -> Action:
    upload_id = begun(services, who, 300, os.urandom(200))
    return lambda gateway: resumable(gateway).terminate(who, upload_id)


def _file(name: str, act: Callable[[Services, Principal, Any], Any], *, trashed: bool = False) -> None:
    def prepare(services: Services, who: Principal) -> Action:
        file = upload(services, who, "a.txt", text(9000, seed=next(_SEEDS)))
        if trashed:
            services.files.trash(who, file.id)
        return lambda gateway: act(gateway, who, file.id)

    PREPARED[name] = prepare


_file("a_copy", lambda gateway, who, file: gateway.files.copy(who, file))
_file("a_move", lambda gateway, who, file: gateway.files.move(who, file, None, if_match=None))
_file("a_file_into_the_trash", lambda gateway, who, file: gateway.files.trash(who, file))
_file("a_file_out_of_the_trash", lambda gateway, who, file: gateway.files.restore(who, file), trashed=True)
_file("a_purge", lambda gateway, who, file: gateway.files.purge(who, file))
_file("a_batch", lambda gateway, who, file: gateway.files.batch(who, "purge", [str(file)]))
_file("compression", lambda gateway, who, file: gateway.compression.compress(file))
_file("processing", lambda gateway, who, file: gateway.pipeline.process(file))
_file("a_preview", lambda gateway, who, file: gateway.previews.show(who, file, PreviewRequest("text")))
_file("a_verification", lambda gateway, who, file: gateway.files.details(who, file, verify=True))


@action
def a_folder_is_deleted(services: Services, who: Principal) -> Action:
    folder = services.folders.create(who, os.urandom(8).hex(), "", None).id
    upload(services, who, "a.bin", os.urandom(100), folder_id=folder)
    return lambda gateway: gateway.folders.delete(who, folder, recursive=True)


@action
def the_janitor(services: Services, who: Principal) -> Action:
    begun(services, who, 200, os.urandom(100))
    begin(services, who, bytes(PART_SIZE + 1))
    sql(services.db, "update uploads set expires_at = now() - interval '1 second'")
    return lambda gateway: gateway.janitor.run(full=False)


@pytest.mark.parametrize("names", [list(PREPARED)[n::4] for n in range(4)], ids=str)
def test_T104_no_lost_commit_answer_loses_bytes(
    services: Services, lossy: LossyGateway, alice: Principal, db: Database, leftovers: Leftovers, names: list[str]
) -> None:
    for name in names:
        for lost in lossy.lost_commits("at once", "never"):
            act = PREPARED[name](services, alice)
            with lost:
                act(lossy.services)
        sql(db, "update uploads set expires_at = now() - interval '1 second'")
        sql(db, "update resumable_uploads set leased_until = null")
        let_lease_pass(db)
        time_passes(db)
        direct(services).sweep()
        services.janitor.run()
        for file in services.files.list(alice, FileQuery(limit=200)).items:
            if file.status == "ready":
                services.delivery.open(alice, file.id, method="HEAD")
                assert hashlib.sha256(read(services, file)).hexdigest() == file.file_hash, name
            services.files.purge(alice, file.id)
        assert (name, leftovers()) == (name, NOTHING)


@pytest.mark.parametrize("wish", ["link", "copy"])
def test_T104_a_commit_in_progress_is_awaited(
    services: Services, lossy: LossyGateway, alice: Principal, db: Database, leftovers: Leftovers, wish: str
) -> None:
    data = os.urandom(100)
    upload(services, alice, "a.bin", data)
    with lossy.lose(2, "later") as lost:  # the publication, after the admission
        upload(lossy.services, alice, "a.bin", data, size=100, on_duplicate=wish)
    assert lost.lost
    let_lease_pass(db)
    services.janitor.run()
    files = services.files.list(alice, FileQuery()).items
    assert len(files) == 2
    for file in files:
        assert read(services, file) == data
    assert leftovers() == NOTHING
