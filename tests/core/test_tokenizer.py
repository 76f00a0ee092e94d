from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.tokenizer import MAX_LEXEME_BYTES, is_near, misspellable, parts, phrase, swapped, text_vector, tokens, words

ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=200)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("AnnualReport2026_final.pdf", ["annual", "report", "2026", "final", "pdf"]),
        ("PDFReport HTTPServer iPhone", ["pdf", "report", "http", "server", "i", "phone"]),
        ("mp3-v2.tar.gz", ["mp", "3", "v", "2", "tar", "gz"]),
        ("a3f9c2b7e1d4f6a8", ["a3f9c2b7e1d4f6a8"]),
        ("Straße ÉTÉ", ["strasse", "été"]),
        ("東京都庁", ["東京", "京都", "都庁", "庁"]),
        ("駅 と", ["駅", "と"]),
        ("報告Report", ["報告", "告", "report"]),
        ("ประเทศ", ["ปร", "ระ", "ะเ", "เท", "ทศ", "ศ"]),
        ("हिन्दी भाषा", ["हिन्दी", "भाषा"]),
        ("re\u0301sume\u0301", ["résumé"]),
        ("%_\\ - ", []),
    ],
)
def test_words_of_a_text(text: str, found: list[str]) -> None:
    assert words(text) == found


@given(ANY_TEXT, ANY_TEXT, st.text("東京都庁は新宿にありますประเทศ", min_size=1, max_size=6))
def test_a_run_is_found_as_a_phrase_at_any_position(before: str, behind: str, run: str) -> None:
    held = words(before + run + behind)
    sought = phrase(run)
    places = [held[at : at + len(sought)] for at in range(len(held))]
    assert sought in places or (len(run) == 1 and any(word.startswith(run) for word in held))


def test_tokens_list_a_word_with_its_parts() -> None:
    assert list(tokens("Report2026 plan")) == [("report2026", ["report", "2026"]), ("plan", ["plan"])]
    assert parts("新宿駅 Report2026") == ["新宿駅", "report", "2026"]


@pytest.mark.parametrize(
    ("word", "other", "near"),
    [
        ("reprot", "report", True),
        ("report", "reports", True),
        ("repot", "report", True),
        ("rebort", "report", True),
        ("screnshoot", "screenshot", True),
        ("resume", "résumé", True),
        ("plan", "plum", False),
        ("rpt", "report", False),
        ("report", "reporting", False),
        ("2024", "2025", False),
        ("invoice", "voice", False),
    ],
)
def test_near_words(word: str, other: str, near: bool) -> None:
    assert is_near(word, other) is near and is_near(other, word) is near


@given(st.text("abcd", min_size=4, max_size=12), st.integers(0, 10))
def test_a_swap_of_adjacent_letters_is_always_near(word: str, at: int) -> None:
    at %= len(word) - 1
    assert is_near(word, word[:at] + word[at + 1] + word[at] + word[at + 2 :])


@pytest.mark.parametrize(
    ("word", "may"), [("abc", False), ("abcd", True), ("12345", False), ("新宿駅前", False), ("x" * 33, False)]
)
def test_only_words_of_some_length_are_corrected(word: str, may: bool) -> None:
    assert misspellable(word) is may


def test_swapped() -> None:
    assert swapped("plan") == ["lpan", "paln", "plna"]


# -- texts ----------------------------------------------------------------------------------------------------


def test_a_text_as_a_vector_has_words_tokens_and_places() -> None:
    vector, distinct = text_vector("Plan plan, Report2026. 新宿")
    words, pairs = ("'plan':1,2 'report2026':3 'report':3 '2026':4 '新宿':5 '宿':6", ["plan plan", "plan report"])
    assert vector.startswith(words + " '" + "' '".join(pairs) + "' ") and vector.endswith("'新宿 宿'")
    assert distinct == ["plan", "report2026", "report", "2026", "新宿", "宿"]


def test_T83_as_many_words_are_indexed_as_fit() -> None:
    vector, distinct = text_vector(" ".join(f"word{n:x}word" for n in range(250_000)))
    assert 10_000 < len(distinct) < 100_000 and len(vector.encode()) < 3 * MAX_LEXEME_BYTES
    vector, _ = text_vector("same " * 100_000)
    assert vector.count(",") < 255


@given(ANY_TEXT)
def test_T83_nothing_in_a_vector_needs_quoting(text: str) -> None:
    assert not set("'\\ \0") & set("".join(text_vector(text)[1]))
