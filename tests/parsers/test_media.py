from __future__ import annotations

import io
import struct
from collections.abc import Callable
from typing import Any

import pytest
from PIL import Image

from parsers.reading import Reading, kinds, read
from tests.parsers.samples import GREEN, RED, audio, corners, encoded, video
from tests.parsers.test_image import close, colours

media = pytest.mark.skipif(not kinds("video/mp4"), reason="the [media] packages are not installed")


def show(source: Any, mime: str, size: int = 128) -> Reading:
    data = io.BytesIO(source) if isinstance(source, bytes) else source
    want: frozenset[Any] = frozenset({"metadata", "picture"})
    return read(data, mime, name="x", want=want, sizes=(size,), format="png")


def picture(reading: Reading) -> Image.Image:
    return Image.open(io.BytesIO(reading.pictures[0].data))


class Ranged:
    """A ranged source that can't be read in order."""

    def __init__(self, data: bytes):
        self._data, self.size = data, len(data)
        self.asked: list[tuple[int, int]] = []

    def read(self, size: int, /) -> bytes:
        raise AssertionError("the whole file was asked for")

    def read_at(self, offset: int, size: int, /) -> bytes:
        self.asked.append((offset, size))
        return self._data[offset : offset + size]


@media
@pytest.mark.parametrize(
    ("format", "codec", "mime"),
    [("mp4", "mpeg4", "video/mp4"), ("webm", "libvpx", "video/webm"), ("matroska", "libx264", "video/x-matroska")],
)
def test_the_poster_is_not_a_black_frame(format: str, codec: str, mime: str) -> None:
    reading = show(video(format, codec), mime)
    assert (reading.metadata["width"], reading.metadata["height"]) == (320, 240)
    assert reading.metadata["duration"] == pytest.approx(2, abs=0.1)
    assert reading.metadata["video"]["frame_rate"] == 25
    shown = colours(picture(reading))
    assert close(shown[0], GREEN, 40) and close(shown[3], RED, 40)


@media
@pytest.mark.parametrize(("turned", "corner"), [(0, 0), (90, 1), (180, 3), (270, 2)])
def test_T93_film_rotation_is_applied(turned: int, corner: int) -> None:
    reading = show(video(turned=turned), "video/mp4")
    shown = colours(picture(reading))
    assert [close(pixel, GREEN, 40) for pixel in shown] == [at == corner for at in range(4)]
    assert picture(reading).size == ((reading.metadata["width"] * 2 // 5), (reading.metadata["height"] * 2 // 5))


@media
@pytest.mark.parametrize(
    ("format", "codec", "mime"),
    [
        ("mp3", "mp3", "audio/mpeg"),
        ("flac", "flac", "audio/flac"),
        ("wav", "pcm_s16le", "audio/wav"),
        ("mp4", "aac", "audio/mp4"),
    ],
)
def test_audio_gives_a_waveform_and_tags(format: str, codec: str, mime: str) -> None:
    reading = show(audio(format, codec), mime)
    told = reading.metadata["audio"]
    assert (told["title"], told["artist"], told["album"], told["channels"]) == ("A tone", "Sine", "Waves", 2)
    assert reading.metadata["duration"] == pytest.approx(3, abs=0.1)
    drawn = picture(reading).getchannel("A")
    assert drawn.size == (128, 32)
    silent, loud = (
        drawn.crop(box).resize((1, 1), Image.Resampling.BOX).getpixel((0, 0))
        for box in ((5, 0, 55, 32), (70, 0, 120, 32))
    )
    assert silent < 40 < 150 < loud  # type: ignore[operator]


@media
def test_cover_art_is_preferred_to_a_waveform() -> None:
    reading = show(audio(cover=encoded(corners(), "JPEG")), "audio/mpeg")
    assert close(colours(picture(reading))[1], GREEN, 40)
    assert reading.metadata["title"] == "With a cover"


@media
def test_T91_only_the_needed_ranges_of_a_large_film_are_read() -> None:
    """The index is 200 MB away, at the end; only a few hundred KB are fetched."""
    data = video()
    index = data.index(b"moov") - 4
    source = Ranged(data[:index] + struct.pack(">I4s", 200_000_008, b"free") + bytes(200_000_000) + data[index:])
    assert close(colours(picture(show(source, "video/mp4")))[0], GREEN, 40)
    assert sum(size for _, size in source.asked) < 2_000_000
    assert all(offset >= 0 and offset + size <= source.size for offset, size in source.asked)


@media
def test_errors_of_a_ranged_source_pass_through() -> None:
    class Broken(Ranged):
        def read_at(self, offset: int, size: int, /) -> bytes:
            raise ConnectionError("bucket")

    with pytest.raises(ConnectionError):
        show(Broken(bytes(5_000_000)), "video/mp4")


def tag_of(mp3: bytes, size: int | None = None) -> bytes:
    """The file's ID3 tag, with another length."""
    end = 10 + sum(byte << shift for byte, shift in zip(mp3[6:10], (21, 14, 7, 0), strict=True))
    size = end - 10 if size is None else size
    return mp3[:6] + bytes(size >> shift & 127 for shift in (21, 14, 7, 0)) + mp3[10:end]


@media
@pytest.mark.parametrize(
    ("before", "size", "title"),
    [
        (bytes(200_000), None, "A tone"),
        (bytes(3_000_001), None, "A tone"),
        (b"", 2_000_000, "A tone"),
        (b"", 200_000_000, "A tone"),
        (b"", 5_000, "A tone"),
        (b"", 10, "A tone"),
        (b"junk" * 300, None, None),
    ],
)
def test_mp3_behind_zeros_or_with_a_wrong_length(before: bytes, size: int | None, title: str | None) -> None:
    data = audio(seconds=1)
    tag = tag_of(data, size)
    reading = show(before + tag + data[len(tag) :], "audio/mpeg")
    assert reading.metadata.get("title") == title
    assert reading.metadata["duration"] == pytest.approx(1, abs=0.1)
    assert picture(reading).size == (128, 32)


def without_brand(data: bytes) -> bytes:
    """A film whose first box is ``wide``, as old cameras write it."""
    size = int.from_bytes(data[:4])
    return struct.pack(">I4sI4s", 8, b"wide", size - 8, b"free") + data[16:]


def waved(data: bytes, size: int, name: bytes = b"RIFF") -> bytes:
    """A WAV file that was written as a stream: the sizes are not known."""
    at = data.index(b"data") + 4
    more = b"ds64" + struct.pack("<IQQQI", 28, len(data), len(data) - at - 4, 0, 0) if name == b"RF64" else b""
    lengths = struct.pack("<I", size)
    return name + lengths + b"WAVE" + more + data[12:at] + lengths + data[at + 4 :]


@media
@pytest.mark.parametrize(
    ("data", "mime", "duration"),
    [
        (lambda: without_brand(video("mov")), "video/quicktime", 2),
        (lambda: video("mp4")[:8] + b"M4VP" + video("mp4")[12:], "video/mp4", 2),
        (lambda: fragmented()[: len(fragmented()) * 3 // 4], "video/mp4", 2),
        (lambda: video("mpegts", "mpeg2video", seconds=1), "video/mp2t", 1),
        (lambda: m2ts(video("mpegts", "mpeg2video", seconds=1)), "video/mp2t", 1),
        (lambda: video("mpeg1video", "mpeg1video"), "video/mpeg", None),
        (lambda: waved(audio("wav", "pcm_s16le", seconds=1), 0xFFFFFFFF), "audio/wav", 1),
        (lambda: waved(audio("wav", "pcm_u8", rate=11_025, seconds=1), 0), "audio/wav", 1),
        (lambda: waved(audio("wav", "pcm_s24le", seconds=1), 0xFFFFFFFF, b"RF64"), "audio/wav", 1),
        (lambda: b"ID3\4\0\0\0\0\1\0" + bytes(128) + audio("flac", "flac", seconds=1), "audio/flac", 1),
        (lambda: audio("adts", "aac", seconds=1), "audio/aac", 1),
        (lambda: audio("opus", "libopus", rate=48_000, seconds=1), "audio/ogg", 1),
        (lambda: audio("webm", "libopus", rate=48_000, seconds=1), "audio/webm", 1),
    ],
)
def test_films_and_sounds_as_devices_write_them(data: Callable[[], bytes], mime: str, duration: float | None) -> None:
    reading = show(data(), mime)
    assert reading.metadata.get("duration") == (duration and pytest.approx(duration, abs=0.1))
    assert len(reading.pictures) == 1 and not reading.failed


def fragmented() -> bytes:
    return video("mp4", "libx264", movflags="frag_keyframe+empty_moov+default_base_moof")


def m2ts(data: bytes) -> bytes:
    """As camcorders and Blu-ray discs write it: each packet behind its time."""
    return b"".join(bytes(4) + data[at : at + 188] for at in range(0, len(data), 188))


@media
def test_a_broken_cover_gives_way_to_the_waveform() -> None:
    reading = show(audio(cover=b"\xff\xd8\xff\xe0no JPEG"), "audio/mpeg")
    assert (reading.metadata["title"], picture(reading).size) == ("With a cover", (128, 32))


@media
@pytest.mark.parametrize("major", [b"mif1", b"miaf", b"msf1", b"heix"])
def test_heic_is_known_by_its_compatible_brands(major: bytes) -> None:
    from pillow_heif import register_heif_opener

    register_heif_opener()
    data = encoded(corners(), "HEIF")
    assert close(colours(picture(show(data[:8] + major + data[12:], "image/heic")))[0], RED, 40)


@media
def test_avif_behind_a_heif_type_is_drawn() -> None:
    data = encoded(corners(), "AVIF")
    assert close(colours(picture(show(data[:8] + b"mif1" + data[12:], "image/heif")))[0], RED, 40)


@media
@pytest.mark.parametrize("turn", [1, 6])
def test_T93_heic(turn: int) -> None:
    from pillow_heif import register_heif_opener

    register_heif_opener()
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = turn, "Maker"
    exif.get_ifd(0x8825)[1] = "N"
    image = corners() if turn == 1 else corners().transpose(Image.Transpose.ROTATE_90)
    reading = show(encoded(image, "HEIF", exif=exif.tobytes()), "image/heic")
    assert (reading.metadata["width"], reading.metadata["height"], reading.metadata["format"]) == (400, 300, "HEIF")
    assert reading.metadata["exif"]["Make"] == "Maker"
    assert reading.metadata["gps"] == {"GPSLatitudeRef": "N"}
    shown = colours(picture(reading))
    assert close(shown[0], RED, 40) and close(shown[1], GREEN, 40)
