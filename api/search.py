"""``/api/search`` and ``/api/storage/stats``."""

from __future__ import annotations

from flask import Blueprint, Response

from api import render
from api.context import principal, services
from api.operations import operation
from api.request_models import OwnerQuery, SearchQuery, SuggestQuery
from api.response_models import SearchOut, StatsOut, SuggestOut
from core.errors import NotFound
from services.library.search import SearchRequest

routes = Blueprint("search", __name__)


@routes.get("/search")
@operation("Search files", limit="search", query=SearchQuery, responses={200: SearchOut}, errors=(NotFound,))
def find(query: SearchQuery) -> Response:
    """Searches names (also parts of words and misspellings) and texts; best matches first. An empty query finds everything,
    newest first. Any string is a valid query. Operators: `"a phrase"`, `-not`, `OR`, `prefix*`, `name:`, `content:`, `type:`,
    `ext:`, `tag:`, `size:>10mb`, `before:`, `after:`, `is:deleted`."""
    found = services().search.search(principal(), SearchRequest(**query.model_dump()))
    files = render.files(found.items, principal())
    items = [
        {"file": file, "score": hit.score, "highlights": hit.highlights}
        for file, hit in zip(files, found.items, strict=True)
    ]
    members = {"facets": found.facets} if query.facets else {}
    return render.page_of(items, found.next_cursor, found.total, **members)


@routes.get("/search/suggest")
@operation("Suggest names and words", limit="search", query=SuggestQuery, responses={200: SuggestOut})
def suggest(query: SuggestQuery) -> Response:
    """From the caller's files: names and words in names that begin with the prefix, and names with such a word."""
    return render.answer({"items": services().search.suggest(principal(), query.prefix, query.limit)})


@routes.get("/storage/stats")
@operation("Storage statistics", query=OwnerQuery, responses={200: StatsOut})
def stats(query: OwnerQuery) -> Response:
    """Counts and sizes, the quota, and the newest events. `403` for a key that is limited to a folder."""
    return render.answer(services().stats.storage(principal(), query.owner))
