"""Buckets that keep what is deleted."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import re
from html import unescape
from typing import Any


def another_bucket(store: Any, name: str, *, lock_days: int | None = None) -> Any:
    """A new bucket on the same server, where written objects may be locked."""
    bucket = type(store)(dataclasses.replace(store._settings, bucket=name))
    if lock_days is None:
        bucket.ensure_bucket()
        return bucket
    bucket._http.send("lock", "PUT", "", signed={"x-amz-bucket-object-lock-enabled": "true", "Content-Length": "0"})
    retention = f"<Mode>GOVERNANCE</Mode><Days>{lock_days}</Days>"
    configure(
        bucket,
        "object-lock",
        "ObjectLockConfiguration",
        f"<ObjectLockEnabled>Enabled</ObjectLockEnabled><Rule><DefaultRetention>{retention}</DefaultRetention></Rule>",
    )
    return bucket


def set_versioning(bucket: Any, status: str) -> None:
    configure(bucket, "versioning", "VersioningConfiguration", f"<Status>{status}</Status>")


def configure(bucket: Any, kind: str, root: str, content: str) -> None:
    body = f'<{root} xmlns="http://s3.amazonaws.com/doc/2006-03-01/">{content}</{root}>'.encode()
    digest = base64.b64encode(hashlib.md5(body).digest()).decode()
    signed = {"Content-Length": str(len(body)), "Content-MD5": digest}
    bucket._http.send("configure", "PUT", "", query={kind: ""}, signed=signed, body=body)


def versions(bucket: Any) -> list[str]:
    """The keys of all versions and marks of deletions."""
    page = bucket._http.send("versions", "GET", "", query={"versions": ""}).data.decode()
    return [unescape(key) for key in re.findall("<Key>(.*?)</Key>", page)]
