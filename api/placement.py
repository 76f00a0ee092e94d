"""Where uploaded files go, from whatever an upload is described by: query, form fields, JSON members or metadata."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from api.operations import parsed, validated
from api.request_models import BeginUploadBody, MetadataFields, PlacementQuery
from core.placement import Placement

_FIELDS = {field.name for field in fields(Placement)}
_UNSET = (None, "", "null", "undefined")  # what JavaScript writes for a field that is not set


def placement(described: PlacementQuery | BeginUploadBody) -> Placement:
    """The placement in a query or a JSON body."""
    return Placement(**described.model_dump(include=_FIELDS))


def of_form(form: Mapping[str, list[str]]) -> Placement:
    """The placement in the fields of a form; others are ignored. An empty ``folder_id`` is "no folder" in a browser's form."""
    given = {name: values for name, values in form.items() if (name, values) != ("folder_id", [""])}
    return placement(parsed(PlacementQuery, given.items()))


def of_metadata(metadata: Mapping[str, Any], query: PlacementQuery) -> Placement:
    """The placement in an upload's metadata (tus, /s3), else in the query. Other keys of the metadata are kept with the file."""
    rest = dict(metadata)
    named = {name: rest.pop(name, None) for name in ("folder_id", "visibility", "tags")}
    if isinstance(named["tags"], list):
        named["tags"] = [str(tag) for tag in named["tags"]]
    given = {name: value for name, value in named.items() if value not in _UNSET} | {"metadata": rest}
    return replace(placement(query), **validated(MetadataFields, given).model_dump(include=set(given)))
