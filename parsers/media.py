"""Video and audio: a poster, or cover art or a waveform, the duration, and what the tags say. Needs the [media] packages.

FFmpeg opens only the containers named here, whatever their content suggests: playlists, which would make it open other
files, are not among them. One thread, one frame, and decoding stops after some seconds of processor time.
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from typing import Any, BinaryIO

import av
from av.audio.resampler import AudioResampler
from PIL import Image, ImageDraw, ImageStat

from parsers import ParserFailed, image, pictures, plain_text
from parsers.ranged import Exhausted
from parsers.thumbhash import placeholder

SEEKS = True
_CONTAINERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,flv,mpeg,mpegts,ogg,asf,mp3,aac,wav,w64,flac,aiff,amr,au,caf,ape,wv"
)
_OPTIONS = {"format_whitelist": _CONTAINERS, "protocol_whitelist": "none", "probesize": "8000000"}
# Tags that are not UTF-8 are no error; PyAV 19 (Python 3.12 and newer) needs not be told.
_LENIENT: dict[str, Any] = {"metadata_errors": "ignore"} if av.__version__ < "19" else {}
_SECONDS = 6.0  # of processor time
_MAX_PIXELS = 64_000_000
_POSTERS = (0.1, 0.3, 0.0)  # of the duration; the first that is not all but one colour
_DULL = 8.0  # standard deviation of brightness
_TRIED, _STEP = 240, 12  # frames of the beginning, where no key frame was good enough
_RATE = 8_000  # samples a second that a waveform is drawn from
_WAVE = (79, 124, 255, 255)
_TAGS = {
    "title": "title",
    "artist": "artist",
    "album_artist": "album_artist",
    "album": "album",
    "date": "date",
    "genre": "genre",
    "track": "track",
    "composer": "composer",
}
_PLACES = ("com.apple.quicktime.location.iso6709", "location")


def parse(file: BinaryIO, arguments: dict[str, Any]) -> tuple[dict[str, Any], list[bytes]]:
    """Metadata (format, duration, width, height, video, audio, title, gps, placeholder) and pictures."""
    sizes = pictures.sizes_of(arguments)
    try:
        with av.open(file, "r", options=_OPTIONS, **_LENIENT) as container:
            metadata = _told(container)
            if not sizes:
                return {"metadata": metadata}, []
            shown = _picture(container, max(sizes), metadata)
    except (av.FFmpegError, Exhausted):
        raise ParserFailed("The recording is broken, or of a kind that can't be read") from None
    listed, blobs = pictures.encode_all(shown, sizes, arguments["format"], shown.size)
    metadata["placeholder"] = placeholder(shown)
    return {"metadata": metadata, "pictures": listed}, blobs


def _film(container: Any) -> Any:
    """The first moving picture; cover art is a video of one frame to FFmpeg."""
    for stream in container.streams.video:
        if stream.codec_context and not stream.disposition & av.stream.Disposition.attached_pic:
            return stream
    return None


def _sound(container: Any) -> Any:
    """The first that there is a decoder for."""
    return next((stream for stream in container.streams.audio if stream.codec_context), None)


def _told(container: Any) -> dict[str, Any]:
    metadata: dict[str, Any] = {"format": container.format.name.partition(",")[0]}
    if container.duration and container.duration > 0:
        metadata["duration"] = round(container.duration / 1_000_000, 3)
    if (film := _film(container)) is not None:
        width, height = _shown_size(film)
        if width > 0 and height > 0:  # as _poster finds the frames turned
            metadata |= {"width": width, "height": height}
        metadata["video"] = {"codec": film.codec_context.name}
        if film.average_rate:
            metadata["video"]["frame_rate"] = round(float(film.average_rate), 3)
    tags = {key.lower(): value for key, value in container.metadata.items()}
    if (sound := _sound(container)) is not None:
        tags = {key.lower(): value for key, value in sound.metadata.items()} | tags
        audio = {
            "codec": sound.codec_context.name,
            "sample_rate": sound.codec_context.sample_rate,
            "channels": sound.codec_context.channels,
        }
        metadata["audio"] = audio | {key: text for tag, key in _TAGS.items() if (text := _text(tags.get(tag)))}
    if title := _text(tags.get("title")):
        metadata["title"] = title
    if place := next((text for tag in _PLACES if (text := _text(tags.get(tag)))), None):
        metadata["gps"] = {"ISO6709": place}
    return metadata


def _text(value: str | None) -> str | None:
    return plain_text.clean(value or "").strip()[:500] or None


def _picture(container: Any, box: int, metadata: dict[str, Any]) -> Image.Image:
    if (film := _film(container)) is not None:
        return _poster(container, film, box, metadata)
    if (cover := _cover(container, box)) is not None:
        return cover
    if (sound := _sound(container)) is None:
        raise ParserFailed("The recording has neither picture nor sound that can be read")
    return _waveform(container, sound, box, metadata.get("duration"))


# Film ---------------------------------------------------------------------------------------------------------------


def _shown_size(stream: Any) -> tuple[int, int]:
    """Width and height in square pixels."""
    width, height = stream.codec_context.width, stream.codec_context.height
    ratio = stream.codec_context.sample_aspect_ratio
    if ratio and 0.1 < ratio < 10:
        width = round(width * ratio)
    return width, height


def _poster(container: Any, film: Any, box: int, metadata: dict[str, Any]) -> Image.Image:
    context = film.codec_context
    if context.width * context.height > _MAX_PIXELS:
        raise ParserFailed(f"The film has more than {_MAX_PIXELS // 1_000_000} megapixels")
    context.thread_count = 1
    context.thread_type = "NONE"
    best, contrast = None, -1.0
    for frame in _candidates(container, film):
        shown = _as_image(frame, film, box, metadata)
        deviation = ImageStat.Stat(shown.convert("L")).stddev[0]
        if deviation > contrast:
            best, contrast = shown, deviation
        if contrast > _DULL:
            break
    if best is None:
        raise ParserFailed("No picture of the film can be read")
    return best


def _candidates(container: Any, film: Any) -> Iterator[Any]:
    """Key frames of some places; then, as short films often have but one and begin black, frames of the beginning."""
    context, until = film.codec_context, time.process_time() + _SECONDS
    context.skip_frame = "NONKEY"
    for part in _POSTERS:
        with suppress(av.FFmpegError, Exhausted):
            container.seek(int((container.duration or 0) * part))
            yield from islice(container.decode(film), 1)
        if time.process_time() > until:
            return
    context.skip_frame = "DEFAULT"
    with suppress(av.FFmpegError, Exhausted):
        container.seek(0)
        for number, frame in enumerate(islice(container.decode(film), _TRIED)):
            if number % _STEP == 0:
                yield frame
            if time.process_time() > until:
                return


def _as_image(frame: Any, film: Any, box: int, metadata: dict[str, Any]) -> Image.Image:
    rotation = round(frame.rotation / 90) * 90 % 360
    if frame.width * frame.height > _MAX_PIXELS:
        raise ParserFailed("The film's frames are too large")
    width, height = _shown_size(film)
    size = pictures.fit(width, height, box)
    shown: Image.Image = frame.reformat(*size, format="rgb24").to_image()
    if rotation:
        shown = shown.rotate(rotation, expand=True)
        metadata["width"], metadata["height"] = (height, width) if rotation % 180 else (width, height)
    return shown


# Sound --------------------------------------------------------------------------------------------------------------


def _cover(container: Any, box: int) -> Image.Image | None:
    for stream in container.streams.video:
        with suppress(av.FFmpegError, ParserFailed, Exhausted, StopIteration):
            data = next(bytes(packet) for packet in container.demux(stream) if packet.size)
            return image.first_frame(data, box)
    return None


def _waveform(container: Any, sound: Any, box: int, duration: float | None) -> Image.Image:
    """Loudness over time: the peaks, as bars about the middle."""
    width, height = box, max(8, box // 4)
    peaks = [0] * width
    total = max(1, int((duration or 0) * _RATE))
    with suppress(av.FFmpegError, Exhausted):
        container.seek(0)
    position = 0
    for samples in _samples(container, sound):
        if not duration:  # unknown: draw what there is as it comes, a minute wide
            total = max(total, 60 * _RATE, position + len(samples))
        step = max(1, total // width)
        for start in range(0, len(samples), step):
            piece = samples[start : start + step]
            at = min(width - 1, (position + start) * width // total)
            peaks[at] = max(peaks[at], max(piece), -min(piece))
        position += len(samples)
    if not position:
        raise ParserFailed("No sound can be read")
    drawn = Image.new("RGBA", (width, height), (*_WAVE[:3], 0))
    draw, middle, loudest = ImageDraw.Draw(drawn), height / 2, max(*peaks, 1)
    for x, peak in enumerate(peaks):
        half = max(0.5, peak / loudest * (middle - 1))
        draw.line((x, middle - half, x, middle + half), fill=_WAVE)
    return drawn


def _samples(container: Any, sound: Any) -> Iterator[array[int]]:
    """The sound in one channel, as far as time allows; damage ends it."""
    sound.codec_context.thread_count = 1
    resampler = AudioResampler(format="s16", layout="mono", rate=_RATE)
    until = time.process_time() + _SECONDS
    with suppress(av.FFmpegError, Exhausted):
        for frame in container.decode(sound):
            for resampled in resampler.resample(frame):
                samples = array("h", bytes(resampled.planes[0])[: 2 * resampled.samples])
                if samples:
                    yield samples
            if time.process_time() > until:
                return
