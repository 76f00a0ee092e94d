"""After a drill: what was acknowledged is there, what was deleted is gone, rows and bucket agree, and nothing is left."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import requests

from db import counters
from tests.client import GatewayClient
from tests.drills.deployment import Deployment
from tests.drills.ledger import Entry, Ledger
from tests.drills.load import compare
from tests.servers import SIGNING_KEY

MIB = 1024 * 1024
QUIET = 180.0  # seconds until all jobs must be done
MORE_MEMORY = (1.3, 48 * MIB)  # a process may have grown by this factor and these bytes
MORE_CONNECTIONS = 12  # pools open some more under load, and close them a minute later
_STORED = """
select object_key from objects where status = 'stored'
union select preview_path from file_previews
union select public_key from objects where public_key is not null
"""
# What waits for a time that has not come; the drill does not wait for it.
_LET_TIME_PASS = (
    "update uploads set expires_at = now() - interval '1 minute' where status not in ('done', 'aborted', 'expired')",
    "update uploads set updated_at = now() - interval '1 hour' where status <> 'done'",
    "update deferred_deletions set delete_after = now() - interval '1 minute' where delete_after > now()",
)


def wait_until_quiet(deployment: Deployment, ledger: Ledger) -> None:
    """Until no job waits or runs, no file is processing and no upload is being completed."""
    deadline = time.monotonic() + QUIET
    while left := unfinished(deployment):
        if time.monotonic() > deadline:
            ledger.finding("work that does not end", left=left)
            return
        time.sleep(0.3)


def unfinished(deployment: Deployment) -> dict[str, Any]:
    """What still has to be done, by kind."""
    found = {
        "jobs": "select id, task_name, status::text, attempts, args::text from procrastinate_jobs"
        " where status in ('todo', 'doing') and (scheduled_at is null or task_name in ('check_file', 'process_file'))",
        "processing": "select id::text from files where status = 'processing'",
        "completing": "select id::text, status from uploads where status = 'completing'",
    }
    rows = {name: deployment.sql(statement + " limit 5") for name, statement in found.items()}
    return {name: some for name, some in rows.items() if some}


def audit(deployment: Deployment, ledger: Ledger, keys: dict[str, str]) -> None:
    """Let all work end, and add all that is wrong to the ledger's findings. ``keys``: a key of each owner."""
    wait_until_quiet(deployment, ledger)
    _run_janitor(deployment, ledger)
    wait_until_quiet(deployment, ledger)
    look(deployment, ledger, keys)


def look(deployment: Deployment, ledger: Ledger, keys: dict[str, str], *, patience: float = 30.0) -> None:
    """``audit`` without the janitor, who repairs something. ``patience``: seconds until rows and bucket must agree."""
    for web in deployment.webs:
        if not web.ready():
            ledger.finding("not ready", web=web.url, answer=requests.get(f"{web.url}/readyz", timeout=10).text)
    _files(deployment, ledger, keys)
    _rows_and_bucket(deployment, ledger, patience)
    _jobs(deployment, ledger)
    _logs(deployment, ledger)


def _run_janitor(deployment: Deployment, ledger: Ledger) -> None:
    """The first run as it is; then what later runs would do, with time moved on."""
    with deployment.services() as services:
        report = services.janitor.run()
        if report.corrected_counters:
            ledger.finding("counters were wrong", report=report.as_dict())
    for statement in _LET_TIME_PASS:
        deployment.sql(statement)
    # Those that a killed process has written under; running ones still use the others.
    stems = [info.key.partition(".")[0] for info in deployment.store().list_objects("")]
    deployment.sql("update reserved_keys set expires_at = now() - interval '1 minute' where stem = any(%s)", stems)
    with deployment.services(aged=True) as services:
        for _ in range(3):  # what one ends, the next removes
            services.janitor.run()


def _files(deployment: Deployment, ledger: Ledger, keys: dict[str, str]) -> None:
    """Each file by both ways, each deletion, and no file that nobody was told of."""
    url = deployment.webs[0].url
    clients = {owner: GatewayClient(url, key, check=False) for owner, key in keys.items()}
    for owner, client in clients.items():
        known = {entry.id for entry in ledger.entries.values() if entry.owner == owner and entry.state != "purged"}
        there = {file["id"]: file for trash in ("false", "true") for file in _listed(client, f"deleted={trash}")}
        for unknown in there.keys() - known:
            made = deployment.sql("select protocol, status from uploads where file_id = %s", unknown)
            shown = {name: there[unknown][name] for name in ("original_name", "uploaded_at", "status", "is_deleted")}
            ledger.finding("a file that nobody was told of", file=unknown, upload=made, **shown)
        if lost := known - there.keys():
            ledger.finding("files are in no list", owner=owner, files=sorted(lost))
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda entry: _file(ledger, url, keys[entry.owner], entry), list(ledger.entries.values())))


def _listed(client: GatewayClient, query: str) -> Iterator[dict[str, Any]]:
    cursor = ""
    while True:
        page = client.get(f"/api/files?limit=200&{query}{cursor}").json
        yield from page["items"]
        if page["next_cursor"] is None:
            return
        cursor = f"&cursor={page['next_cursor']}"


def _file(ledger: Ledger, url: str, key: str, entry: Entry) -> None:
    client = GatewayClient(url, key, check=False)
    answer = client.get(f"/api/files/{entry.id}")
    if entry.state == "purged":
        if answer.status != 404:
            ledger.finding("a purged file is there", file=entry.id, status=answer.status)
        return
    if answer.status != 200:
        ledger.finding("an acknowledged file is not there", file=entry.id, status=answer.status)
        return
    compare(ledger, entry, answer.json)
    if answer.json["status"] != "ready" or answer.json["file_hash"] != entry.sha256:
        found = {name: answer.json[name] for name in ("status", "problem", "file_hash")}
        ledger.finding("an acknowledged file is not ready with its hash", file=entry.id, **found)
    if entry.state == "trashed":
        client.post(f"/api/files/{entry.id}/restore")
        entry.state = "here"
    for way in ("proxy", "redirect"):
        answer = client.get(f"/api/files/{entry.id}/download?mode={way}")
        status, body = answer.status, answer.body
        if status == 302:
            found_there = requests.get(answer.headers["Location"], timeout=60)
            status, body = found_there.status_code, found_there.content
        if status != 200 or hashlib.sha256(body).hexdigest() != entry.sha256:
            ledger.finding("an acknowledged file can't be read", file=entry.id, way=way, status=status, body=body[:200])


def _rows_and_bucket(deployment: Deployment, ledger: Ledger, patience: float) -> None:
    store, deadline = deployment.store(), time.monotonic() + patience
    while (found := _differing(deployment, store)) and time.monotonic() < deadline:
        time.sleep(1)  # a worker may be replacing an object in this moment
    for name, some in found.items():
        ledger.finding(name, count=len(some), first=some[:5])
    with deployment.services() as services, services.db.transaction() as tx:
        if wrong := counters.differences(tx):
            ledger.finding("counters differ from what they count", first=wrong[:5])


def _differing(deployment: Deployment, store: Any) -> dict[str, list[Any]]:
    """By kind, what is in only one of database and bucket, or should have ended."""

    def column(statement: str) -> list[str]:
        return [row[0] for row in deployment.sql(statement)]

    before = set(column(_STORED))
    keys = {info.key for info in store.list_objects("")}
    after, deferred = set(column(_STORED)), column("select object_key from deferred_deletions")
    kinds = {
        "objects without a row": sorted(keys - after - {*deferred}),
        "rows without an object": sorted((before & after) - keys),
        "multiparts": [ref.key for ref in store.list_multiparts("")],
        "purging": column("select object_key from objects where status = 'purging'"),
        "deferred deletions": deferred,
        "uploads": column("select id::text from uploads where status <> 'done' and not cleaned"),
        "reservations": column("select owner_id from owner_usage where (reserved_bytes, reserved_files) <> (0, 0)"),
    }
    return {kind: some for kind, some in kinds.items() if some}


def _jobs(deployment: Deployment, ledger: Ledger) -> None:
    failed = deployment.sql(
        "select id, task_name, args::text, error from procrastinate_jobs where status = 'failed' limit 5"
    )
    if failed:
        ledger.finding("failed jobs", jobs=failed)


def _logs(deployment: Deployment, ledger: Ledger) -> None:
    """No traceback, and no secret in any form."""
    password = re.search(r":([^:@]*)@", deployment.servers.database_url)
    assert password is not None
    secrets = {SIGNING_KEY, deployment.admin_key, deployment.servers.secret_key, password[1]}
    for log in deployment.directory.glob("*.log"):
        text = log.read_text(errors="replace")
        if found := [secret[:4] + "…" for secret in secrets if secret in text] + re.findall(r"\bgw_\w{6}", text)[:1]:
            ledger.finding("a secret in a log", log=log.name, secrets=found)
        lines = [line for line in text.splitlines() if "Traceback (most recent call last)" in line]
        if lines:
            ledger.finding("a traceback in a log", log=log.name, count=len(lines), first=lines[0][:1500])


def resources(deployment: Deployment) -> dict[str, int]:
    """What a drill must leave as it was."""
    return {**deployment.resident(), "connections": deployment.connections()}


def compare_resources(ledger: Ledger, before: dict[str, int], after: dict[str, int]) -> None:
    for name in ("web", "worker"):
        if after[name] > before[name] * MORE_MEMORY[0] + MORE_MEMORY[1]:
            ledger.finding("memory has grown", process=name, before=before[name] // MIB, after=after[name] // MIB)
    if after["connections"] > before["connections"] + MORE_CONNECTIONS:
        ledger.finding("connections are left", before=before["connections"], after=after["connections"])
