"""Folders: a tree for each owner."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, Response

from api import render
from api.context import principal, services, settings
from api.idempotency import once
from api.operations import Content, operation
from api.request_models import DeleteFolderQuery, FolderBody, FolderChangeBody, FolderListQuery
from api.response_models import DeletedFolderOut, FolderOut, FolderPageOut, FolderTreeOut
from core import errors
from core.unset import UNSET
from db.records import FolderRecord
from services.library.folders import FolderChange, FolderNode

routes = Blueprint("folders", __name__)

_PLACES = (errors.NotFound, errors.InvalidName, errors.NameConflict, errors.FolderCycle, errors.FolderTooDeep)


@routes.post("")
@operation(
    "Make a folder",
    body=FolderBody,
    responses={201: FolderOut},
    headers=("Location",),
    request_headers=("Idempotency-Key",),
    errors=(*_PLACES, errors.LimitReached),
)
def create(body: FolderBody) -> Response:
    """Names are unique among siblings, whatever their case or Unicode form."""
    return once(
        lambda claim: services().folders.create(
            principal(), body.name, body.description, body.parent_folder_id, once=claim
        ),
        _made,
        lambda recorded: recorded.read(FolderRecord),
    )


def _made(folder: FolderRecord) -> Response:
    return render.answer(_folder(folder), 201, {"Location": f"{settings().base_url}/api/folders/{folder.id}"})


@routes.get("")
@operation(
    "List folders",
    query=FolderListQuery,
    responses={200: Content({"application/json": FolderTreeOut | FolderPageOut}, "The tree; with `?flat=true` a page")},
    headers=("Link",),
    errors=(errors.InvalidCursor, errors.NotAllowed),
)
def list_folders(query: FolderListQuery) -> Response:
    """The tree, or with `?flat=true` a flat list, paged like others."""
    if query.flat:
        found = services().folders.flat(principal(), owner=query.owner, limit=query.limit, cursor=query.cursor)
        return render.page(found, _folder)
    return render.answer({"items": [_node(node) for node in services().folders.tree(principal(), owner=query.owner)]})


@routes.get("/<folder_id:folder_id>")
@operation("Get a folder", responses={200: FolderOut}, errors=(errors.NotFound,))
def get(folder_id: int) -> Response:
    """`file_count` is what lies directly inside, `total_file_count` and `total_size` all below, without the trash."""
    return render.answer(_folder(services().folders.get(principal(), folder_id)))


@routes.patch("/<folder_id:folder_id>")
@operation("Change or move a folder", body=FolderChangeBody, responses={200: FolderOut}, errors=_PLACES)
def update(folder_id: int, body: FolderChangeBody) -> Response:
    """Only the members given are changed; `parent_folder_id: null` moves it to the root."""
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
    errors=(errors.NotFound, errors.FolderNotEmpty),
)
def delete(folder_id: int, query: DeleteFolderQuery) -> Response:
    """With `?recursive=true` all files below go to the trash."""
    found = services().folders.delete(principal(), folder_id, recursive=query.recursive)
    return render.answer({"id": folder_id, "action": "deleted", **(found or {})})


def _folder(view: FolderRecord) -> dict[str, Any]:
    return render.as_model(view, FolderOut)


def _node(node: FolderNode) -> dict[str, Any]:
    document = _folder(node.folder)
    document["children"] = [_node(child) for child in node.children]
    return document
