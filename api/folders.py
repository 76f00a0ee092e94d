"""``/api/folders``: a tree for each owner."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, Response

from api import render
from api.context import principal, services, settings
from api.idempotency import once
from api.operations import BY_SERVICE, Content, operation
from api.request_models import DeleteFolderQuery, FolderBody, FolderChangeBody, FolderListQuery
from api.response_models import DeletedFolderOut, FolderOut, FolderPageOut, FolderTreeOut
from core import errors
from core.unset import UNSET
from db.records import FolderRecord
from services.library.folders import FolderChange, FolderNode

routes = Blueprint("folders", __name__)

_TREE_ERRORS = (errors.NotFound, errors.InvalidName, errors.NameConflict, errors.FolderCycle, errors.FolderTooDeep)


@routes.post("")
@operation(
    "Create a folder",
    body=FolderBody,
    responses={201: FolderOut},
    headers=("Location",),
    request_headers=("Idempotency-Key",),
    errors=(*_TREE_ERRORS, errors.LimitReached),
    audit=BY_SERVICE,
)
def create(body: FolderBody) -> Response:
    """Names are unique within a folder, regardless of case and Unicode form. With a key that is limited to a folder, this one is
    the default parent."""
    return once(
        lambda claim: services().folders.create(
            principal(), body.name, body.description, body.parent_folder_id, once=claim
        ),
        _created,
        lambda recorded: recorded.read(FolderRecord),
    )


def _created(folder: FolderRecord) -> Response:
    return render.answer(_folder(folder), 201, {"Location": f"{settings().base_url}/api/folders/{folder.id}"})


@routes.get("")
@operation(
    "List folders",
    query=FolderListQuery,
    responses={
        200: Content({"application/json": FolderTreeOut | FolderPageOut}, "The tree, or a page of the flat list")
    },
)
def list_folders(query: FolderListQuery) -> Response:
    """The tree, or with `?flat=true` a flat list with pages."""
    if query.flat:
        found = services().folders.flat(principal(), owner=query.owner, limit=query.limit, cursor=query.cursor)
        return render.page(found, _folder)
    return render.answer({"items": [_node(node) for node in services().folders.tree(principal(), owner=query.owner)]})


@routes.get("/<folder_id:folder_id>")
@operation("Get a folder", responses={200: FolderOut})
def get(folder_id: int) -> Response:
    """`file_count` counts files directly in the folder; `total_file_count` and `total_size` include all folders below. Files in
    the trash do not count."""
    return render.answer(_folder(services().folders.get(principal(), folder_id)))


@routes.patch("/<folder_id:folder_id>")
@operation(
    "Change or move a folder", body=FolderChangeBody, responses={200: FolderOut}, errors=_TREE_ERRORS, audit=BY_SERVICE
)
def update(folder_id: int, body: FolderChangeBody) -> Response:
    """Only the given members are changed; `parent_folder_id: null` moves it to the root."""
    change = FolderChange(
        name=body.given("name", UNSET),
        description=body.given("description", UNSET),
        parent_id=body.given("parent_folder_id", UNSET),
    )
    return render.answer(_folder(services().folders.update(principal(), folder_id, change)))


@routes.delete("/<folder_id:folder_id>")
@operation(
    "Delete a folder",
    query=DeleteFolderQuery,
    responses={200: DeletedFolderOut},
    errors=(errors.FolderNotEmpty,),
    audit=BY_SERVICE,
)
def delete(folder_id: int, query: DeleteFolderQuery) -> Response:
    """With `?recursive=true` the files in it and below it are moved to the trash."""
    found = services().folders.delete(principal(), folder_id, recursive=query.recursive)
    return render.answer({"id": folder_id, "action": "deleted", **(found or {})})


def _folder(folder: FolderRecord) -> dict[str, Any]:
    return {  # faster than render.as_model, since a tree may have 10,000
        "id": folder.id,
        "name": folder.name,
        "description": folder.description,
        "parent_id": folder.parent_id,
        "path": folder.path,
        "created_at": folder.created_at,
        "updated_at": folder.updated_at,
        "file_count": folder.file_count,
        "total_file_count": folder.total_file_count,
        "total_size": folder.total_size,
    }


def _node(node: FolderNode) -> dict[str, Any]:
    document = _folder(node.folder)
    document["children"] = [_node(child) for child in node.children]
    return document
