#!/usr/bin/env python3
"""Upload a file straight to the bucket, and go on after anything: a lost network, a crash, a reboot.

    GATEWAY=https://uploads.example.com KEY=gw_... python resume.py film.mkv

Start it again with the same file and it sends only the parts that are missing. Only Python's standard library is needed.
"""

import hashlib
import json
import os
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

GATEWAY, KEY = os.environ["GATEWAY"].rstrip("/"), os.environ["KEY"]


def request(method, url, body=None, headers=()):
    """One request; tried again, ever more slowly, while there is no network or the server is busy."""
    for wait in (0, 1, 2, 5, 10, 20, 40, 60):
        time.sleep(wait)
        try:
            asked = urllib.request.Request(url, data=body, method=method, headers=dict(headers))
            with urllib.request.urlopen(asked, timeout=120) as answer:
                return answer.read()
        except urllib.error.HTTPError as error:
            if error.code < 500 and error.code != 429:
                raise
            problem = error
        except OSError as error:
            problem = error
        print(f"{problem}; trying again", file=sys.stderr)
    raise SystemExit("gave up; start it again to go on")


def api(method, path, document=None):
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
    body = json.dumps(document).encode() if document is not None else None
    return json.loads(request(method, f"{GATEWAY}/api/uploads{path}", body, headers) or "null")


def main(path):
    size, note = path.stat().st_size, path.with_name(path.name + ".upload")  # the note holds the upload's id
    upload = None
    if note.exists():
        try:
            upload = api("GET", f"/{note.read_text()}")
        except urllib.error.HTTPError as error:
            print(f"the old upload is gone ({error.code})", file=sys.stderr)
    if upload is None or upload["status"] in ("aborted", "expired") or upload["size"] != size:
        upload = api("POST", "", {"filename": path.name, "size": size})
        upload["missing"] = [[1, upload["part_count"]]]
        note.write_text(upload["id"])
    numbers = [number for first, last in upload["missing"] for number in range(first, last + 1)]
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for start in range(0, len(numbers), 10):
            asked = {"part_numbers": numbers[start : start + 10]}
            for part in api("POST", f"/{upload['id']}/parts", asked)["parts"]:
                file.seek((part["part_number"] - 1) * upload["part_size"])
                request("PUT", part["url"], file.read(upload["part_size"]), part["headers"] or {})
                print(f"part {part['part_number']} of {numbers[-1]}", file=sys.stderr)
        file.seek(0)
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    made = api("POST", f"/{upload['id']}/complete", {"sha256": digest.hexdigest()})
    note.unlink()
    print(f"{made['original_name']} is file {made['id']}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
