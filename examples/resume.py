#!/usr/bin/env python3
"""Upload a file directly to the bucket, and resume after a lost network, a crash or a reboot.

    GATEWAY=https://uploads.example.com KEY=gw_... python resume.py film.mkv

Start it again with the same file, and it sends only the missing parts. It needs only Python's standard library.
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
    """Send a request; retry with growing pauses while the network is down or the server is busy."""
    for wait in (0, 1, 2, 5, 10, 20, 40, 60):
        time.sleep(wait)
        try:
            req = urllib.request.Request(url, data=body, method=method, headers=dict(headers))
            with urllib.request.urlopen(req, timeout=120) as response:
                return response.read()
        except OSError as error:
            if isinstance(error, urllib.error.HTTPError) and error.code == 412:
                return b""  # the bytes are there: only the answer was lost
            if isinstance(error, urllib.error.HTTPError) and error.code < 500 and error.code != 429:
                raise
            problem = error
        print(f"{problem}; trying again", file=sys.stderr)
    raise SystemExit("gave up; start the script again to resume")


def api(method, path, document=None):
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
    body = json.dumps(document).encode() if document is not None else None
    return json.loads(request(method, f"{GATEWAY}/api/uploads{path}", body, headers) or "null")


def main(path):
    size, state = path.stat().st_size, path.with_name(path.name + ".upload")  # contains the upload's id
    upload = None
    if state.exists():
        try:
            upload = api("GET", f"/{state.read_text()}")
        except urllib.error.HTTPError as error:
            print(f"the earlier upload is gone ({error.code})", file=sys.stderr)
    if upload is None or upload["status"] in ("aborted", "expired") or upload["size"] != size:
        upload = api("POST", "", {"filename": path.name, "size": size})
        upload["missing"] = [[1, upload["part_count"]]]
        state.write_text(upload["id"])
    numbers = [number for first, last in upload["missing"] for number in range(first, last + 1)]
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for start in range(0, len(numbers), 10):
            wanted = {"part_numbers": numbers[start : start + 10]}
            for part in api("POST", f"/{upload['id']}/parts", wanted)["parts"]:
                file.seek((part["part_number"] - 1) * upload["part_size"])
                request("PUT", part["url"], file.read(upload["part_size"]), part["headers"] or {})
                print(f"part {part['part_number']} of {numbers[-1]}", file=sys.stderr)
        file.seek(0)
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    file_made = api("POST", f"/{upload['id']}/complete", {"sha256": digest.hexdigest()})
    state.unlink()
    print(f"{file_made['original_name']} is file {file_made['id']}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
