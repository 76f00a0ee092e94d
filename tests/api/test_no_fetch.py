"""No request makes the gateway open a connection to an address that the client chose."""

from __future__ import annotations

import selectors
import socket
from typing import Any
from urllib.parse import quote, urlencode

from tests.client import GatewayClient


def test_T68_no_address_in_a_request_is_fetched(client: GatewayClient, admin: GatewayClient) -> None:
    file_id = client.add("a.txt", b"some text")["id"]
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}/x"
        document, asked = client.document, 0
        for path, methods in document["paths"].items():
            for method, operation in methods.items():
                names: dict[str, list[str]] = {"path": [], "query": [], "header": []}
                for parameter in operation["parameters"]:
                    names[parameter["in"]].append(parameter["name"])
                target = path
                for name in names["path"]:
                    target = target.replace(f"{{{name}}}", file_id if name == "file_id" else quote(address, safe=""))
                headers = dict.fromkeys(names["header"], address) | {
                    "Host": address.split("/")[2],
                    "Referer": address,
                    "Origin": address,
                    "X-Forwarded-Host": address,
                    "Upload-Concat": f"final;{address}/api/tus/{file_id}",
                    "Tus-Resumable": "1.0.0",
                }
                caller = admin if path.startswith("/api/admin") else client
                caller.request(
                    method.upper(),
                    f"{target}?{urlencode(dict.fromkeys(names['query'], address))}",
                    headers=headers,
                    json=_body(document, operation, address),
                )
                asked += 1
        assert asked > 60
        with selectors.DefaultSelector() as selector:
            selector.register(server, selectors.EVENT_READ)
            assert selector.select(0.5) == []


def _body(document: dict[str, Any], operation: dict[str, Any], address: str) -> Any:
    """A body with the address in each text."""
    content = operation.get("requestBody", {}).get("content", {}).get("application/json")
    if content is None or "$ref" not in content["schema"]:
        return None
    schema = document["components"]["schemas"][content["schema"]["$ref"].rpartition("/")[2]]
    texts = {name for name, value in schema["properties"].items() if "string" in str(value)}
    required = set(schema.get("required", ()))
    return {name: address if name in texts else 1 for name in sorted(texts | required)}
