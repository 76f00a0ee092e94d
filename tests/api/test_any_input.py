"""No input causes a 5xx, and every response matches the OpenAPI document: schemathesis generates valid and invalid requests."""

from __future__ import annotations

import contextlib
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
import schemathesis
from flask import Flask
from hypothesis import HealthCheck, Phase, Verbosity, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from requests.structures import CaseInsensitiveDict
from schemathesis.core.result import Ok
from schemathesis.generation import GenerationMode

from tests.client import GatewayClient
from tests.openapi_check import check_response

EXAMPLES = 8  # of each kind per operation; a test run is not a fuzzing campaign
ELSEWHERE = ("/readyz", "/openapi.json")  # one writes to the bucket on each call; the other defines the requests


BOUNDED = settings(
    max_examples=EXAMPLES,
    deadline=None,
    database=None,
    derandomize=True,
    verbosity=Verbosity.quiet,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@pytest.mark.parametrize("mode", GenerationMode)
def test_no_input_causes_a_5xx(
    app: Flask, client: GatewayClient, admin: GatewayClient, mode: GenerationMode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.access.keys.CACHED", 0.0)  # a revocation waits so long
    known = {
        "file_id": client.add("a.txt", b"some text")["id"],
        "folder_id": client.post("/api/folders", json={"name": "a"}).json["id"],
    }
    asked = set()
    no_input = (
        [Unsatisfiable] if mode is GenerationMode.NEGATIVE else []
    )  # an operation without input has no invalid input
    for result in schemathesis.openapi.from_wsgi("/openapi.json", app).get_all_operations():
        assert isinstance(result, Ok)
        operation = result.ok()
        if operation.path in ELSEWHERE:
            continue
        asked.add(operation.label)
        caller = admin if operation.path.startswith("/api/admin") else client
        with contextlib.suppress(*no_input):
            probe(operation.as_strategy(generation_mode=mode), caller, known)
    described = {f"{method.upper()} {path}" for path, methods in client.document["paths"].items() for method in methods}
    assert asked == {label for label in described if label.split()[1] not in ELSEWHERE}


def probe(cases: st.SearchStrategy[Any], caller: GatewayClient, known: dict[str, Any]) -> None:
    @BOUNDED
    @given(case=cases, use_known=st.booleans())
    def ask(case: Any, use_known: bool) -> None:
        if use_known and case.path_parameters:
            case.path_parameters |= {name: known[name] for name in case.path_parameters if name in known}
        response = case.call(headers={"Authorization": f"Bearer {caller.key}"})
        headers = CaseInsensitiveDict({name: values[0] for name, values in response.headers.items()})
        assert response.status_code < 500, (case.as_curl_command(), response.text[:500])
        path = unquote(urlsplit(response.request.url).path)
        check_response(caller.document, case.method, path, response.status_code, headers, response.content)

    ask()
