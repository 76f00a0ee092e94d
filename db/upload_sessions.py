"""Upload sessions: several uploads that a client shows as one. Opened by ``uploads.admit``, counted as files appear."""

from __future__ import annotations
