from __future__ import annotations

import base64
from math import cos, pi

import pytest
from PIL import Image

from parsers.thumbhash import encode, placeholder
from tests.parsers.samples import BLUE, GREEN, RED, WHITE, corners


def decode(data: bytes, size: int = 8) -> Image.Image:
    """Decode a hash as a browser does: the inverse of the format's encoding."""
    head = int.from_bytes(data[:5], "little")
    l_dc, p_dc, q_dc = (head & 63) / 63, (head >> 6 & 63) / 31.5 - 1, (head >> 12 & 63) / 31.5 - 1
    l_scale, p_scale, q_scale = (head >> 18 & 31) / 31, (head >> 27 & 63) / 63, (head >> 33 & 63) / 63
    alpha, side, landscape = head >> 23 & 1, head >> 24 & 7, head >> 39
    lx, ly = ((5 if alpha else 7), side) if landscape else (side, (5 if alpha else 7))
    nibbles = iter([half for byte in data[6 if alpha else 5 :] for half in (byte & 15, byte >> 4)])

    def read(nx: int, ny: int, scale: float) -> list[tuple[int, int, float]]:
        found = []
        for cy in range(ny):
            cx = 0 if cy else 1
            while cx * ny < nx * (ny - cy):
                found.append((cx, cy, (next(nibbles) / 7.5 - 1) * scale))
                cx += 1
        return found

    channels = [
        (l_dc, read(max(3, lx), max(3, ly), l_scale)),
        (p_dc, read(3, 3, p_scale * 1.25)),
        (q_dc, read(3, 3, q_scale * 1.25)),
        ((data[5] & 15) / 15, read(5, 5, (data[5] >> 4) / 15)) if alpha else (1.0, []),
    ]
    image = Image.new("RGBA", (size, size))
    for y in range(size):
        for x in range(size):
            across, down = (x + 0.5) * pi / size, (y + 0.5) * pi / size
            l, p, q, a = (  # noqa: E741
                dc + sum(2 * f * cos(across * cx) * cos(down * cy) for cx, cy, f in waves) for dc, waves in channels
            )
            b = l - 2 / 3 * p
            r = (3 * l - b + q) / 2
            image.putpixel((x, y), tuple(max(0, min(255, round(255 * v))) for v in (r, r - q, b, a)))
    return image


def test_one_colour() -> None:
    pixels = bytes((200, 100, 50, 255)) * 64
    shown = decode(encode(8, 8, pixels)).getpixel((4, 4))
    assert all(abs(a - b) < 12 for a, b in zip(shown, (200, 100, 50, 255), strict=True))  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [(400, 300), (300, 400), (32, 32)])
def test_colours_keep_their_positions(size: tuple[int, int]) -> None:
    shown = decode(base64.b64decode(placeholder(corners(*size))))
    quarters = [shown.getpixel(at)[:3] for at in ((1, 1), (6, 1), (1, 6), (6, 6))]  # type: ignore[index]

    def nearest(pixel: tuple[int, ...]) -> int:
        return min(
            range(4),
            key=lambda at: sum((a - b) ** 2 for a, b in zip(pixel, (RED, GREEN, BLUE, WHITE)[at], strict=True)),
        )

    assert [nearest(pixel) for pixel in quarters] == [0, 1, 2, 3]


def test_transparency() -> None:
    image = Image.new("RGBA", (40, 20), (255, 0, 0, 0))
    image.paste((0, 0, 255, 255), (20, 0, 40, 20))
    shown = decode(base64.b64decode(placeholder(image)))
    assert shown.getpixel((1, 4))[3] < 80 < 180 < shown.getpixel((6, 4))[3]  # type: ignore[index]


def test_hashes_are_small() -> None:
    for size in ((1, 1), (5000, 1), (1, 300), (1000, 1000)):
        assert 5 <= len(base64.b64decode(placeholder(Image.new("RGB", size, RED)))) <= 40
