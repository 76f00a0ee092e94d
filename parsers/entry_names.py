"""Names in archives that do not say how they are encoded, as those of old Windows versions and of Finder do not.

Names are too short for the statistics that guess a text's encoding, but all names of an archive share one, and what a wrong
encoding makes of letters are symbols, letters of other scripts within a word, and capitals after small letters.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from itertools import accumulate, pairwise

_SAMPLE = 4_000  # bytes of names that are not ASCII
_LOOKED_AT = 256  # characters of a name in UTF-8
_USUAL = set(
    "абвгдежзийклмнопрстуфхцчшщыьэюяАБВГДЕЖЗИЙКЛМНОПРСТУФХЦЧШЩЫЬЭЮЯёЇїІіЄєҐґ"
    "äöüÄÖÜßéèêëÉÈÊàâáãÀÁçÇîïíñÑóòôÓÔúùûÚåÅæÆøØąćęłńśźżŁŚŻčďěňřšťůýžČŘŠŽőűğışİŞ"
)
_SCRIPTS = {
    "LATIN": "cp437 cp850 cp1252 cp852 cp1250 cp857 cp1254",
    "CYRILLIC": "cp866 cp1251 koi8_r",
    "GREEK": "cp737 cp1253",
    "HEBREW": "cp1255",
    "ARABIC": "cp1256",
    "THAI": "cp874",
}
_SCRIPT_OF = {encoding: script for script, encodings in _SCRIPTS.items() for encoding in encodings.split()}
_PRIOR = {"koi8_r": 0.9, "cp737": 0.8, "cp1253": 0.8, "cp1255": 0.8, "cp1256": 0.88, "cp874": 0.7}  # rarer than others
# The first bytes of a character's two that are common, and the least second byte of these.
_COMMON: dict[str, tuple[frozenset[int], int]] = {
    "cp932": (frozenset([0x81, 0x82, 0x83, *range(0x88, 0x98)]), 0x40),
    "cp949": (frozenset(range(0xB0, 0xC9)), 0xA1),
    "gb18030": (frozenset([0xA1, 0xA3, *range(0xB0, 0xD8)]), 0xA1),
    "big5": (frozenset([0xA1, *range(0xA4, 0xC7)]), 0x40),
    "euc_jp": (frozenset([0xA1, 0xA4, 0xA5, *range(0xB0, 0xD0)]), 0xA1),
}
# EUC-KR and GBK have the same bytes: what tells them apart are the characters that names are made of.
_FREQUENT = set(
    "가간강개견결계고과관교구국그금기김나내년다단당대더도동드등라로료류름리마막매면명목무문미민바박반방버보본부비사"
    "산상새생서선설성세소속수스시식신안양어업여연영오요용우원월유은음의이인일임입자작장재적전정제조종주중증지진차천"
    "청체초최추출치코크타터통트파판평포폴표품프하학한합해행현호화확회획"
    "一七万三上下不与专世业东两个中为主么义之九也习书了争事二于五些交产京亲人什今从他代令以们件价任份众会传似但位住"
    "体何作你使便保信倒候做像儿元先光党入全八公六共关兵其内再写军决几出分则利别到制前副力办功加务动包化北区十千半华"
    "单南即却历原去又及友双反发取受变口只叫可台史司吃各合同名后向听告员呢周命和品商喜四回因国图在地场坏城培基士声处"
    "备外多大天太夫失头夹女她好如始委子字学孩它安完定实家容对导将小少就展山工己已市师带常干平年并广应度建开式弟张强"
    "当录形影往很得德心必志快怎思性总息情想意感成我或战房所手才打找技把报拿持指据接提收改放政教数文料斯新方无日早时"
    "明是更最月有服望期未本术机权李条来极林果校样格案档次正此步武死每比毛民气水求江没治法活派流测济海深清满火点然照"
    "爱父片版物特王现理甚生用由电界留白百的目直相看真眼着知石研社神票离种科程究空立站笑第等简算管系红组经结给统网置"
    "美老者而联能脸自至色花若英落虽行表被西要见观视觉解计认让训议记许论设识试话该语说请读课谁象资走起越跟路身车转软"
    "轻载边达过运近还这进远连通造道那部都里重量金钱长门问间队附际院难青非面革音项领题风飞首香马高黄"
)
_WORD = re.compile("[A-Za-z\u0080-\U0010ffff]+")


def decode_all(names: Sequence[bytes | str], *, usual: str = "cp437") -> list[str]:
    """The names of one archive as text, which some may be. Others are in UTF-8 if most of them are; ``usual``: the encoding if
    nothing speaks for another."""
    foreign = [name for name in names if isinstance(name, bytes) and not name.isascii()]
    utf8 = {name for name in foreign if _is_utf8(name)}
    if 2 * sum(name in utf8 for name in foreign) < len(foreign):
        utf8 = set()
    encoding = _guess([name for name in foreign if name not in utf8], usual)
    encodings = dict.fromkeys(utf8, "utf-8")
    return [one if isinstance(one, str) else one.decode(encodings.get(one, encoding), "replace") for one in names]


def _is_utf8(name: bytes) -> bool:
    """Whether this is UTF-8, and not by chance: pairs of bytes in other encodings can be, but are of several scripts then."""
    try:
        words = _WORD.findall(name.decode()[:_LOOKED_AT])
    except UnicodeDecodeError:
        return False
    for word in words:
        letters = [letter for letter in word if "\x7f" < letter < "\u0800" and letter.isalpha()]
        scripts = {unicodedata.name(letter, "").partition(" ")[0] for letter in letters}
        if len(scripts) > 1 or unicodedata.combining(word[0]):
            return False
    return True


def _guess(names: Iterable[bytes], usual: str) -> str:
    parts = dict.fromkeys(part for name in names for part in name.split(b"/") if not part.isascii())
    sizes = accumulate(map(len, parts))
    sample = [part for part, size in zip(parts, sizes, strict=True) if size <= max(_SAMPLE, len(part))]
    best, most = usual, 0.3
    for encoding in dict.fromkeys([usual, *_SCRIPT_OF, *_COMMON]):
        try:
            words = [word for part in sample for word in _WORD.findall(part.decode(encoding)) if not word.isascii()]
        except UnicodeDecodeError:
            continue
        score = sum(_score(word, encoding) for word in words) / max(1, len(words)) * _PRIOR.get(encoding, 1)
        if score > most + 0.01:
            best, most = encoding, score
    return best


def _score(word: str, encoding: str) -> float:
    """From 0 to 1: how much this looks like a word."""
    foreign = [letter for letter in word if not letter.isascii()]
    mixed = len(foreign) < len(word)
    if encoding in _COMMON:
        return sum(_of_two_bytes(letter, encoding) for letter in foreign) / len(foreign) * (0.6 if mixed else 1)
    script = _SCRIPT_OF[encoding]
    score = (sum(_letter(letter, script) for letter in foreign) / len(foreign)) ** 2
    if script == "LATIN":
        score *= 0.6 ** sum(not one.isascii() and not other.isascii() for one, other in pairwise(word))
        score *= 1 if mixed else 0.7
    elif mixed or len(word) == 1:
        score *= 0.5
    score *= 0.5 ** sum(one.islower() and other.isupper() for one, other in pairwise(word))
    return score * (0.95 if len(word) > 1 and word.isupper() else 1)


def _letter(letter: str, script: str) -> float:
    if not unicodedata.name(letter, "").startswith(script) or not (letter.isalpha() or script == "THAI"):
        return 0
    if script == "THAI" and not letter.isalpha():
        return 0.9
    return 1 if letter in _USUAL or script not in ("LATIN", "CYRILLIC") else {"LATIN": 0.8, "CYRILLIC": 0.6}[script]


def _of_two_bytes(letter: str, encoding: str) -> float:
    data = letter.encode(encoding)
    if len(data) != 2:
        return 0.1  # half-width katakana, and the rare characters of GB 18030
    leads, least = _COMMON[encoding]
    if data[0] not in leads or data[1] < least:
        return 0.4
    if encoding == "euc_jp":
        return 1 if data[0] in b"\xa4\xa5" else 0.75
    return 1 if letter in _FREQUENT else {"cp932": 1, "big5": 0.82, "cp949": 0.7}.get(encoding, 0.6)
