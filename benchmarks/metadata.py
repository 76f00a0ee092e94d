"""Times lists, trees, statistics, searches and an upload's metadata on a seeded database, beside a plain SELECT by id.

    python app.py seed-demo --files 1000000 --folders 9999
    set -a; eval "$(python app.py env)"
    python -m benchmarks.metadata [--clients 8] [--seconds 3] [--http http://localhost:8080 KEY]

Each line is one call, made for some seconds by all clients at once (processes with a connection each), after a warm-up:
p50 and p95 in milliseconds, and both as multiples of getting one file by its id. With ``--http`` the same through a
gateway; KEY belongs to the seeded owner. An upload's statements (admit, names, publish) run alternately on the seeded
database and on an empty one, which is created and dropped again; what they add is removed."""

from __future__ import annotations

import argparse
import hashlib
import multiprocessing
import random
import secrets
import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode

import psycopg
import urllib3

from app import wire
from benchmarks.lists import lists
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
from services.library.search import SearchRequest
from settings import Settings

Call = Callable[[Services, Principal, random.Random], object]
Factory = Callable[[int], Callable[[], object]]  # by the client's number
BY_ID = "SELECT … WHERE id"
_WORDS = ("report", "invoice", "garden", "Rechnung", "Vertrag", "facture", "договор", "請求書", "summary", "museum")


def _search(*queries: str) -> Call:
    return lambda services, who, mix: services.search.search(who, SearchRequest(query=mix.choice(queries)))


def _list(query: dict[str, Any]) -> Call:
    return lambda services, who, mix: services.files.list(who, FileQuery(**query))


def calls(services: Services, who: Principal) -> tuple[dict[str, Call], dict[str, str]]:
    """Calls of the services by label, and the paths of the same over HTTP."""
    with services.db.connection() as tx:
        rows = tx.execute(
            "select id from files tablesample system (2) where owner_id = %s and not is_deleted limit 5000",
            [who.owner_id],
        )
        ids = [row[0] for row in rows]
    queries = lists(services, who.owner_id)
    calls: dict[str, Call] = {BY_ID: lambda services, who, mix: services.files.get(who, mix.choice(ids))}
    calls |= {label: _list(query) for label, query in queries.items()}
    calls |= {
        "list, page 10,000": _deep(services, who, "-uploaded_at"),
        "list by name, page 10,000": _deep(services, who, "original_name"),
        "folder tree": lambda services, who, mix: services.folders.tree(who),
        "statistics": lambda services, who, mix: services.stats.storage(who),
        "search: a word": _search(*_WORDS),
        "search: two words": _search("annual report", "invoice garden", "Rechnung Garten", "contrat mariage"),
        "search: a phrase": _search('"of the"', '"meeting agenda"', '"Rechnung Garten"'),
        "search: a prefix": _search("rep*", "invo*", "Vertr*", "библ*"),
        "search: a misspelling": _search("invocie", "reciept", "Rechnnug", "certifcate"),
        "search: no match": _search("zzyzxqwv"),
        "search: in contents": _search("content:harvest", "content:forest", "content:新宿"),
        "suggestions": lambda services, who, mix: services.search.suggest(
            who, mix.choice(("IMG_", "re", "Ver", "scan"))
        ),
    }
    paths = {
        BY_ID: f"/api/files/{ids[0]}/history?limit=1",
        "folder tree": "/api/folders",
        "statistics": "/api/storage/stats",
    }
    return calls, paths | {label: f"/api/files?{urlencode(query)}" for label, query in queries.items()}


def _deep(services: Services, who: Principal, sort: str) -> Call:
    """Page 10,000 of 50 files each, as Files.list reads it; only the cursor is not signed."""
    name, order = sort.strip("-"), "desc" if sort.startswith("-") else "asc"
    column = {"original_name": "name_key"}.get(name, name)
    with services.db.connection() as tx:
        row = tx.execute(
            f"select {column}::text, id::text from files where owner_id = %s and is_deleted = false"
            f" order by {column} {order}, id {order} offset 499949 limit 1",
            [who.owner_id],
        ).fetchone()

    def call(services: Services, who: Principal, mix: random.Random) -> object:
        wanted = FileFilter(who.owner_id)
        with services.db.connection() as tx:
            total = file_lists.total(tx, wanted)
            return file_lists.page(tx, wanted, sort=sort, after=list(row) if row else None, limit=51, expected=total)

    return call


# -- many clients at once ------------------------------------------------------------------------------------------

# What a client process calls, set after the fork: functions can't be sent to it.
_calls: dict[str, Callable[[], object]] = {}
_together: Any = None


def _begin(barrier: Any, factories: dict[str, Factory]) -> None:
    global _together
    _together = barrier
    number = multiprocessing.current_process()._identity[0]
    _calls.update({label: factory(number) for label, factory in factories.items()})


def _client(label: str, seconds: float) -> list[float]:
    """Milliseconds of each call; the first fifth of the time warms up."""
    _together.wait()
    begin, times = time.perf_counter(), list[float]()
    while (now := time.perf_counter()) < begin + seconds or len(times) < 3:
        _calls[label]()
        if now > begin + seconds / 5 or seconds == 0:
            times.append((time.perf_counter() - now) * 1_000)
    return times


def _p(sorted_times: list[float], percent: int) -> float:
    return sorted_times[min(len(sorted_times) - 1, len(sorted_times) * percent // 100)]


def table(title: str, clients: int, seconds: float, factories: dict[str, Factory]) -> None:
    """Measure every call and print a line for each; the first is the unit of the others."""
    print(f"\n### {title}, {clients} clients\n\n| | calls | p50 ms | p95 ms | p50 × | p95 × |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    unit: tuple[float, float] | None = None
    fork = multiprocessing.get_context("fork")
    with fork.Pool(clients, _begin, (fork.Barrier(clients), factories)) as pool:
        for label in factories:
            runs = [pool.apply_async(_client, (label, seconds)) for _ in range(clients)]
            times = sorted(time for run in runs for time in run.get())
            p50, p95 = _p(times, 50), _p(times, 95)
            unit = unit or (p50, p95)
            print(
                f"| {label} | {len(times)} | {p50:.2f} | {p95:.2f} | {p50 / unit[0]:.1f} | {p95 / unit[1]:.1f} |",
                flush=True,
            )


# -- an upload's statements ----------------------------------------------------------------------------------------


def upload(db: Database, owner_id: str, inventor: Inventor) -> None:
    """Write the metadata of one invented file, as services/uploads/intake.py does."""
    file = inventor.file()
    key, size = object_key(FILE_PREFIX, "bin", datetime.now(UTC)), file.size % 1_000_000
    new = NewUpload(
        owner_id=owner_id,
        protocol="raw",
        object_key=key,
        original_name=file.original_name,
        content_type=file.mime_type,
        size=size,
        reserve=size,
        session_id="bench",
        expires_in=timedelta(hours=1),
    )
    with db.transaction() as tx:
        upload = uploads.admit(tx, new, quota_bytes=None, max_open=1_000_000)
    assert upload is not None
    with db.transaction() as tx:
        files.open_publication(tx, owner_id, None, session_id="bench", count=1, size=size)
        made = files.publish(
            tx,
            NewFile(
                upload_id=upload.id,
                owner_id=owner_id,
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
            actor=owner_id,
            link=True,
            forget=True,
        )
    assert made is not None


def compare_uploads(seeded: str, owner_id: str, count: int) -> None:
    """Time uploads on the seeded database and on an empty one beside it."""
    name = f"bench_{new_id().hex[:12]}"
    empty = f"{seeded.rsplit('/', 1)[0]}/{name}"
    with psycopg.connect(seeded, autocommit=True) as conn:
        conn.execute(
            f"create database {name} template template0 locale_provider builtin builtin_locale 'C.UTF-8'"
            " lc_collate 'C' lc_ctype 'C.UTF-8' encoding utf8"
        )
    since = datetime.now(UTC)
    times: dict[str, list[float]] = {"empty": [], "seeded": []}
    try:
        migrate(empty)
        writers = {
            which: (
                Database(url, max_connections=2),
                Inventor(5, files=1_000_000, folders=0, owners=1, now=datetime.now(UTC)),
            )
            for which, url in (("empty", empty), ("seeded", seeded))
        }
        for n in range(count + 50):  # alternately, so that other load on the machine slows both
            for which, (db, inventor) in writers.items():
                begin = time.perf_counter()
                upload(db, owner_id, inventor)
                if n >= 50:
                    times[which].append((time.perf_counter() - begin) * 1_000)
        for db, _ in writers.values():
            db.close()
    finally:
        with psycopg.connect(seeded, autocommit=True) as conn:
            conn.execute(f"drop database {name} with (force)")
            conn.execute("delete from files where owner_id = %s and uploaded_at >= %s", [owner_id, since])
            conn.execute("delete from objects where owner_id = %s and created_at >= %s", [owner_id, since])
            conn.execute("delete from file_events where owner_id = %s and at >= %s", [owner_id, since])
            conn.execute("delete from upload_sessions where owner_id = %s and session_id = 'bench'", [owner_id])
    print("\n### An upload's metadata, alternately\n\n| database | uploads | p50 ms | p95 ms | mean ms |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for which, taken in times.items():
        taken.sort()
        print(f"| {which} | {len(taken)} | {_p(taken, 50):.2f} | {_p(taken, 95):.2f} | {statistics.fmean(taken):.2f} |")
    p50, p95 = (_p(times["seeded"], n) / _p(times["empty"], n) for n in (50, 95))
    print(f"\nSeeded over empty: p50 {p50:.2f}, p95 {p95:.2f}.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--owner", default="demo-1")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--uploads", type=int, default=500)
    parser.add_argument("--only", default="", help="measure the calls whose label contains this")
    parser.add_argument("--http", nargs=2, metavar=("URL", "KEY"))
    args = parser.parse_args()
    settings = Settings()
    services = wire(settings)
    owner = Principal(args.owner)
    by_label, paths = calls(services, owner)
    services.db.close()

    def of_services(call: Call) -> Factory:
        def factory(number: int) -> Callable[[], object]:
            mix = random.Random(number)
            return lambda: call(services, owner, mix)  # its pool opens anew after the fork

        return factory

    def over_http(path: str) -> Factory:
        def factory(number: int) -> Callable[[], object]:
            pool = urllib3.PoolManager(headers={"Authorization": f"Bearer {args.http[1]}"})

            def call() -> None:
                response = pool.request("GET", args.http[0] + path)
                if response.status != 200:
                    raise RuntimeError(response.data.decode())

            return call

        return factory

    def measure(title: str, factories: dict[str, Factory]) -> None:
        chosen = {label: factory for label, factory in factories.items() if label == BY_ID or args.only in label}
        table(title, args.clients, args.seconds, chosen)

    measure("The services", {label: of_services(call) for label, call in by_label.items()})
    if args.http:
        measure("Over HTTP", {label: over_http(path) for label, path in paths.items()})
    if args.uploads and settings.database_url:
        compare_uploads(settings.database_url.get_secret_value(), args.owner, args.uploads)


if __name__ == "__main__":
    main()
