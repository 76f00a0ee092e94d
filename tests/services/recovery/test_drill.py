"""The recovery drill (T122): back up while files come and go, change more, lose everything, restore by command, compare."""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

import pytest

import commands
from app import create_app
from core.principal import Principal
from services.recovery import backup
from tests.client import GatewayClient
from tests.services.recovery.test_restore import IDENTITY, Deployment, beside, key, origin, sound
from tests.services.uploads.test_intake import upload

__all__ = ["beside", "key", "origin"]


class Client:
    """Uploads, renames and purges, and keeps a ledger of what was answered: name -> bytes."""

    def __init__(self, deployment: Deployment, key: str, name: str):
        self._http = GatewayClient(create_app(deployment.settings, deployment.services), key)
        self._name = name
        self._ids: dict[str, str] = {}
        self.kept: dict[str, bytes] = {}
        self.purged: set[str] = set()

    def step(self, number: int) -> None:
        name, data = f"{self._name}-{number}.txt", f"{self._name} {number} ".encode() * (number + 1)
        self._ids[name] = self._http.add(name, data)["id"]
        self.kept[name] = data
        if number % 3 == 1:
            self.purge(number - 1)
        if number % 3 == 2:
            self._http.patch(f"/api/files/{self._ids[name]}", json={"original_name": f"renamed-{name}"})
            self.kept[f"renamed-{name}"] = self.kept.pop(name)

    def purge(self, number: int) -> None:
        name = f"{self._name}-{number}.txt"
        assert self._http.delete(f"/api/files/{self._ids[name]}?permanent=true").status == 200
        del self.kept[name]
        self.purged.add(name)


@pytest.fixture
def clients(origin: Deployment, key: str) -> list[Client]:
    clients = [Client(origin, key, name) for name in ("left", "right")]
    for client in clients:
        for number in range(12):
            client.step(number)
    return clients


@pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "encrypted"])
def test_T122_the_drill(
    origin: Deployment,
    beside: Deployment,
    key: str,
    clients: list[Client],
    encrypted: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = [(dict(client.kept), set(client.purged)) for client in clients]
    settings = origin.settings.model_copy(update={"backup_to": str(tmp_path / "repository")})
    if encrypted:
        identity = tmp_path / "identity.txt"
        identity.write_text(f"{IDENTITY}\n")
        given = {"backup_recipients": (str(IDENTITY.to_public()),), "backup_identity_file": identity}
        settings = settings.model_copy(update=given)
    taken, changed = Event(), Event()
    send_all = backup._Run._send_all

    def send_after_changes(run: Any, *arguments: Any) -> None:
        """The snapshot is taken and no byte is sent: now files go that it names."""
        taken.set()
        assert changed.wait(60)
        send_all(run, *arguments)

    monkeypatch.setattr(backup._Run, "_send_all", send_after_changes)
    with ThreadPoolExecutor() as threads:
        made = threads.submit(commands.run, ["backup", "--json"], settings)
        try:
            assert taken.wait(60)
            for client in clients:
                for number in range(12, 30):
                    client.step(number)
                for number in (1, 4, 7, 10):  # which the snapshot names
                    client.purge(number)
            origin.services.janitor.run()
        finally:
            changed.set()
        assert made.result(60) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report["damaged"] == 0 and report["encrypted"] is encrypted
    origin.services.janitor.run()  # finishes the purges
    upload(origin.services, Principal("alice"), "later.txt", b"after the backup")

    lost = settings.model_copy(update={name: getattr(beside.settings, name) for name in ("database_url", "s3_bucket")})
    assert commands.run(["restore", "--json"], lost) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["written"] == report["objects"]

    files = [value for value in beside.seen(key).values() if isinstance(value, tuple)]
    found = {details["original_name"]: (details, content) for details, content, _ in files}
    for kept, purged in before:
        assert kept.keys() <= found.keys()
        assert all(found[name][1] == data for name, data in kept.items())
        assert not purged & found.keys()
    assert "later.txt" not in found
    for details, content in found.values():
        assert hashlib.sha256(content).hexdigest() == details["file_hash"]
    sound(beside)
