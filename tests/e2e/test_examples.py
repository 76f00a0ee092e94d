"""The examples/ for users. The plain client of test_browser.py tests examples/plain.html."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from collections.abc import Callable
from email.message import Message
from pathlib import Path
from typing import Any
from unittest.mock import Mock
from urllib.error import HTTPError
from urllib.parse import urlencode

import pytest

from tests.e2e.conftest import Owner, made
from tests.paths import ROOT

MIB = 1024 * 1024
EXAMPLES = ROOT / "examples"


def test_examples_are_short() -> None:
    assert {path.name for path in EXAMPLES.iterdir() if path.is_file()} == {"plain.html", "uppy.html", "resume.py"}
    for path in EXAMPLES.iterdir():
        if path.is_file():
            assert len(path.read_text().splitlines()) < 80, path


@pytest.mark.needs_chromium
def test_the_uppy_page(owner: Owner, page: Any, bundled: Callable[[int], None], tmp_path: Path) -> None:
    bundled(6)

    def package(route: Any) -> None:
        name = "AwsS3" if "aws-s3" in route.request.url else "Uppy"
        module = f"export {{ {name} as default }} from '{owner.live.page}/bundle/6.js'"
        headers = {"Access-Control-Allow-Origin": "*"}
        route.fulfill(body=module, content_type="text/javascript", headers=headers)

    page.route("https://esm.sh/**", package)
    settings = urlencode({"gateway": owner.live.url, "token": owner.token})
    page.goto(f"{owner.live.page}/uppy.html#{settings}")
    paths = [made(tmp_path, "small.txt", 1000), made(tmp_path, "large.bin", 17 * MIB)]
    page.wait_for_load_state("networkidle")
    page.set_input_files("#files", paths)
    for path in paths:
        page.wait_for_function("text => document.body.innerText.includes(text)", arg=f"{path.name} is there: ")
    files = owner.ready(*paths)
    assert all(file["tags"] == ["from the website"] for file in files)


def test_the_script_resumes_after_it_was_killed(owner: Owner, tmp_path: Path) -> None:
    path = made(tmp_path, "film.bin", 20 * MIB)
    environ = {**os.environ, "GATEWAY": owner.live.url, "KEY": owner.key, "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, str(EXAMPLES / "resume.py"), str(path)]
    with subprocess.Popen(command, env=environ, stderr=subprocess.PIPE, text=True) as first:
        assert first.stderr is not None
        assert first.stderr.readline() == "part 1 of 3\n"
        first.kill()
    [upload] = owner.client.get("/api/uploads").json["items"]
    again = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60)
    assert again.returncode == 0, again.stderr
    assert "part 1 of 3" not in again.stderr
    [file] = owner.ready(path)
    assert again.stdout == f"film.bin is file {file['id']}\n"
    done = owner.client.get(f"/api/uploads/{upload['id']}").json
    assert (done["status"], done["file_id"]) == ("done", file["id"])


def test_the_script_goes_on_if_only_the_buckets_answer_was_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEWAY", "")
    monkeypatch.setenv("KEY", "")
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    lost = [ConnectionResetError(), HTTPError("", 412, "Precondition Failed", Message(), None)]
    monkeypatch.setattr("urllib.request.urlopen", Mock(side_effect=lost))
    assert runpy.run_path(str(EXAMPLES / "resume.py"))["request"]("PUT", "http://bucket/", b"1") == b""


def test_the_script_with_an_empty_file(owner: Owner, tmp_path: Path) -> None:
    path = made(tmp_path, "空.txt", 0)
    environ = {**os.environ, "GATEWAY": owner.live.url, "KEY": owner.token}
    subprocess.run([sys.executable, str(EXAMPLES / "resume.py"), str(path)], env=environ, check=True, timeout=60)
    owner.ready(path)
