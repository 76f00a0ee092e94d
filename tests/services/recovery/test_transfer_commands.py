"""The commands import and export, as a person calls them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import commands
from services import Services
from settings import Settings


def test_import_and_export_report_as_json_and_by_their_status(
    settings: Settings, services: Services, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.txt").write_text("a")
    assert commands.run(["import", str(tmp_path / "in"), "--owner", "alice", "--json"], settings) == 0
    assert json.loads(capsys.readouterr().out)["files"] == 1
    (tmp_path / "in" / "...").write_text("b")
    assert commands.run(["import", str(tmp_path / "in"), "--owner", "alice", "--json"], settings) == 1
    report = json.loads(capsys.readouterr().out)
    assert (report["present"], report["failed"], report["problems"][0]["code"]) == (1, 1, "invalid_name")
    assert commands.run(["export", str(tmp_path / "out"), "--owner", "alice"], settings) == 0
    assert (tmp_path / "out" / "a.txt").read_text() == "a"
    assert commands.run(["import", str(tmp_path / "none"), "--owner", "alice"], settings) == 2


def test_copy_storage_says_what_its_file_lacks(
    settings: Settings, services: Services, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "other.env").write_text("S3_ENDPOINT=http://127.0.0.1:1\nS3_BUCKET=b\n")
    assert commands.run(["copy-storage", "--to", str(tmp_path / "other.env")], settings) == 1
    assert "S3_ACCESS_KEY, S3_SECRET_KEY" in capsys.readouterr().err
