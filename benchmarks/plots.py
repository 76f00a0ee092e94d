"""Two kinds of plots, as SVG: stacked bars of processor time, and its growth on logarithmic axes."""

from __future__ import annotations

import math
from html import escape
from typing import Any

_GROUPS = {"server": "#3b6ea5", "worker": "#7fb3d5", "postgres": "#d98032", "bucket": "#8a8f98"}
_LINES = ("#3b6ea5", "#d98032", "#3a9a5b", "#b5446e", "#7a5ea8", "#8a6d3b", "#4b5563", "#c0392b")
_NAMES = {"postgres": "PostgreSQL", "bucket": "SeaweedFS"}


def _svg(width: int, height: int, parts: list[str]) -> str:
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="12">'
    return "\n".join([head, f'<rect width="{width}" height="{height}" fill="white"/>', *parts, "</svg>", ""])


def _text(x: float, y: float, text: str, anchor: str = "start", colour: str = "#222") -> str:
    return f'<text x="{x:.0f}" y="{y:.0f}" text-anchor="{anchor}" fill="{colour}">{escape(text)}</text>'


def _box(x: float, y: float, width: float, height: float, colour: str) -> str:
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height}" fill="{colour}"/>'


def bars(scenarios: dict[str, dict[str, dict[str, Any]]]) -> str:
    """CPU ms of an operation: a bar for each target of each scenario, divided by group of processes."""
    left, width, bar, parts, y = 330, 900, 12, list[str](), 34
    longest = max((row["cpu_ms"][0] for rows in scenarios.values() for row in rows.values()), default=1)
    scale = (width - left - 80) / longest
    for at, (name, colour) in enumerate(_GROUPS.items()):
        parts += [_box(left + 110 * at, 8, 12, 12, colour), _text(left + 110 * at + 18, 18, _NAMES.get(name, name))]
    for rows in scenarios.values():
        parts.append(_text(8, y + 11, next(iter(rows.values()))["title"]))
        for target, row in rows.items():
            parts.append(_text(left - 6, y + 11, target, "end", "#666"))
            x = float(left)
            for name, colour in _GROUPS.items():
                part = row["cpu_ms_by_group"].get(name, 0) * scale
                parts.append(_box(x, y, part, bar, colour))
                x += part
            parts.append(_text(x + 5, y + 11, f"{row['cpu_ms'][0]:.2f} ms"))
            y += bar + 3
        y += 7
    return _svg(width, y, parts)


def lines(found: dict[str, list[dict[str, Any]]], axis: str, title: str) -> str:
    """CPU ms of an operation over rows or connections: a line for each scenario."""
    left, top, width, height, parts = 60, 20, 560, 320, list[str]()
    values = [row[axis] for row in next(iter(found.values()))]
    times = [max(0.01, row["cpu_ms"][0]) for rows in found.values() for row in rows]
    low, high = math.floor(math.log10(min(times))), math.ceil(math.log10(max(times)))
    span = math.log(values[-1] / values[0]) or 1

    def place(value: float, time: float) -> tuple[float, float]:
        up = (math.log10(max(0.01, time)) - low) / max(1, high - low)
        return left + math.log(value / values[0]) / span * width, top + height * (1 - up)

    for power in range(low, high + 1):
        y = place(values[0], 10.0**power)[1]
        parts.append(f'<path d="M{left} {y:.0f}h{width}" stroke="#ddd"/>')
        parts.append(_text(left - 6, y + 4, f"{10.0**power:g} ms", "end"))
    parts += [_text(place(value, 1)[0], top + height + 18, f"{value:,}", "middle") for value in values]
    parts.append(_text(left + width / 2, top + height + 38, title, "middle"))
    for number, (name, rows) in enumerate(found.items()):
        colour, y = _LINES[number % len(_LINES)], top + 22 * number
        points = [place(row[axis], row["cpu_ms"][0]) for row in rows]
        path = " ".join(f"{x:.0f},{up:.0f}" for x, up in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{x:.0f}" cy="{up:.0f}" r="3" fill="{colour}"/>' for x, up in points]
        parts += [_box(left + width + 24, y, 12, 12, colour), _text(left + width + 42, y + 11, name)]
    return _svg(left + width + 400, top + height + 50, parts)
