"""Writes docs/query-plans.md: what each statement on ``files``, ``file_words`` and ``file_texts`` reads in this database.

    python app.py seed-demo --files 1000000 --folders 9999
    set -a; eval "$(python app.py env)"; python -m benchmarks.query_plans [--owner demo-1] [--out docs/query-plans.md]

The services are called as the API calls them. Before each statement on one of these tables, the cursor runs EXPLAIN
(ANALYZE, BUFFERS) twice, rolls it back, and records the second plan, which finds its pages in memory."""

from __future__ import annotations

import argparse
import io
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
from psycopg import pq

from app import wire
from benchmarks.lists import lists
from core.errors import GatewayError
from core.placement import Placement
from core.principal import Principal
from db import files
from services import Services
from services.library.files import FileChange, FileQuery
from services.library.folders import FolderChange
from services.library.search import SearchRequest
from settings import Settings

_MANY = 4_000  # pages of 8 KiB
# Statements that read a whole table, and why.
_WHOLE_TABLE = {
    "list by downloads": "an index would prevent the heap-only update that counts a download",
    "list by last access": "the same, as a download changes that time too",
    "janitor: recount": "it compares every counter with the rows it counts, once a night",
}
# Statements whose plans are printed, and what they show.
_PRINTED = {
    "list, newest first": "An index alone gives the ids of one page, in order. Only those 51 rows are fetched.",
    "list by downloads": "Without an index in this order, every row is read and the first 51 are kept. Of the lists, only"
    " this one and the one by last access do so.",
    "list of 9 days by name": "Few files match, so they are found by their filter and sorted. The materialized CTE keeps"
    " the planner from walking the index on names instead.",
    "list of a folder and its subfolders": "The subfolders are found first, then the index is searched once for each.",
    "list of images with a tag, largest first, total": "The count stops at 10,001. Two indexes are combined; most pages"
    " are those of the matching rows, which are read to check that the rows are visible.",
    "all files by name": "Each owner's index gives one page in order, and these pages are merged. Nothing sorts all files.",
    "search `quarterly budget`": "Each tier of each segment is one lookup in the index; the rows of the index are tested before"
    " those of `files`.",
    "trash": "Triggers, which keep the counters and queue the file for search, take most of the time. The pages that they read"
    " are not counted.",
}
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


@dataclass(frozen=True)
class Plan:
    label: str
    lines: list[str]

    @property
    def milliseconds(self) -> float:
        return float(re.search(r"Execution Time: ([\d.]+)", "\n".join(self.lines)).group(1))  # type: ignore[union-attr]

    @property
    def pages(self) -> int:
        """Pages of 8 KiB that the statement read; those that its triggers read are not among them."""
        first = next((line for line in self.lines if "Buffers: shared" in line), "")
        return sum(int(n) for n in re.findall(r"(?:hit|read)=(\d+)", first))

    @property
    def rows(self) -> int:
        """Rows that were read from tables or index entries, with those that a filter removed."""
        rows, loops = 0.0, 0
        for line in self.lines:
            if "(actual " in line or "(never executed)" in line:
                scan = re.search(r"(?:Seq|Index|Only|Heap) Scan .*\(actual .*rows=([\d.]+) loops=(\d+)\)", line)
                loops = int(scan[2]) if scan and "Bitmap Index" not in line else 0
                rows += float(scan[1]) * loops if scan else 0
            elif removed := re.search(r"Rows Removed by (?:Filter|Index Recheck): (\d+)", line):
                rows += int(removed[1]) * loops
        return round(rows)

    @property
    def whole_tables(self) -> list[str]:
        scans = re.findall(r"Seq Scan on (files|objects|search_index|file_tags)\b.*\(actual", "\n".join(self.lines))
        return list(dict.fromkeys(scans))

    @property
    def indexes(self) -> list[str]:
        """Those that were used, the primary keys only where nothing else was."""
        found = re.findall(r"(?: using |Bitmap Index Scan on )(\w+).*\(actual", "\n".join(self.lines))
        used = [name for name in dict.fromkeys(found) if not name.endswith("_pkey")]
        return used or ([] if self.whole_tables else list(dict.fromkeys(found)))

    def trimmed(self) -> str:
        noise = r"\s*(Heap Fetches: 0|Index Searches: 1$|Storage|Worker|Sort Method|Planning|Batches)"
        text = re.sub(r"\nPlanning:\n.*", "", "\n".join(self.lines))
        text = re.sub(r"  \(cost=\S+ rows=\d+ width=\d+\)", "", text).replace(".00 loops", " loops")
        return "\n".join(line[:160] for line in text.splitlines() if not re.match(noise, line))


class Recorder(psycopg.Cursor[Any]):
    label: str | None = None
    plans: dict[str, Plan] = {}  # noqa: RUF012 shared by all cursors

    def execute(self, query: Any, params: Any = None, **options: Any) -> Recorder:
        tables = r"\b(from|join|into|update)\s+(files|search_index|file_tags)\b"
        if Recorder.label and isinstance(query, str) and query not in Recorder.plans and re.search(tables, query):
            in_transaction = self.connection.info.transaction_status != pq.TransactionStatus.IDLE
            try:
                lines = [self._explain(query, params) for _ in range(2)][1]
                total = ", total" if query.lstrip().startswith("select count(*)") else ""
                Recorder.plans[query] = Plan(Recorder.label + total, lines)
            except psycopg.errors.QueryCanceled:
                if in_transaction:
                    raise
        return super().execute(query, params, **options)

    def _explain(self, query: str, params: Any) -> list[str]:
        with self.connection.transaction(force_rollback=True), psycopg.Cursor(self.connection) as cursor:
            cursor.execute("explain (analyze, buffers, costs off) " + query, params, prepare=False)
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
    """Call everything that a client can ask for, once."""
    alice, root = Principal(owner), Principal("root", "admin")
    queries = lists(services, owner)
    folder = queries["list of the largest folder"]["folder"]
    for label, query in (
        *((label, FileQuery(**query)) for label, query in queries.items()),
        ("all files, newest first", FileQuery(owner="*")),
        ("all files by name", FileQuery(owner="*", sort="original_name")),
        ("all files, largest first", FileQuery(owner="*", sort="-file_size")),
    ):
        who = root if query.owner else alice
        with recorded(label):
            page = services.files.list(who, query)
        if page.next_cursor and query.sort == "-uploaded_at":
            with recorded(f"{label}, next page"):
                services.files.list(who, replace(query, cursor=page.next_cursor))
    calls: dict[str, Callable[[], object]] = {
        "folder tree": lambda: services.folders.tree(alice),
        "flat list of folders": lambda: services.folders.flat(alice, limit=50),
        "get a folder": lambda: services.folders.get(alice, folder),
        "recent events in the statistics": lambda: services.stats.storage(alice),
        "recent events in everybody's statistics": lambda: services.stats.storage(root, "*"),
    }
    for text in _SEARCHES:
        calls[f"search `{text}`"] = lambda text=text: services.search.search(alice, SearchRequest(query=text))
    calls["search `report` with facets"] = lambda: services.search.search(
        alice, SearchRequest(query="report", facets=("file_type", "folder", "owner", "month"))
    )
    calls["suggestions for `IMG_`"] = lambda: services.search.suggest(alice, "IMG_")
    for label, call in calls.items():
        with recorded(label):
            call()
    _change(services, alice)
    with recorded("janitor: files without a check job"):
        services.verification.requeue_lost()
    with recorded("janitor: recount"):
        services.janitor.run(dry_run=True)


def _change(services: Services, alice: Principal) -> None:
    """Upload two files and a folder, change them in every way, and purge them."""

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
        "get a file": lambda: services.files.details(alice, file.id),
        "get a file's history": lambda: services.files.history(alice, file.id, limit=50, cursor=None),
        "rename": lambda: services.files.update(alice, file.id, FileChange(original_name="q.txt"), if_match=None),
        "move": lambda: services.files.move(alice, file.id, None, if_match=None),
        "move back": lambda: services.files.move(alice, file.id, folder.id, if_match=None),
        "copy": lambda: services.files.copy(alice, file.id),
        "download": lambda: services.delivery.open(alice, file.id, method="GET"),
        "trash": lambda: services.files.trash(alice, file.id),
        "restore": lambda: services.files.restore(alice, file.id),
        "change a folder": lambda: services.folders.update(alice, folder.id, FolderChange(description="x")),
        "ZIP of a folder": lambda: services.delivery.zip(alice, folder=folder.id),
        "purge": lambda: services.files.purge(alice, same.id),
        "delete a folder and its files": lambda: services.folders.delete(alice, folder.id, recursive=True),
    }
    for label, step in steps.items():
        with recorded(label):
            step()
    with services.db.connection() as tx:
        with recorded("finish a check"):
            files.finish_check(tx, file.id, status="ready", problem=None)
        left = [row[0] for row in tx.execute("select id from files where file_path = %s", [file.file_path])]
    for file_id in left:
        services.files.purge(alice, file_id)


def page(plans: list[Plan], recording: str) -> str:
    """The Markdown page; ``recording`` says when and on what the plans were recorded."""
    lines = [
        "# Query plans",
        "",
        "What the statements on `files`, `search_index` and `file_tags` read. `python -m benchmarks.query_plans` calls every"
        " service, explains each statement the first time it runs, and writes this page. A call that is missing here runs the"
        f" same statements as one above it. {recording}",
        "",
        "- **Indexes** leave out the primary keys that fetch the rows of a result, unless no other index is used.",
        "- **Rows** are those read from tables and indexes: a page of 51 files counts 153, in the index, `files` and"
        " `objects`. **Pages** are of 8 KiB, nearly all found in memory; more than"
        f" {_MANY:,} are in bold.",
        "- **ms** is the time under EXPLAIN, on a machine that did other things too: compare the lines with one another.",
        "- **total** is the count of a list, up to 10,001. Up to 5,000 matches are found by their filter and sorted; more are"
        " found in the order of the list.",
        "- A number in brackets marks another statement of the same call.",
        "",
        "| statement | indexes | rows | pages | ms |",
        "| --- | --- | ---: | ---: | ---: |",
    ]
    seen: Counter[str] = Counter()
    for plan in plans:
        seen[plan.label] += 1
        label = plan.label + (f" ({seen[plan.label]})" if seen[plan.label] > 1 else "")
        read = [f"all of `{table}`" for table in plan.whole_tables] + [f"`{index}`" for index in plan.indexes]
        pages = f"**{plan.pages:,}**" if plan.pages > _MANY else f"{plan.pages:,}"
        lines.append(f"| {label} | {', '.join(read)} | {plan.rows:,} | {pages} | {plan.milliseconds:.2f} |")
    lines += ["", "Why some statements read a whole table:", ""]
    lines += [f"- {label}: {reason}." for label, reason in _WHOLE_TABLE.items()]
    lines += ["", "## Plans worth reading", "", "Without costs, planning and what each worker did."]
    for label, sentence in _PRINTED.items():
        for plan in [plan for plan in plans if plan.label == label][:1]:
            lines += ["", f"### {label[0].upper()}{label[1:]}", "", sentence, "", "```", plan.trimmed(), "```"]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--owner", default="demo-1")
    parser.add_argument("--out", type=Path, default=Path("docs/query-plans.md"))
    args = parser.parse_args()
    services = wire(Settings())
    services.db._cursor_factory = Recorder  # before its first connection
    record(services, args.owner)
    with services.db.connection() as tx:
        row = tx.execute(
            "select (select sum(files) from type_counters)::bigint, (select count(*) from object_texts),"
            " (select count(*) from folders), current_setting('server_version')"
        ).fetchone()
    assert row is not None
    plans = list(Recorder.plans.values())
    recording = (
        f"Recorded on {datetime.now(UTC):%Y-%m-%d} with {row[0]:,} files, {row[1]:,} of them with text, in {row[2]:,}"
        f" folders, on PostgreSQL {row[3]}."
    )
    args.out.write_text(page(plans, recording))
    for plan in plans:
        if plan.whole_tables and plan.label not in _WHOLE_TABLE:
            print(f"unexplained scan of {', '.join(plan.whole_tables)}: {plan.label}", file=sys.stderr)


if __name__ == "__main__":
    main()
