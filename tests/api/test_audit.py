"""Audit events of requests."""

from __future__ import annotations

from typing import Any

from api.openapi import operations


def test_T125_each_route_that_changes_anything_says_what_is_recorded(app: Any) -> None:
    silent = [
        f"{method} {rule.rule}"
        for rule, method, operation in operations(app)
        if method not in ("GET", "HEAD", "OPTIONS") and operation.audit is None
    ]
    assert not silent
