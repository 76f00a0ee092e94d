"""ThumbHash: a placeholder of some 25 bytes, shown until the picture is loaded (https://evanw.github.io/thumbhash/).

The picture is split into brightness, two colour differences and, if it has any, transparency. Of each, the lowest
frequencies of its cosine transform are kept, the average in six bits and the others in four.
"""

from __future__ import annotations

import base64
from math import cos, pi

from PIL import Image
from PIL.Image import Resampling

_EDGE = 32  # pixels; a larger picture gives the same hash


def placeholder(image: Image.Image) -> str:
    """The ThumbHash of an RGB or RGBA image, in base64."""
    small = image.convert("RGBA")
    small.thumbnail((_EDGE, _EDGE), Resampling.BILINEAR)
    return base64.b64encode(encode(small.width, small.height, small.tobytes())).decode()


def encode(width: int, height: int, rgba: bytes) -> bytes:
    """``rgba``: width x height pixels of four bytes, alpha not premultiplied."""
    pixels = [
        (rgba[i] / 255, rgba[i + 1] / 255, rgba[i + 2] / 255, rgba[i + 3] / 255)
        for i in range(0, 4 * width * height, 4)
    ]
    opaque = sum(a for *_, a in pixels)
    has_alpha = opaque < len(pixels)
    average = [sum(pixel[i] * pixel[3] for pixel in pixels) / (opaque or 1) for i in range(3)]
    light, yellow_blue, red_green, alpha = [], [], [], []
    for *colour, a in pixels:  # on the average colour, so that transparent pixels cost no detail
        r, g, b = (value * a + mean * (1 - a) for value, mean in zip(colour, average, strict=True))
        light.append((r + g + b) / 3)
        yellow_blue.append((r + g) / 2 - b)
        red_green.append(r - g)
        alpha.append(a)

    longest, limit = max(width, height), 5 if has_alpha else 7
    lx, ly = (max(1, _round(limit * side / longest)) for side in (width, height))
    l_dc, l_ac, l_scale = _transform(light, width, height, max(3, lx), max(3, ly))
    p_dc, p_ac, p_scale = _transform(yellow_blue, width, height, 3, 3)
    q_dc, q_ac, q_scale = _transform(red_green, width, height, 3, 3)
    landscape = width > height
    head = (
        _round(63 * l_dc)
        | _round(31.5 + 31.5 * p_dc) << 6
        | _round(31.5 + 31.5 * q_dc) << 12
        | _round(31 * l_scale) << 18
        | has_alpha << 23
        | (ly if landscape else lx) << 24
        | _round(63 * p_scale) << 27
        | _round(63 * q_scale) << 33
        | landscape << 39
    )
    out = bytearray(head.to_bytes(5, "little"))
    coefficients = l_ac + p_ac + q_ac
    if has_alpha:
        a_dc, a_ac, a_scale = _transform(alpha, width, height, 5, 5)
        out.append(_round(15 * a_dc) | _round(15 * a_scale) << 4)
        coefficients += a_ac
    nibbles = [_round(15 * value) for value in coefficients]
    nibbles += [0] * (len(nibbles) % 2)
    out += bytes(low | high << 4 for low, high in zip(nibbles[::2], nibbles[1::2], strict=True))
    return bytes(out)


def _transform(channel: list[float], width: int, height: int, nx: int, ny: int) -> tuple[float, list[float], float]:
    """The average, the other frequencies scaled to 0…1, and the scale, for the corner at (0, 0) of nx x ny frequencies."""
    across = [[cos(pi / width * cx * (x + 0.5)) for x in range(width)] for cx in range(nx)]
    rows = [channel[y * width : (y + 1) * width] for y in range(height)]
    summed = [[sum(map(float.__mul__, row, wave)) for row in rows] for wave in across]
    average, found = 0.0, []
    for cy in range(ny):
        down = [cos(pi / height * cy * (y + 0.5)) for y in range(height)]
        for cx in range(nx):
            if cx * ny >= nx * (ny - cy):
                break
            value = sum(map(float.__mul__, summed[cx], down)) / (width * height)
            if cx or cy:
                found.append(value)
            else:
                average = value
    scale = max(map(abs, found), default=0.0)
    return average, [0.5 + 0.5 / scale * value for value in found] if scale else found, scale


def _round(value: float) -> int:
    return int(value + 0.5)
