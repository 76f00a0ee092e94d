"""Writes docs/query-plans.md: every statement on ``files``, ``file_words`` and ``file_texts`` that the services run, with its
plan on this database.

    python app.py seed-demo --files 1000000 --folders 9999
    set -a; eval "$(python app.py env)"; python -m benchmarks.query_plans > docs/query-plans.md

Nothing is written by hand: the services are called as the API calls them, on a connection whose cursors run EXPLAIN (ANALYZE,
BUFFERS) before each statement that names one of them (twice, the second plan is kept: warm; then rolled back)."""

from __future__ import annotations

import io
import re
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
from psycopg import pq

from app import wire
from core.errors import GatewayError
from core.placement import Placement
from core.principal import Principal
from db import events, files
from services import Services
from services.library.files import FileChange, FileQuery
from services.library.folders import FolderChange
from services.library.search import SearchQuery
from settings import Settings

# Statements that read the whole table, by what runs them, and why that is so.
_REASONS = {
    "the nightly recount": "it compares every counter with what it counts, once a night and by `python app.py janitor`",
    "sorted by downloads": "counting a download stays a heap-only update, so nothing that it changes has an index",
    "sorted by last access": "as for downloads",
}
_MANY = 4_000  # pages
_SEARCHES = (
    "report",
    "quarterly budget",
    '"meeting notes"',
    "vertr*",
    "invioce",
    "type:pdf",
    "tag:work",
    "ext:csv",
    "size:>1gb",
    "before:2023-01-01",
    "is:deleted scan",
    "name:IMG_12",
    "content:forest",
    "新宿",
    "-draft plan",
    '"invoice garden museum"',
    "invoice OR garden",
    "report type:image",
    "IMG type:image",
    "report after:2026-01",
    "content:the",
    "a*",
    "re",
)


@dataclass
class Plan:
    label: str
    statement: str
    lines: list[str]

    @property
    def milliseconds(self) -> float:
        return float(re.search(r"Execution Time: ([\d.]+)", "\n".join(self.lines)).group(1))  # type: ignore[union-attr]

    @property
    def buffers(self) -> int:
        first = next((line for line in self.lines if "Buffers: shared" in line), "")
        return sum(int(n) for n in re.findall(r"(?:hit|read)=(\d+)", first))

    @property
    def scans(self) -> bool:
        return any(re.search(r"Seq Scan on (public\.)?(files|file_words|file_texts)\b", line) for line in self.lines)


class Recorder(psycopg.Cursor[Any]):
    label: str | None = None
    plans: dict[str, Plan] = {}  # noqa: RUF012 shared by all cursors

    def execute(self, query: Any, params: Any = None, **options: Any) -> Recorder:
        names_files = isinstance(query, str) and re.search(
            r"\b(from|join|into|update)\s+(files|file_words|file_texts)\b", query
        )
        if Recorder.label is not None and names_files and query not in Recorder.plans:
            in_transaction = self.connection.info.transaction_status != pq.TransactionStatus.IDLE
            try:
                lines = [self._explain(query, params) for _ in range(2)][1]
                label = Recorder.label + (", the total" if query.lstrip().startswith("select count(*)") else "")
                Recorder.plans[query] = Plan(label, textwrap.dedent(query).strip(), lines)
            except psycopg.errors.QueryCanceled:
                if in_transaction:
                    raise
        return super().execute(query, params, **options)  # type: ignore[return-value]

    def _explain(self, query: str, params: Any) -> list[str]:
        with self.connection.transaction(force_rollback=True), psycopg.Cursor(self.connection) as cursor:
            cursor.execute("explain (analyze, buffers) " + query, params, prepare=False)
            return [row[0] for row in cursor]


@contextmanager
def recorded(label: str) -> Iterator[None]:
    Recorder.label = label
    try:
        yield
    except GatewayError as error:
        print(f"{label}: {error}", file=sys.stderr)
    finally:
        Recorder.label = None


def record(services: Services, owner: str) -> None:
    """Everything that a client can ask for, once."""
    alice, root = Principal(owner), Principal("root", "admin")
    now = datetime.now(UTC)
    with services.db.connection() as tx:
        folder, parent = tx.execute(
            "select (select folder_id from folder_sums where owner_id = %(o)s and folder_id is not null"
            "        order by files desc limit 1),"
            " (select parent_id from folders where owner_id = %(o)s and parent_id is not null group by 1"
            "  order by count(*) desc limit 1)",
            {"o": owner},
        ).fetchone()  # type: ignore[misc]

    def lists(label: str, query: FileQuery, who: Principal = alice) -> None:
        with recorded(label):
            page = services.files.list(who, query)
        if page.next_cursor and query.sort == "-uploaded_at":
            with recorded(f"{label}, the next page"):
                services.files.list(who, FileQuery(**{**_fields(query), "cursor": page.next_cursor}))

    lists("list of files", FileQuery())
    for sort in ("uploaded_at", "original_name", "-original_name", "-file_size", "mime_type"):
        lists(f"list of files by {sort}", FileQuery(sort=sort))
    lists("list of files sorted by downloads", FileQuery(sort="-download_count"))
    lists("list of files sorted by last access", FileQuery(sort="-last_accessed"))
    for label, query in {
        "of a kind": FileQuery(file_type="image"),
        "of a kind by size": FileQuery(file_type="archive", sort="file_size"),
        "of a kind by type": FileQuery(file_type="image", sort="mime_type"),
        "of a type": FileQuery(file_type="application/pdf"),
        "of types": FileQuery(file_type="image/*"),
        "in the root": FileQuery(folder="root"),
        "in a folder": FileQuery(folder=folder),
        "in a folder by name": FileQuery(folder=folder, sort="original_name"),
        "in a folder and below": FileQuery(folder=parent, recursive=True),
        "of some days": FileQuery(date_from=now - timedelta(days=9), date_to=now, sort="original_name"),
        "of a year": FileQuery(
            date_from=now - timedelta(days=900), date_to=now - timedelta(days=535), sort="-file_size"
        ),
        "above a size": FileQuery(min_size=10**9, sort="original_name"),
        "with a common tag": FileQuery(tag="work"),
        "with a rare tag": FileQuery(tag="عائلة", sort="original_name"),
        "with a tag and of a kind": FileQuery(tag="family", file_type="image", sort="-file_size"),
        "rejected": FileQuery(status="rejected"),
        "infected, by name": FileQuery(status="infected", sort="original_name"),
        "still processing": FileQuery(status="processing"),
        "in the trash": FileQuery(deleted=True),
    }.items():
        lists(f"list of files {label}", query)
    lists("list of everybody's files", FileQuery(owner="*"), root)
    lists("list of everybody's files by name", FileQuery(owner="*", sort="original_name"), root)
    lists("list of everybody's files by size", FileQuery(owner="*", sort="-file_size"), root)

    calls: dict[str, Callable[[], object]] = {
        "folder tree": lambda: services.folders.tree(alice),
        "flat list of folders": lambda: services.folders.flat(alice, limit=50),
        "a folder": lambda: services.folders.get(alice, folder),
        "statistics": lambda: services.stats.storage(alice),
        "statistics of everybody": lambda: services.stats.storage(root, "*"),
    }
    for words in _SEARCHES:
        calls[f"search {words}"] = lambda words=words: services.search.search(alice, SearchQuery(query=words))  # type: ignore[misc]
    calls["search with facets"] = lambda: services.search.search(
        alice, SearchQuery(query="report", facets=("file_type", "folder", "owner", "month"))
    )
    calls["search suggestions"] = lambda: services.search.suggest(alice, "IMG_")
    for label, call in calls.items():
        with recorded(label):
            call()
    _change(services, alice)
    with recorded("janitor: files whose check was lost"):
        services.verification.requeue_lost()
    with recorded("the nightly recount"):
        services.janitor.janitor(dry_run=True)


def _change(services: Services, alice: Principal) -> None:
    """A file's life, from its upload to its purge; nothing of it is left."""

    def upload(label: str, name: str, content: bytes, **where: Any) -> Any:
        with recorded(label):
            with services.intake.batch(alice, protocol="raw") as batch:
                batch.receive(name=name, claimed_type=None, stream=io.BytesIO(content), size=len(content))
                return batch.commit(Placement(**where)).files[0]

    with recorded("make a folder"):
        folder = services.folders.create(alice, f"query plans {datetime.now(UTC):%H%M%S}")
    file = upload("upload", "query plan.txt", b"a plan", folder_id=folder.id)
    same = upload("upload of equal bytes", "query plan.txt", b"a plan", folder_id=folder.id)
    steps: dict[str, Callable[[], object]] = {
        "a file": lambda: services.files.details(alice, file.id),
        "a file's history": lambda: services.files.history(alice, file.id, limit=50, cursor=None),
        "rename": lambda: services.files.update(alice, file.id, FileChange(original_name="q.txt"), if_match=None),
        "move": lambda: services.files.move(alice, file.id, None, if_match=None),
        "move back": lambda: services.files.move(alice, file.id, folder.id, if_match=None),
        "copy": lambda: services.files.copy(alice, file.id),
        "download": lambda: services.delivery.open(alice, file.id, method="GET"),
        "trash": lambda: services.files.trash(alice, file.id),
        "restore": lambda: services.files.restore(alice, file.id),
        "rename a folder": lambda: services.folders.update(alice, folder.id, FolderChange(description="x")),
        "ZIP of a folder": lambda: services.delivery.zip(alice, folder=folder.id),
        "purge": lambda: services.files.purge(alice, same.id),
        "delete a folder with all below": lambda: services.folders.delete(alice, folder.id, recursive=True),
    }
    for label, step in steps.items():
        with recorded(label):
            step()
    with services.db.connection() as tx:
        with recorded("finish of a check"):
            files.finish_check(tx, file.id, status="ready", problem=None)
        with recorded("count of a download"):
            events.record_download(tx, file.id, actor="nobody")
        left = [row[0] for row in tx.execute("select id from files where file_path = %s", [file.file_path])]
    for file_id in left:
        services.files.purge(alice, file_id)


def _fields(query: FileQuery) -> dict[str, Any]:
    return {name: getattr(query, name) for name in FileQuery.__slots__}  # type: ignore[attr-defined]


def _reason(label: str) -> str | None:
    return next((reason for words, reason in _REASONS.items() if words in label), None)


def write(plans: list[Plan], facts: tuple[Any, ...]) -> None:
    scans = [plan for plan in plans if plan.scans]
    unexplained = [plan.label for plan in scans if _reason(plan.label) is None]
    print("# Query plans\n")
    print(
        f"Every statement on `files`, `file_words` and `file_texts` that the services run, on {facts[0]:,} files,"
        f" {facts[1]:,} of them with text, in {facts[2]:,} folders ({facts[3]}), with warm caches. Made by"
        " `python -m benchmarks.query_plans`; times are those under EXPLAIN, on a machine that did other things too: compare"
        " them with one another.\n"
    )
    print("Those that read the whole table, and why:\n")
    for plan in scans:
        print(f"- {plan.label}: {_reason(plan.label) or '**not explained**'}")
    print(
        f"\nThose that read more than {_MANY:,} pages of 8 KiB otherwise. Totals are counted up to 10,000, for a first page"
        " only where there are more; few matches (up to 5,000) are found by their filter and sorted:\n"
    )
    for plan in plans:
        if plan.buffers > _MANY and not plan.scans:
            print(f"- {plan.label}: {plan.buffers:,}")
    print("\n| | statement | ms | buffers |\n| --- | --- | ---: | ---: |")
    for number, plan in enumerate(plans, 1):
        print(f"| [{number}](#{number}) | {plan.label} | {plan.milliseconds:.2f} | {plan.buffers:,} |")
    for number, plan in enumerate(plans, 1):
        print(f'\n<a name="{number}"></a>\n## {number}. {plan.label}\n\n```sql\n{plan.statement}\n```\n')
        print("```\n" + "\n".join(line[:240] for line in plan.lines) + "\n```")
    if unexplained:
        print("Unexplained scans: " + ", ".join(unexplained), file=sys.stderr)


def main() -> None:
    owner = sys.argv[1] if len(sys.argv) > 1 else "demo-1"
    services = wire(Settings())
    services.db._cursor_factory = Recorder  # before its first connection
    record(services, owner)
    with services.db.connection() as tx:
        facts = tx.execute(
            "select (select sum(files) from type_sums)::bigint, (select count(*) from object_texts),"
            " (select count(*) from folders), 'PostgreSQL ' || current_setting('server_version')"
        ).fetchone()
    assert facts is not None
    write(list(Recorder.plans.values()), facts)


if __name__ == "__main__":
    main()
