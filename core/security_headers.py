"""The headers of every response, also of those that the server (web_clients.py) and the proxy (deploy/nginx.conf) write.

A route may send another value: a page its own policy, a public file another caching."""

from __future__ import annotations

SECURITY_HEADERS = (
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    ("Content-Security-Policy", "default-src 'none'; base-uri 'none'; frame-ancestors 'none'"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cache-Control", "private, no-store"),
)
OVER_HTTPS = (*SECURITY_HEADERS, ("Strict-Transport-Security", "max-age=31536000"))  # seconds
