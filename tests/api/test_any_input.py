"""No input causes a 5xx, and every response matches the OpenAPI document: schemathesis sends valid and invalid requests to a
real server, and all of its checks look at the responses. `make fuzz-api` sends more of them."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, Verbosity, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis.checks import CHECKS, load_all_checks
from schemathesis.core.result import Ok
from schemathesis.generation import GenerationMode

from services import Services
from settings import Settings
from tests.client import GatewayClient
from tests.live import Live

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "3"))  # of each kind per operation
# One writes to the bucket on each call, one defines the requests, one would revoke the key that asks.
ELSEWHERE = ("GET /readyz", "GET /openapi.json", "DELETE /api/admin/keys/{key_id}")
# The last two take any 4xx for valid requests and only some for invalid ones: ``probe`` is more exact.
CHECK_OURSELVES = {"positive_data_acceptance", "negative_data_rejection", "max_response_time"}

_OF_SCHEMAS = re.compile(r"(Input|String|Tuple|Dictionary) should|Field required|Extra inputs")  # pydantic's messages

BOUNDED = hypothesis_settings(
    max_examples=EXAMPLES,
    deadline=None,
    database=None,
    derandomize="FUZZ_EXAMPLES" not in os.environ,
    verbosity=Verbosity.quiet,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture
def live(settings: Settings, services: Services, tmp_path: Path) -> Iterator[Live]:
    server = Live(settings, tmp_path / "server.log", RATE_LIMITS="off")
    server.start()
    yield server
    server.kill()


@pytest.mark.timeout(120 + 60 * EXAMPLES)
@pytest.mark.parametrize("mode", GenerationMode)
def test_no_input_causes_a_5xx(live: Live, client: GatewayClient, admin: GatewayClient, mode: GenerationMode) -> None:
    load_all_checks()
    checks = CHECKS.get_by_names([name for name in CHECKS.get_all_names() if name not in CHECK_OURSELVES])
    known = {
        "file_id": client.add("a.txt", b"some text")["id"],
        "folder_id": client.post("/api/folders", json={"name": "a"}).json["id"],
    }
    asked = set()
    # an operation without input has no invalid input
    no_input = [Unsatisfiable] if mode is GenerationMode.NEGATIVE else []
    for result in schemathesis.openapi.from_url(f"{live.address}/openapi.json").get_all_operations():
        assert isinstance(result, Ok)
        operation = result.ok()
        asked.add(operation.label)
        if operation.label not in ELSEWHERE:
            key = (admin if operation.path.startswith("/api/admin") else client).key
            with contextlib.suppress(*no_input):
                probe(operation.as_strategy(generation_mode=mode), f"Bearer {key}", known, checks, mode)
    described = {f"{method.upper()} {path}" for path, methods in client.document["paths"].items() for method in methods}
    assert asked == described - {"GET /openapi.json"}


def probe(
    cases: st.SearchStrategy[Any], credential: str, known: dict[str, Any], checks: list[Any], mode: GenerationMode
) -> None:
    @BOUNDED
    @given(case=cases, use_known=st.booleans())
    def ask(case: Any, use_known: bool) -> None:
        if use_known and case.path_parameters:
            case.path_parameters |= {name: known[name] for name in case.path_parameters if name in known}
        # Python's HTTP client would take the interim response 104 that this asks for as the final one.
        case.headers.pop("Upload-Draft-Interop-Version", None)
        response = case.call(headers={"Authorization": credential}, allow_redirects=False)
        case.validate_response(response, checks=checks)
        if mode is GenerationMode.POSITIVE and response.status_code == 400:
            # Names, cursors and headers can be wrong in more ways than a schema tells; what it tells must be right.
            messages = [error["message"] for error in response.json().get("errors", ())]
            integers = any("a valid integer" in message for message in messages)  # 5.0 is one in a JSON schema
            broken = [message for message in messages if _OF_SCHEMAS.match(message) and not integers]
            assert not broken, (case.as_curl_command()[-500:], broken)

    ask()
