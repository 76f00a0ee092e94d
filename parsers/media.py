"""Video and audio: a poster, cover art or waveform, the duration, and tags. Needs the [media] packages.

FFmpeg opens only the containers named here, whatever the content suggests. Playlists are not among them: they would make it
open other files. One thread, one frame, and some seconds of processor time.
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

from parsers import ParserFailed, Partly, image, mp3, pictures, plain_text
from parsers.ranged import Exhausted

SEEKS = True
_CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,flv,mpeg,mpegts,mpegvideo,ogg,asf"
_CONTAINERS += ",mp3,aac,wav,w64,flac,aiff,amr,au,caf,ape,wv"
_OPTIONS = {"format_whitelist": _CONTAINERS, "protocol_whitelist": "none", "probesize": "8000000"}
# Tags that are not UTF-8 are no error; PyAV 19 (Python 3.12 and later) has no such option.
_LENIENT: dict[str, Any] = {"metadata_errors": "ignore"} if av.__version__ < "19" else {}
_SECONDS = 6.0  # of processor time
_MAX_PIXELS = 64_000_000
_POSTERS = (0.1, 0.3, 0.0)  # of the duration; the first frame with enough contrast is the poster
_MIN_CONTRAST = 8.0  # standard deviation of brightness
_MAX_FRAMES, _STEP = 240, 12  # of the beginning, if no key frame has enough contrast
_RATE = 8_000  # samples a second for the waveform
_COLOUR = (79, 124, 255)
_TAGS = ("title", "artist", "album_artist", "album", "date", "genre", "track", "composer")
_LOCATION_TAGS = ("com.apple.quicktime.location.iso6709", "location")


def parse(file: BinaryIO, arguments: dict[str, Any]) -> Partly:
    """Metadata (format, duration, width, height, video, audio, title, gps, placeholder) and pictures."""
    sizes = pictures.sizes_of(arguments)
    try:
        with _open(file) as container:
            metadata = _metadata(container)
            if not sizes:
                return {"metadata": metadata}, []
            yield {"metadata": metadata}, "picture"
            picture = _picture(container, max(sizes), metadata)
    except (av.FFmpegError, Exhausted):
        raise ParserFailed("The recording is broken, or of a kind that can't be read") from None
    return pictures.result(metadata, picture, sizes, arguments["format"])


def _open(file: BinaryIO) -> Any:
    file = mp3.without_zeros(file)
    if mp3.has_wrong_tag(file):
        file = mp3.from_first_frame(file) or file
    try:
        return av.open(file, "r", options=_OPTIONS, **_LENIENT)
    except av.FFmpegError:
        if (sound := mp3.from_first_frame(file)) is None:
            raise
        return av.open(sound, "r", format="mp3", options=_OPTIONS, **_LENIENT)


def _film(container: Any) -> Any:
    """The first moving picture (to FFmpeg, cover art is a video of one frame)."""
    for stream in container.streams.video:
        if stream.codec_context and not stream.disposition & av.stream.Disposition.attached_pic:
            return stream
    return None


def _sound(container: Any) -> Any:
    """The first audio stream with a decoder."""
    return next((stream for stream in container.streams.audio if stream.codec_context), None)


def _metadata(container: Any) -> dict[str, Any]:
    metadata: dict[str, Any] = {"format": container.format.name.partition(",")[0]}
    if metadata["format"] == "aac":  # FFmpeg guesses their duration from a few frames
        metadata["duration"] = _counted(container)
    elif container.duration and container.duration > 0 and metadata["format"] != "mpegvideo":
        metadata["duration"] = round(container.duration / 1_000_000, 3)
    if (film := _film(container)) is not None:
        width, height = _display_size(film)
        if width > 0 and height > 0:  # swapped by _as_image if the frames are turned
            metadata |= {"width": width, "height": height}
        metadata["video"] = {"codec": film.codec_context.name}
        if film.average_rate:
            metadata["video"]["frame_rate"] = round(float(film.average_rate), 3)
    tags = {key.lower(): value for key, value in container.metadata.items()}
    if (sound := _sound(container)) is not None:
        tags = {key.lower(): value for key, value in sound.metadata.items()} | tags
        codec = sound.codec_context
        metadata["audio"] = {"codec": codec.name, "sample_rate": codec.sample_rate, "channels": codec.channels}
        metadata["audio"] |= {tag: text for tag in _TAGS if (text := plain_text.title(tags.get(tag)))}
    if title := plain_text.title(tags.get("title")):
        metadata["title"] = title
    if location := next((text for tag in _LOCATION_TAGS if (text := plain_text.title(tags.get(tag)))), None):
        metadata["gps"] = {"ISO6709": location}
    return metadata


def _counted(container: Any) -> float:
    duration = 0.0
    with suppress(av.FFmpegError, Exhausted):
        for packet in container.demux(container.streams.audio[0]):
            duration += float((packet.duration or 0) * packet.time_base)
    return round(duration, 3)


def _picture(container: Any, box: int, metadata: dict[str, Any]) -> Image.Image:
    if (film := _film(container)) is not None:
        return _poster(container, film, box, metadata)
    if (cover := _cover(container, box)) is not None:
        return cover
    if (sound := _sound(container)) is None:
        raise ParserFailed("The recording has neither picture nor sound that can be read")
    return _waveform(container, sound, box, metadata.get("duration"))


# -- film --------------------------------------------------------------------------------------------------------------


def _display_size(stream: Any) -> tuple[int, int]:
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
        picture = _as_image(frame, film, box, metadata)
        deviation = ImageStat.Stat(picture.convert("L")).stddev[0]
        if deviation > contrast:
            best, contrast = picture, deviation
        if contrast > _MIN_CONTRAST:
            break
    if best is None:
        raise ParserFailed("No picture of the film can be read")
    return best


def _candidates(container: Any, film: Any) -> Iterator[Any]:
    """Key frames from several places, then frames of the beginning: short films often have one key frame, and it is black."""
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
        for number, frame in enumerate(islice(container.decode(film), _MAX_FRAMES)):
            if number % _STEP == 0:
                yield frame
            if time.process_time() > until:
                return


def _as_image(frame: Any, film: Any, box: int, metadata: dict[str, Any]) -> Image.Image:
    rotation = round(frame.rotation / 90) * 90 % 360
    if frame.width * frame.height > _MAX_PIXELS:
        raise ParserFailed("The film's frames are too large")
    width, height = _display_size(film)
    picture: Image.Image = frame.reformat(*pictures.fit(width, height, box), format="rgb24").to_image()
    if rotation:
        picture = picture.rotate(rotation, expand=True)
        metadata["width"], metadata["height"] = (height, width) if rotation % 180 else (width, height)
    return picture


# -- sound -------------------------------------------------------------------------------------------------------------


def _cover(container: Any, box: int) -> Image.Image | None:
    for stream in container.streams.video:
        with suppress(av.FFmpegError, ParserFailed, Exhausted, StopIteration):
            data = next(bytes(packet) for packet in container.demux(stream) if packet.size)
            return image.first_frame(data, box)
    return None


def _waveform(container: Any, sound: Any, box: int, duration: float | None) -> Image.Image:
    """Loudness over time: the peaks, as bars around the middle."""
    width, height = box, max(8, box // 4)
    peaks = [0] * width
    total = max(1, int((duration or 0) * _RATE))
    with suppress(av.FFmpegError, Exhausted):
        container.seek(0)
    position = 0
    for samples in _samples(container, sound):
        if not duration:  # unknown: the width stands for a minute, or more as samples come
            total = max(total, 60 * _RATE, position + len(samples))
        step = max(1, total // width)
        for start in range(0, len(samples), step):
            piece = samples[start : start + step]
            at = min(width - 1, (position + start) * width // total)
            peaks[at] = max(peaks[at], max(piece), -min(piece))
        position += len(samples)
    if not position:
        raise ParserFailed("No sound can be read")
    picture = Image.new("RGBA", (width, height), (*_COLOUR, 0))
    draw, middle, loudest = ImageDraw.Draw(picture), height / 2, max(*peaks, 1)
    for x, peak in enumerate(peaks):
        half = max(0.5, peak / loudest * (middle - 1))
        draw.line((x, middle - half, x, middle + half), fill=(*_COLOUR, 255))
    return picture


def _samples(container: Any, sound: Any) -> Iterator[array[int]]:
    """The sound in one channel, until damage or the time limit ends it."""
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
