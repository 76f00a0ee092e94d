"""SVG as a picture, drawn by resvg. The file itself is never shown: it could run scripts (T32).

resvg reads local files named by ``href`` and draws as many pixels as the drawing asks for. So the markup is parsed first, with
no entities but plain texts of the drawing's own; all references are removed except fragments and embedded pictures, and the
root gets the wanted size.
"""

from __future__ import annotations

import re
import zlib
from io import BytesIO
from typing import Any
from xml.etree.ElementTree import Element, ParseError, TreeBuilder, tostring

import resvg_py
from defusedxml import DefusedXmlException
from defusedxml.ElementTree import XMLParser
from PIL import Image

from parsers import ParserFailed, Partly, Unsupported, pictures, plain_text

_MAX_ELEMENTS = 200_000
_MAX_DEPTH = 200
_MAX_SIDE = 1_000_000.0  # units
_MAX_BYTES = 8 * 1024 * 1024  # unpacked, or added by entities
# No embedded SVG: resvg would follow its references.
_EMBEDDED = re.compile(r"\s*(?:#|data:image/(?:png|jpe?g|gif|webp)[;,])", re.IGNORECASE)
_LENGTH = re.compile(r"\s*([0-9]*\.?[0-9]+(?:[eE][+-]?[0-9]{1,2})?)\s*(px|pt|pc|mm|cm|q|in|r?em|ex|)\s*", re.IGNORECASE)
_UNITS = {"": 1.0, "px": 1.0, "pt": 4 / 3, "pc": 16.0, "mm": 96 / 25.4, "cm": 96 / 2.54, "q": 96 / 101.6, "in": 96.0}
_UNITS |= {"em": 16.0, "rem": 16.0, "ex": 8.0}


class _Builder(TreeBuilder):
    """Has the root from its beginning on, so that a truncated drawing is drawn as far as it goes."""

    root: Element | None = None

    def start(self, tag: str, attrs: dict[Any, Any], /) -> Element:
        element = super().start(tag, attrs)
        self.root = element if self.root is None else self.root
        return element


class _Parser(XMLParser):  # type: ignore[misc]
    """Accepts entities that are plain texts, as Adobe Illustrator writes them."""

    def __init__(self, references: int, target: _Builder):
        """``references``: how many there can be in the file."""
        super().__init__(target=target)
        self._longest = _MAX_BYTES // max(1, references)

    def defused_entity_decl(self, name: str, is_parameter_entity: bool, value: str | None, *rest: Any) -> None:
        if is_parameter_entity or value is None or "&" in value or len(value) > self._longest:
            super().defused_entity_decl(name, is_parameter_entity, value, *rest)


def parse(data: bytes, arguments: dict[str, Any]) -> Partly:
    """Metadata (width, height, title, placeholder) and pictures, in any size."""
    sizes = pictures.sizes_of(arguments)
    root = _open(data)
    has_text, title = _remove_references(root)
    width, height = _measure(root)
    metadata: dict[str, Any] = {"format": "SVG", "width": max(1, round(width)), "height": max(1, round(height))}
    if title:
        metadata["title"] = title
    if not sizes:
        return {"metadata": metadata}, []
    yield {"metadata": metadata}, "picture"
    image = _draw(root, pictures.fit(width, height, max(sizes), enlarge=True), has_text)
    return pictures.result(metadata, image, sizes, arguments["format"])


def _open(data: bytes) -> Element:
    if data.startswith(b"\x1f\x8b"):
        data = _unpack(data)
    builder = _Builder()
    try:
        parser = _Parser(data.count(b"&"), builder)
        parser.feed(data.lstrip(b"\t\r\n "))
        parser.close()
    except DefusedXmlException:
        raise ParserFailed("The drawing declares entities that are not plain texts") from None
    except (ParseError, ValueError, LookupError):
        if builder.root is None:
            raise ParserFailed("The drawing is not well-formed") from None
    root = builder.root
    if root is None or _local_name(root.tag) != "svg":
        raise Unsupported("This is not a drawing")
    return root


def _unpack(data: bytes) -> bytes:
    inflater = zlib.decompressobj(wbits=31)
    try:
        unpacked = inflater.decompress(data, _MAX_BYTES)
    except zlib.error:
        raise ParserFailed("The drawing can't be unpacked") from None
    if inflater.unconsumed_tail:
        raise ParserFailed("The drawing is too large")
    return unpacked


def _local_name(name: Any) -> str:
    return name.rpartition("}")[2] if isinstance(name, str) else ""


def _remove_references(root: Element) -> tuple[bool, str]:
    """Remove references to anything outside the drawing. Returns whether it has text, and its title."""
    has_text, title, count = False, "", 0
    level = [root]
    for _ in range(_MAX_DEPTH):
        below: list[Element] = []
        for element in level:
            count += 1
            tag = _local_name(element.tag)
            has_text |= tag == "text"
            if tag == "title" and not title:
                title = plain_text.title(element.text)
            for name in [name for name in element.attrib if _local_name(name).lower() in ("href", "base")]:
                if not _EMBEDDED.match(element.attrib[name]):
                    del element.attrib[name]
            below.extend(element)
        if not below:
            return has_text, title
        if count > _MAX_ELEMENTS:
            break
        level = below
    raise ParserFailed("The drawing has too many parts, or they are nested too deeply")


def _measure(root: Element) -> tuple[float, float]:
    """Width and height in CSS pixels, from the attributes or the view box; both finite and not 0."""
    box = [float(one) for one in re.findall(r"-?[0-9]*\.?[0-9]+(?:[eE][+-]?[0-9]{1,2})?", root.get("viewBox", ""))]
    of_box = (box[2], box[3]) if len(box) == 4 and box[2] > 0 and box[3] > 0 else None
    sides = [_pixels(root.get("width", "")), _pixels(root.get("height", ""))]
    if of_box:
        for one, other in ((0, 1), (1, 0)):
            if sides[one] is None and (known := sides[other]) is not None:
                sides[one] = known * of_box[one] / of_box[other]
    width, height = (
        side if side is not None else default for side, default in zip(sides, of_box or (300, 150), strict=True)
    )
    if not (0 < width <= _MAX_SIDE and 0 < height <= _MAX_SIDE):
        raise ParserFailed("The drawing has no size, or none that can be drawn")
    if not of_box:
        root.set("viewBox", f"0 0 {width} {height}")
    return width, height


def _pixels(length: str) -> float | None:
    match = _LENGTH.fullmatch(length)
    return float(match[1]) * _UNITS[match[2].lower()] if match else None


def _draw(root: Element, size: tuple[int, int], has_text: bool) -> Image.Image:
    root.set("width", str(size[0]))
    root.set("height", str(size[1]))
    try:
        png = resvg_py.svg_to_bytes(
            svg_string=tostring(root, encoding="unicode"),
            width=size[0],
            skip_system_fonts=not has_text,
            resources_dir=".",  # the child's own folder, which is empty
            # The fonts for text whose own font is missing; without them it would be left out.
            font_family="DejaVu Sans",
            sans_serif_family="DejaVu Sans",
            serif_family="DejaVu Serif",
            monospace_family="DejaVu Sans Mono",
        )
    except ValueError:
        raise ParserFailed("The drawing can't be drawn") from None
    image = Image.open(BytesIO(png), formats=("PNG",))
    if max(image.size) > max(size):
        image.thumbnail(size)
    return image.convert("RGBA")
