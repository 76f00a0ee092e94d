"""No input causes a 5xx, and every answer fits the document: schemathesis makes requests from it, valid and not."""

from __future__ import annotations

from typing import Any

import pytest
import schemathesis
from flask import Flask
from hypothesis import HealthCheck, Phase, Verbosity, given, settings
from hypothesis import strategies as st
from schemathesis.generation import GenerationMode

from tests.client import GatewayClient
from tests.openapi_check import check_response

EXAMPLES = 12               # for each operation; `make test` is no fuzzing run


def test_no_input_causes_a_5xx(app: Flask, client: GatewayClient, admin: GatewayClient) -> None:
    file = client.add("a.txt", b"some text")["id"]
    folder = client.post("/api/folders", json={"name": "a"}).json["id"]
    schema = schemathesis.openapi.from_dict(client.document)
    seen: dict[str, int] = {}
    for found in schema.get_all_operations():
        operation = found.ok()
        caller = admin if operation.path.startswith("/api/admin") else client
        if operation.path == "/readyz":
            continue                                    # writes to the bucket each time

        @settings(max_examples=EXAMPLES, deadline=None, database=None, derandomize=True, verbosity=Verbosity.quiet,
                  phases=[Phase.generate], suppress_health_check=list(HealthCheck))
        @given(data=st.data())
        def ask(data: Any, operation: Any = operation, caller: GatewayClient = caller) -> None:
            mode = data.draw(st.sampled_from([GenerationMode.POSITIVE, GenerationMode.NEGATIVE]))
            try:
                case = data.draw(operation.as_strategy(generation_mode=mode))
            except Exception as error:
                if type(error).__name__ in ("Unsatisfiable", "InvalidArgument", "SkipTest"):
                    return
                raise
            known = {"file_id": file, "folder_id": folder}
            for name in set(known) & set(case.path_parameters or {}):
                if data.draw(st.booleans()):
                    case.path_parameters[name] = known[name]
            headers = {**(case.headers or {}), "Authorization": f"Bearer {caller.key}"}
            case.headers = headers
            response = case.call(app=app) if False else _call(app, case, headers)
            assert response.status_code < 500, (operation.label, case.as_curl_command(), response.get_data()[:500])
            seen[operation.label] = seen.get(operation.label, 0) + 1
            path = response.request.path
            check_response(
                client.document, case.method, path, response.status_code, response.headers, response.get_data())

        ask()
    assert len(seen) >= 25


def _call(app: Flask, case: Any, headers: dict[str, str]) -> Any:
    kwargs = case.as_transport_kwargs(base_url="http://gateway.test")
    return kwargs


def test_placeholder() -> None:
    pytest.skip("x")
