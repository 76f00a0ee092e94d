"""Invents files as people have them, for trying the gateway and for measuring it: a pure function of seed and day.

Names come from cameras, scanners, screenshots and people in eleven languages; sizes are log-normal for each kind; some
folders, tags and words are common and most are rare (Zipf); uploads grow over six years. Only ids, object keys and hashes
are new in every run, as they have to be (THREATS R1).
"""

from __future__ import annotations

import random
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
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
_REMEMBERED = 2_000  # objects that duplicates are made of
_VOCABULARY = 8_000  # words of one language

Way = Literal["photo", "screenshot", "scan", "document", "text", "audio", "video", "archive", "other"]

# How often, of which extensions, and the usual size in bytes.
_KINDS: dict[Way, tuple[int, str, int]] = {
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
    number: int
    parent: int | None  # a smaller number
    name: str


@dataclass(slots=True)
class DemoFile:
    id: UUID
    owner: int
    folder: int | None
    original_name: str
    object_key: str
    is_copy: bool  # on the object of an earlier file
    mime_type: str
    file_type: str
    size: int  # bytes
    sha256: str
    status: str
    problem: dict[str, str] | None
    visibility: str
    tags: list[str]
    metadata: dict[str, Any]
    uploaded_at: datetime
    last_accessed: datetime | None
    download_count: int
    deleted_at: datetime | None
    language: Language
    has_text: bool


class Inventor:
    """Makes up the files of ``owners`` people, oldest first; ``files`` is how many will be asked for."""

    def __init__(self, seed: int, *, files: int, folders: int, owners: int, now: datetime):
        self._random = random.Random(seed)  # noqa: S311 for play, not for secrets
        self._files, self._owners, self._now = files, owners, now
        self._made = 0
        self._start = now - _YEARS
        self._taken: set[tuple[int, int | None, str]] = set()
        self._objects: list[list[DemoFile]] = [[] for _ in range(owners)]
        self._owner_weights = _zipf(owners)
        self._folder_weights = _zipf(folders, flat=5)
        self._tag_weights = _zipf(len(TAGS))
        self._language_weights = list(accumulate(language.share for language in LANGUAGES))
        self._way_weights = list(accumulate(weight for weight, _, _ in _KINDS.values()))
        self._ways = list(_KINDS)

    def folders(self, count: int) -> list[DemoFolder]:
        """A tree in the order of its making: parents come before their children."""
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
        chance = self._random.random
        at = self._start + _YEARS * ((self._made + chance()) / self._files) ** 0.6 * 0.999
        self._made += 1
        owner = self._pick(self._owner_weights)
        language = LANGUAGES[self._pick(self._language_weights)]
        folder = self._pick(self._folder_weights) if self._folder_weights and chance() < 0.92 else None
        known = self._objects[owner]
        if known and chance() < 0.06:
            file = self._copy(self._random.choice(known), folder, at)
        else:
            file = self._new(owner, language, folder, at)
            if len(known) < _REMEMBERED:
                known.append(file)
            elif chance() < 0.1:
                known[self._random.randrange(_REMEMBERED)] = file
        self._use(file)
        return file

    def _new(self, owner: int, language: Language, folder: int | None, at: datetime) -> DemoFile:
        way = self._ways[self._pick(self._way_weights)]
        name, metadata = self._name(way, language, at)
        ending = extension(name)
        mime_type = mime_for_extension(ending) or "application/octet-stream"
        return DemoFile(
            id=_id_at(at),
            owner=owner,
            folder=folder,
            original_name=self._free(owner, folder, name),
            object_key=object_key(FILE_PREFIX, ending, at),
            is_copy=False,
            mime_type=mime_type,
            file_type=file_type(mime_type),
            size=int(_KINDS[way][2] * self._random.lognormvariate(0, 0.9)) + 1,
            sha256=secrets.token_hex(32),
            status="ready",
            problem=None,
            visibility="private",
            tags=[],
            metadata=metadata,
            uploaded_at=at,
            last_accessed=None,
            download_count=0,
            deleted_at=None,
            language=language,
            has_text=way in _WITH_TEXT,
        )

    def _copy(self, source: DemoFile, folder: int | None, at: datetime) -> DemoFile:
        return DemoFile(
            id=_id_at(at),
            owner=source.owner,
            folder=folder,
            original_name=self._free(source.owner, folder, source.original_name),
            object_key=source.object_key,
            is_copy=True,
            mime_type=source.mime_type,
            file_type=source.file_type,
            size=source.size,
            sha256=source.sha256,
            status="ready",
            problem=None,
            visibility="private",
            tags=[],
            metadata=source.metadata,
            uploaded_at=at,
            last_accessed=None,
            download_count=0,
            deleted_at=None,
            language=source.language,
            has_text=source.has_text,
        )

    def _use(self, file: DemoFile) -> None:
        """What happened to it since: downloads, tags, the trash; a few failed a check."""
        chance, left = self._random.random, self._now - file.uploaded_at
        if chance() < 0.3:
            file.tags = list(dict.fromkeys(TAGS[self._pick(self._tag_weights)] for _ in range(1 + int(chance() * 3))))
        if chance() < 0.35:
            file.download_count = int(self._random.paretovariate(1.1))
            file.last_accessed = file.uploaded_at + left * chance()
        if chance() < 0.05:
            file.deleted_at = file.uploaded_at + left * chance()
        if chance() < 0.04:
            file.visibility = "public"
        if (luck := chance()) < 0.005:
            file.status = "rejected"
            file.problem = {"code": "type_mismatch", "detail": "The bytes are not what the name says."}
        elif luck < 0.0055:
            file.status, file.problem = "infected", {"code": "infected", "detail": "A scan found something."}

    def rename(self, file: DemoFile, name: str) -> None:
        """Give the file this name, or the next that is free in its folder."""
        file.original_name = self._free(file.owner, file.folder, name)

    def _free(self, owner: int, folder: int | None, name: str) -> str:
        n, free = 0, name
        while (owner, folder, key := name_key(free)) in self._taken:
            n += 1 + n // 8  # the thousandth IMG_0001.JPG need not be counted up to
            free = numbered(name, n)
        self._taken.add((owner, folder, key))
        return free

    # -- names -----------------------------------------------------------------------------------------------------

    def _name(self, way: Way, language: Language, at: datetime) -> tuple[str, dict[str, Any]]:
        choice, number = self._random.choice, self._random.randint(1, 9_999)
        if way == "photo":
            maker, model, pattern = choice(CAMERAS)
            digits = pattern.count("d")
            name = pattern.replace("d" * digits, f"{number:0{digits}d}"[-digits:]) if digits else pattern
            name = name.replace("T", f"{at:%Y%m%d_%H%M%S}") if pattern.count("T.") else name
            return name, {"width": 4032, "height": 3024, "exif": {"Make": maker, "Model": model}}
        ending = choice(_KINDS[way][1].split())
        if way == "screenshot":
            stem = choice(_SCREENSHOTS).format(f"{at:%Y-%m-%d}", f"{at:%H.%M.%S}")
            return f"{stem}.{ending}", {"width": 1920, "height": 1080}
        if way == "scan":
            return choice((f"Scan_{at:%Y-%m-%d}_{number:04d}", f"scan{number:04d}", f"SCN_{number}")) + f".{ending}", {}
        if way == "video":
            stem = choice(
                (f"MVI_{number:04d}", f"VID_{at:%Y%m%d_%H%M%S}", f"GOPR{number:04d}", self._title(language, at))
            )
            return f"{stem}.{ending}", {
                "width": 1920,
                "height": 1080,
                "duration": round(self._random.lognormvariate(4, 1), 1),
            }
        if way == "audio":
            stem = choice((f"{number % 30 + 1:02d} {self._title(language, at)}", f"Recording_{at:%Y%m%d}_{number}"))
            return f"{stem}.{ending}", {"duration": round(self._random.lognormvariate(5, 0.6), 1)}
        if way == "archive":
            return choice((f"backup-{at:%Y-%m-%d}-{number}", self._title(language, at))) + f".{ending}", {}
        return f"{self._title(language, at)}.{ending}", {"pages": number % 40 + 1} if way == "document" else {}

    def _title(self, language: Language, at: datetime) -> str:
        """What people call their documents: with dates, numbers, versions, and every separator there is."""
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
        """What the file says: some 30 to 3,000 words in its language, frequent and rare as in real texts."""
        language = file.language
        count = min(3_000, 30 + int(self._random.lognormvariate(5.3, 0.8)))
        words, weights = _vocabulary(language.code)
        written = self._random.choices(words, cum_weights=weights, k=count)
        for _ in range(count // 60):  # what it is about comes up again and again
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
    """Words of the language, most frequent first, and Zipf's weights; the same in every run."""
    language = next(language for language in LANGUAGES if language.code == code)
    mix = random.Random(code)  # noqa: S311
    rare = [stem + ending for stem in language.stems for ending in language.endings]
    while len(rare) < _VOCABULARY:
        rare.append(mix.choice(language.stems) + mix.choice(language.stems).casefold() + mix.choice(language.endings))
    mix.shuffle(rare)
    words = list(dict.fromkeys([*language.common, *language.subjects, *rare]))
    return words, _zipf(len(words), flat=2.7)


def _zipf(count: int, flat: float = 1) -> list[float]:
    """Cumulated weights: the nth most frequent of ``count`` things comes about once for n times of the first."""
    return list(accumulate(1 / (rank + flat) for rank in range(count)))


def _id_at(at: datetime) -> UUID:
    """A UUIDv7 of that time (RFC 9562 §5.7): the order of ids is that of uploads, as it is in use."""
    millis = int(at.timestamp() * 1_000)
    rest = 0x7 << 76 | secrets.randbits(12) << 64 | 0b10 << 62 | secrets.randbits(62)
    return UUID(int=(millis & (1 << 48) - 1) << 80 | rest)
