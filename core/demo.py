"""Invents realistic files for demonstrations and measurements: a pure function of seed and day.

Names are as cameras, scanners, screenshots and people in eleven languages write them; sizes are log-normal by kind; folders,
tags and words follow Zipf's law; uploads grow over six years. Ids, object keys and hashes alone are new in every run, because
they must be random (R1).
"""

from __future__ import annotations

import random
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import cache
from itertools import accumulate
from typing import Any, Literal
from uuid import UUID

from core.content_types import file_type, mime_for_extension
from core.demo_words import CAMERAS, FOLDERS, LANGUAGES, TAGS, Language
from core.ids import FILE_PREFIX, object_key
from core.names import extension, name_key, numbered

MAX_DEPTH = 8
_YEARS = timedelta(days=6 * 365)
_SOURCES = 2_000  # files of one owner that may get copies
_VOCABULARY = 8_000  # words of one language

Kind = Literal["photo", "screenshot", "scan", "document", "text", "audio", "video", "archive", "other"]

# Weight, extensions, and median size in bytes.
_KINDS: dict[Kind, tuple[int, str, int]] = {
    "photo": (34, "", 3_200_000),
    "screenshot": (5, "png png png webp", 420_000),
    "scan": (6, "pdf pdf tif jpg", 900_000),
    "document": (26, "pdf pdf pdf pdf docx docx xlsx xlsx pptx odt ods rtf epub", 240_000),
    "text": (12, "txt txt md csv json html log py js xml", 9_000),
    "audio": (5, "mp3 mp3 m4a flac wav ogg", 5_500_000),
    "video": (5, "mp4 mp4 mov webm mkv", 85_000_000),
    "archive": (4, "zip zip 7z gz rar", 22_000_000),
    "other": (3, "bin ttf sqlite psd gpx", 700_000),
}
_WITH_TEXT = frozenset({"document", "text", "scan"})
_SCREENSHOTS = ("Screenshot {} at {}", "Bildschirmfoto {} um {}", "Capture d’écran {} à {}", "スクリーンショット {} {}")


@dataclass(frozen=True, slots=True)
class DemoFolder:
    """A folder to create."""

    number: int
    parent: int | None  # a smaller number
    name: str


@dataclass(slots=True, kw_only=True)
class DemoFile:
    """A file to create."""

    id: UUID
    owner: int
    folder: int | None
    original_name: str
    object_key: str
    is_copy: bool = False  # on the object of an earlier file
    mime_type: str
    file_type: str
    size: int  # bytes
    sha256: str
    status: str = "ready"
    problem: dict[str, str] | None = None
    visibility: str = "private"
    tags: list[str]
    metadata: dict[str, Any]
    uploaded_at: datetime
    last_accessed: datetime | None = None
    download_count: int = 0
    deleted_at: datetime | None = None
    language: Language
    has_text: bool


class Inventor:
    """Invents ``files`` files of ``owners`` people, oldest first."""

    def __init__(self, seed: int, *, files: int, folders: int, owners: int, now: datetime):
        self._random = random.Random(seed)  # noqa: S311
        self._files, self._owners, self._now = files, owners, now
        self._count = 0
        self._start = now - _YEARS
        self._taken: set[tuple[int, int | None, str]] = set()
        self._sources: list[list[DemoFile]] = [[] for _ in range(owners)]
        self._owner_weights = _zipf(owners)
        self._folder_weights = _zipf(folders, flat=5)
        self._tag_weights = _zipf(len(TAGS))
        self._language_weights = list(accumulate(language.share for language in LANGUAGES))
        self._kind_weights = list(accumulate(weight for weight, _, _ in _KINDS.values()))
        self._kinds = list(_KINDS)

    def folders(self, count: int) -> list[DemoFolder]:
        """A tree, parents before their children."""
        made: list[DemoFolder] = []
        depths: list[int] = []
        names: set[tuple[int | None, str]] = set()
        for number in range(count):
            parent = None if number < 12 or self._random.random() < 0.02 else self._random.randrange(number)
            if parent is not None and depths[parent] >= MAX_DEPTH:
                parent = made[parent].parent
            name = self._random.choice(FOLDERS)
            if self._random.random() < 0.4:
                name = f"{name} {self._random.randint(2015, self._now.year)}"
            while (parent, name_key(name)) in names:
                name = f"{name.rstrip('0123456789 ')} {self._random.randint(1, 99_999)}"
            names.add((parent, name_key(name)))
            depths.append(1 if parent is None else depths[parent] + 1)
            made.append(DemoFolder(number, parent, name))
        return made

    def file(self) -> DemoFile:
        """The next file."""
        chance = self._random.random
        at = self._start + _YEARS * ((self._count + chance()) / self._files) ** 0.6 * 0.999
        self._count += 1
        owner = self._pick(self._owner_weights)
        language = LANGUAGES[self._pick(self._language_weights)]
        folder = self._pick(self._folder_weights) if self._folder_weights and chance() < 0.92 else None
        sources = self._sources[owner]
        if sources and chance() < 0.06:
            file = self._copy(self._random.choice(sources), folder, at)
        else:
            file = self._new(owner, language, folder, at)
            if len(sources) < _SOURCES:
                sources.append(file)
            elif chance() < 0.1:
                sources[self._random.randrange(_SOURCES)] = file
        self._use(file)
        return file

    def _new(self, owner: int, language: Language, folder: int | None, at: datetime) -> DemoFile:
        kind = self._kinds[self._pick(self._kind_weights)]
        name, metadata = self._name(kind, language, at)
        ending = extension(name)
        mime_type = mime_for_extension(ending) or "application/octet-stream"
        return DemoFile(
            id=_id_at(at),
            owner=owner,
            folder=folder,
            original_name=self._free_name(owner, folder, name),
            object_key=object_key(FILE_PREFIX, ending, at),
            mime_type=mime_type,
            file_type=file_type(mime_type),
            size=int(_KINDS[kind][2] * self._random.lognormvariate(0, 0.9)) + 1,
            sha256=secrets.token_hex(32),
            tags=[],
            metadata=metadata,
            uploaded_at=at,
            language=language,
            has_text=kind in _WITH_TEXT,
        )

    def _copy(self, source: DemoFile, folder: int | None, at: datetime) -> DemoFile:
        name = self._free_name(source.owner, folder, source.original_name)
        unused: dict[str, Any] = {
            "status": "ready",
            "problem": None,
            "visibility": "private",
            "tags": [],
            "download_count": 0,
        }
        unused |= {"last_accessed": None, "deleted_at": None}
        return replace(source, **unused, id=_id_at(at), folder=folder, original_name=name, is_copy=True, uploaded_at=at)

    def _use(self, file: DemoFile) -> None:
        """Downloads, tags, trash, and a few failed checks."""
        chance, age = self._random.random, self._now - file.uploaded_at
        if chance() < 0.3:
            file.tags = list(dict.fromkeys(TAGS[self._pick(self._tag_weights)] for _ in range(1 + int(chance() * 3))))
        if chance() < 0.35:
            file.download_count = int(self._random.paretovariate(1.1))
            file.last_accessed = file.uploaded_at + age * chance()
        if chance() < 0.05:
            file.deleted_at = file.uploaded_at + age * chance()
        if chance() < 0.04:
            file.visibility = "public"
        if (luck := chance()) < 0.005:
            file.status = "rejected"
            file.problem = {"code": "type_mismatch", "detail": "The file's content does not match its extension."}
        elif luck < 0.0055:
            file.status, file.problem = "infected", {"code": "infected", "detail": "A scan found something."}

    def rename(self, file: DemoFile, name: str) -> None:
        """Rename the file; a number makes the name unique in its folder."""
        file.original_name = self._free_name(file.owner, file.folder, name)

    def _free_name(self, owner: int, folder: int | None, name: str) -> str:
        n, free = 0, name
        while (owner, folder, key := name_key(free)) in self._taken:
            n += 1 + n // 8  # in growing steps, since there may be thousands of IMG_0001.JPG
            free = numbered(name, n)
        self._taken.add((owner, folder, key))
        return free

    # -- names -----------------------------------------------------------------------------------------------------

    def _name(self, kind: Kind, language: Language, at: datetime) -> tuple[str, dict[str, Any]]:
        choice, number = self._random.choice, self._random.randint(1, 9_999)
        if kind == "photo":
            maker, model, pattern = choice(CAMERAS)
            digits = pattern.count("d")
            name = pattern.replace("d" * digits, f"{number:0{digits}d}"[-digits:]) if digits else pattern
            name = name.replace("T", f"{at:%Y%m%d_%H%M%S}") if pattern.count("T.") else name
            return name, {"width": 4032, "height": 3024, "exif": {"Make": maker, "Model": model}}
        ending = choice(_KINDS[kind][1].split())
        if kind == "screenshot":
            stem = choice(_SCREENSHOTS).format(f"{at:%Y-%m-%d}", f"{at:%H.%M.%S}")
            return f"{stem}.{ending}", {"width": 1920, "height": 1080}
        if kind == "scan":
            return choice((f"Scan_{at:%Y-%m-%d}_{number:04d}", f"scan{number:04d}", f"SCN_{number}")) + f".{ending}", {}
        if kind == "video":
            titles = (f"MVI_{number:04d}", f"VID_{at:%Y%m%d_%H%M%S}", f"GOPR{number:04d}", self._title(language, at))
            duration = round(self._random.lognormvariate(4, 1), 1)
            return f"{choice(titles)}.{ending}", {"width": 1920, "height": 1080, "duration": duration}
        if kind == "audio":
            stem = choice((f"{number % 30 + 1:02d} {self._title(language, at)}", f"Recording_{at:%Y%m%d}_{number}"))
            return f"{stem}.{ending}", {"duration": round(self._random.lognormvariate(5, 0.6), 1)}
        if kind == "archive":
            return choice((f"backup-{at:%Y-%m-%d}-{number}", self._title(language, at))) + f".{ending}", {}
        return f"{self._title(language, at)}.{ending}", {"pages": number % 40 + 1} if kind == "document" else {}

    def _title(self, language: Language, at: datetime) -> str:
        """A document's title, with dates, numbers, versions and all kinds of separators."""
        choice = self._random.choice
        words = [choice(language.subjects)]
        if self._random.random() < 0.6:
            words.append(self._word(language))
        if self._random.random() < 0.3:
            words.append(choice(language.subjects))
        title = choice((" ", " ", "_", "-")).join(words)
        match self._random.randrange(10):
            case 0:
                return f"{title} {at:%Y}"
            case 1:
                return f"{title}_{at:%Y-%m-%d}"
            case 2:
                return f"{at:%Y%m%d} {title}"
            case 3:
                return f"{title}_v{self._random.randint(1, 9)}"
            case 4:
                return f"{title} ({choice(('final', 'FINAL', 'draft', 'copy', 'Entwurf', 'signed'))})"
            case 5:
                return f"{title} {self._random.randint(1, 99_999)}"
            case 6 if language.gap:
                return words[0] + "".join(word.capitalize() for word in words[1:]) + f"{at:%Y}"
        return title

    # -- texts -----------------------------------------------------------------------------------------------------

    def text(self, file: DemoFile) -> str:
        """The file's text: 30 to 3,000 words in its language, distributed as in real texts."""
        language = file.language
        count = min(3_000, 30 + int(self._random.lognormvariate(5.3, 0.8)))
        words, weights = _vocabulary(language.code)
        written = self._random.choices(words, cum_weights=weights, k=count)
        for _ in range(count // 60):  # its subject recurs
            written[self._random.randrange(count)] = file.original_name.split(".")[0].split("_")[0]
        sentences, begin = [], 0
        while begin < count:
            length = self._random.randint(6, 22)
            sentences.append(language.gap.join(written[begin : begin + length]) + language.stop)
            begin += length
        return "\n".join(language.gap.join(sentences[n : n + 6]) for n in range(0, len(sentences), 6))

    def _word(self, language: Language) -> str:
        words, weights = _vocabulary(language.code)
        return self._random.choices(words, cum_weights=weights)[0]

    def _pick(self, weights: Sequence[float]) -> int:
        return self._random.choices(range(len(weights)), cum_weights=weights)[0]


@cache
def _vocabulary(code: str) -> tuple[list[str], list[float]]:
    """The words of a language, most frequent first, and their weights; the same in every run."""
    language = next(language for language in LANGUAGES if language.code == code)
    mix = random.Random(code)  # noqa: S311
    rare = [stem + ending for stem in language.stems for ending in language.endings]
    while len(rare) < _VOCABULARY:
        rare.append(mix.choice(language.stems) + mix.choice(language.stems).casefold() + mix.choice(language.endings))
    mix.shuffle(rare)
    words = list(dict.fromkeys([*language.common, *language.subjects, *rare]))
    return words, _zipf(len(words), flat=2.7)


def _zipf(count: int, flat: float = 1) -> list[float]:
    """Cumulative weights by Zipf's law: the nth of ``count`` items has about 1/n of the first one's weight."""
    return list(accumulate(1 / (rank + flat) for rank in range(count)))


def _id_at(at: datetime) -> UUID:
    """A UUIDv7 of that time (RFC 9562 §5.7), so that ids sort as uploads do."""
    millis = int(at.timestamp() * 1_000)
    rest = 0x7 << 76 | secrets.randbits(12) << 64 | 0b10 << 62 | secrets.randbits(62)
    return UUID(int=(millis & (1 << 48) - 1) << 80 | rest)
