"""Measures lists, trees, statistics, search and an upload's metadata on a seeded database, beside a plain SELECT by id.

    python app.py seed-demo --files 1000000 --folders 9999
    set -a; eval "$(python app.py env)"
    python -m benchmarks.metadata [--clients 8] [--seconds 3] [--http http://localhost:8080 KEY]

Each line is one question asked by so many clients at once (processes with a connection each), some seconds long after a warm-up:
p50 and p95 in milliseconds, and both as multiples of fetching one file by its id at the same number of clients. With
``--http`` the same through a gateway; KEY belongs to the seeded owner. An upload's statements (admit, names, publish) run by
turns on the seeded database and on an empty one, which is made beside it and dropped; what they add is removed."""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import random
import secrets
import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

import psycopg
import urllib3

from app import wire
from core.demo import Inventor
from core.ids import FILE_PREFIX, new_id, object_key
from core.placement import Placement
from core.principal import Principal
from db import Database, file_lists, files, uploads
from db.file_lists import FileFilter
from db.files import NewFile
from db.migrate import migrate
from db.uploads import NewUpload
from services import Services
from services.library.files import FileQuery
from services.library.search import SearchQuery
from settings import Settings

Ask = Callable[[Services, Principal, random.Random], object]
_WORDS = (
    "report",
    "invoice",
    "garden",
    "Rechnung",
    "Vertrag",
    "facture",
    "договор",
    "請求書",
    "summary",
    "museum",
)


def _search(*queries: str) -> Ask:
    return lambda services, who, mix: services.search.search(who, SearchQuery(query=mix.choice(queries)))


def _list(**query: Any) -> Ask:
    return lambda services, who, mix: services.files.list(who, FileQuery(**query))


def questions(services: Services, who: Principal) -> tuple[dict[str, Ask], dict[str, str]]:
    """What is asked of the services, and the addresses of the same over HTTP."""
    with services.db.connection() as tx:
        ids = [
            row[0]
            for row in tx.execute(
                "select id from files tablesample system (2) where owner_id = %s and not is_deleted limit 5000",
                [who.owner_id],
            )
        ]
        big, usual = (
            row[0]
            for row in tx.execute(
                "(select folder_id from folder_sums where owner_id = %(o)s and folder_id is not null order by files desc limit 1)"
                " union all (select folder_id from folder_sums where owner_id = %(o)s and files between 40 and 200 limit 1)",
                {"o": who.owner_id},
            )
        )
    now = datetime.now(UTC)
    lists: dict[str, dict[str, Any]] = {
        "list, first page": {},
        "list by name, first page": {"sort": "original_name"},
        "list by size, largest first": {"sort": "-file_size"},
        "list of a usual folder": {"folder": usual},
        "list of the largest folder": {"folder": big},
        "list of the largest folder by name": {"folder": big, "sort": "original_name"},
        "list of images": {"file_type": "image"},
        "list of archives by size": {"file_type": "archive", "sort": "file_size"},
        "list of PDFs": {"file_type": "application/pdf"},
        "list of a common tag": {"tag": "work"},
        "list of a rare tag by name": {"tag": "عائلة", "sort": "original_name"},
        "list of 30 days by name": {
            "date_from": now - timedelta(days=60),
            "date_to": now - timedelta(days=30),
            "sort": "original_name",
        },
        "list of what was rejected": {"status": "rejected"},
        "list of what was infected, by size": {"status": "infected", "sort": "file_size"},
        "list of the trash": {"deleted": True},
        "list sorted by downloads (no index)": {"sort": "-download_count"},
    }
    asked: dict[str, Ask] = {"SELECT … WHERE id": lambda services, who, mix: services.files.get(who, mix.choice(ids))}
    asked |= {label: _list(**query) for label, query in lists.items()}
    asked |= {
        "list, page 10,000": _deep(services, who, "-uploaded_at"),
        "list by name, page 10,000": _deep(services, who, "original_name"),
        "folder tree": lambda services, who, mix: services.folders.tree(who),
        "statistics": lambda services, who, mix: services.stats.storage(who),
        "search: a word": _search(*_WORDS),
        "search: two words": _search("annual report", "invoice garden", "Rechnung Garten", "contrat mariage"),
        "search: a phrase": _search('"of the"', '"meeting agenda"', '"Rechnung Garten"'),
        "search: a prefix": _search("rep*", "invo*", "Vertr*", "библ*"),
        "search: a misspelling": _search("invocie", "reciept", "Rechnnug", "certifcate"),
        "search: nothing like it": _search("zzyzxqwv"),
        "search: in contents": _search("content:harvest", "content:forest", "content:新宿"),
        "suggestions": lambda services, who, mix: services.search.suggest(
            who, mix.choice(("IMG_", "re", "Ver", "scan"))
        ),
    }
    addresses = {
        label: "/api/files?" + urlencode({n: v.isoformat() if isinstance(v, datetime) else v for n, v in query.items()})
        for label, query in lists.items()
    }
    addresses = {"SELECT … WHERE id": f"/api/files/{ids[0]}/history?limit=1"} | addresses
    addresses |= {"folder tree": "/api/folders", "statistics": "/api/storage/stats"}
    return asked, addresses


def _deep(services: Services, who: Principal, sort: str) -> Ask:
    """Page 10,000 of 50 each, as Files.list asks for it; only the seal of a cursor is not made."""
    wanted, column = (
        FileFilter(who.owner_id),
        {"original_name": "name_key"}.get(sort.strip("-"), sort.strip("-")),
    )
    order = "desc" if sort.startswith("-") else "asc"
    with services.db.connection() as tx:
        row = tx.execute(
            f"select {column}::text, id::text from files where owner_id = %s and is_deleted = false"
            f" order by {column} {order}, id {order} offset 499949 limit 1",
            [who.owner_id],
        ).fetchone()

    def ask(services: Services, who: Principal, mix: random.Random) -> object:
        with services.db.connection() as tx:
            total = file_lists.total(tx, wanted)
            return file_lists.page(tx, wanted, sort=sort, after=list(row) if row else None, limit=51, expected=total)

    return ask


# -- many clients at once ------------------------------------------------------------------------------------------

# Taken over by the clients when they are forked: functions can't be sent to them.
_asks: dict[str, Callable[[], object]] = {}
_makers: dict[str, Callable[[int], Callable[[], object]]] = {}


def _begin(barrier: Any) -> None:
    number = multiprocessing.current_process()._identity[0]  # type: ignore[attr-defined]
    _asks.update({label: make(number) for label, make in _makers.items()})
    globals()["_together"] = barrier


def _client(label: str, seconds: float) -> list[float]:
    """Milliseconds of each call; the first fifth of the time warms up."""
    globals()["_together"].wait()
    begin, took = time.perf_counter(), []
    while (now := time.perf_counter()) < begin + seconds or len(took) < 3:
        _asks[label]()
        if now > begin + seconds / 5 or seconds == 0:
            took.append((time.perf_counter() - now) * 1_000)
    return took


def _p(sorted_times: list[float], percent: int) -> float:
    return sorted_times[min(len(sorted_times) - 1, len(sorted_times) * percent // 100)]


def table(title: str, clients: int, seconds: float, makers: dict[str, Callable[[int], Callable[[], object]]]) -> None:
    print(f"\n### {title}, {clients} clients\n\n| | calls | p50 ms | p95 ms | p50 × | p95 × |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    plain: tuple[float, float] | None = None
    _makers.clear()
    _makers.update(makers)
    fork = multiprocessing.get_context("fork")
    with fork.Pool(clients, _begin, (fork.Barrier(clients),)) as pool:
        for label in makers:
            runs = [pool.apply_async(_client, (label, seconds)) for _ in range(clients)]
            took = sorted(time for run in runs for time in run.get())
            p50, p95 = _p(took, 50), _p(took, 95)
            plain = plain or (p50, p95)
            print(
                f"| {label} | {len(took)} | {p50:.2f} | {p95:.2f} | {p50 / plain[0]:.1f} | {p95 / plain[1]:.1f} |",
                flush=True,
            )


# -- an upload's statements ----------------------------------------------------------------------------------------


class Uploads:
    """The metadata of one upload after the other, as services/uploads/intake.py writes it, of files as people have them."""

    def __init__(self, url: str, owner_id: str, seed: int):
        self._db = Database(url, max_connections=2)
        self._owner = owner_id
        self._invent = Inventor(seed, files=1_000_000, folders=0, owners=1, now=datetime.now(UTC))

    def one(self) -> UUID:
        file = self._invent.file()
        key, size = object_key(FILE_PREFIX, "bin", datetime.now(UTC)), file.size % 1_000_000
        new = NewUpload(
            owner_id=self._owner,
            protocol="raw",
            object_key=key,
            original_name=file.original_name,
            content_type=file.mime_type,
            size=size,
            reserve=size,
            session_id="bench",
            expires_in=timedelta(hours=1),
        )
        with self._db.transaction() as tx:
            upload = uploads.admit(tx, new, quota_bytes=None, max_open=1_000_000)
        assert upload is not None
        with self._db.transaction() as tx:
            files.open_publication(tx, self._owner, None, session_id="bench", count=1, size=size)
            made = files.publish(
                tx,
                NewFile(
                    upload_id=upload.id,
                    owner_id=self._owner,
                    original_name=file.original_name,
                    object_key=key,
                    etag="e",
                    size=size,
                    sha256=hashlib.sha256(secrets.token_bytes(8)).hexdigest(),
                    mime_type=file.mime_type,
                    file_type=file.file_type,
                    status="ready",
                    placement=Placement(tags=tuple(file.tags)),
                    metadata=file.metadata,
                ),
                actor=self._owner,
                link=True,
                forget=True,
            )
        assert made is not None
        return made.id

    def close(self) -> None:
        self._db.close()


def compare_uploads(full: str, owner_id: str, count: int) -> None:
    empty = full.rsplit("/", 1)[0] + f"/bench_{new_id().hex[:12]}"
    name = empty.rsplit("/", 1)[1]
    with psycopg.connect(full, autocommit=True) as conn:
        conn.execute(
            f"create database {name} template template0 locale_provider builtin builtin_locale 'C.UTF-8'"
            " lc_collate 'C' lc_ctype 'C.UTF-8' encoding utf8"
        )
    since = datetime.now(UTC)
    try:
        migrate(empty)
        times: dict[str, list[float]] = {"empty": [], "seeded": []}
        writers = {"empty": Uploads(empty, owner_id, 5), "seeded": Uploads(full, owner_id, 5)}
        for n in range(count + 50):  # by turns, so that both meet the same weather
            for which, writer in writers.items():
                begin = time.perf_counter()
                writer.one()
                if n >= 50:
                    times[which].append((time.perf_counter() - begin) * 1_000)
        for writer in writers.values():
            writer.close()
    finally:
        with psycopg.connect(full, autocommit=True) as conn:
            conn.execute(f"drop database {name} with (force)")
            conn.execute("delete from files where owner_id = %s and uploaded_at >= %s", [owner_id, since])
            conn.execute("delete from objects where owner_id = %s and created_at >= %s", [owner_id, since])
            conn.execute("delete from file_events where owner_id = %s and at >= %s", [owner_id, since])
            conn.execute("delete from upload_sessions where owner_id = %s and session_id = 'bench'", [owner_id])
    print("\n### An upload's metadata, by turns\n\n| database | uploads | p50 ms | p95 ms | mean ms |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for which, took in times.items():
        took.sort()
        print(f"| {which} | {len(took)} | {_p(took, 50):.2f} | {_p(took, 95):.2f} | {statistics.fmean(took):.2f} |")
    ratios = (_p(times["seeded"], n) / _p(times["empty"], n) for n in (50, 95))
    print(f"\nSeeded over empty: p50 {next(ratios):.2f}, p95 {next(ratios):.2f}.")


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--owner", default="demo-1")
    words.add_argument("--clients", type=int, default=8)
    words.add_argument("--seconds", type=float, default=3)
    words.add_argument("--uploads", type=int, default=500)
    words.add_argument("--only", default="", help="questions whose label has this in it")
    words.add_argument("--http", nargs=2, metavar=("URL", "KEY"))
    given = words.parse_args()
    settings = Settings()
    services = wire(settings)
    asked, addresses = questions(services, Principal(given.owner))
    services.db.close()

    def of_services(ask: Ask) -> Callable[[int], Callable[[], object]]:
        def make(number: int) -> Callable[[], object]:
            mix = random.Random(number)
            return lambda: ask(services, Principal(given.owner), mix)  # its pool opens anew after the fork

        return make

    def over_http(path: str) -> Callable[[int], Callable[[], object]]:
        def make(number: int) -> Callable[[], object]:
            pool = urllib3.PoolManager(headers={"Authorization": f"Bearer {given.http[1]}"})

            def ask() -> None:
                answer = pool.request("GET", given.http[0] + path)
                if answer.status != 200:
                    raise RuntimeError(json.loads(answer.data))

            return ask

        return make

    def chosen(label: str) -> bool:
        return given.only in label or label == "SELECT … WHERE id"

    table(
        "The services",
        given.clients,
        given.seconds,
        {n: of_services(a) for n, a in asked.items() if chosen(n)},
    )
    if given.http:
        walked = {n: over_http(a) for n, a in addresses.items() if chosen(n)}
        table("Over HTTP", given.clients, given.seconds, walked)
    if given.uploads and settings.database_url:
        compare_uploads(settings.database_url.get_secret_value(), given.owner, given.uploads)


if __name__ == "__main__":
    main()
