from __future__ import annotations

import codecs

import pytest

from core.charsets import decoded, detect, is_text, label

CHINESE = "这是一个没有标记的测试文件，内容全部是中文。\n第二行也是中文。\n"

# Short texts as people have them, and the encodings that each must be read from.
TABLE = [
    ("Grüße aus München", "utf-8 utf-16-le utf-16-be cp1252 cp850 mac_roman"),
    ("Größe: 5 m²; Fläche: Überlänge, Straße, Äpfel", "cp1252 cp850 cp437"),
    ("name;amount\nMüller;12,50\n", "utf-8 cp1252 cp850 mac_roman"),
    ("id;straße;ort\n1;Königsstraße 5;Köln\n2;Österreicher Weg;Düsseldorf\n", "cp1252 cp850 cp437 mac_roman"),
    ("error: C:\\Benutzer\\Müller\\größe.txt\nok\nok\n", "cp1252 cp850"),
    ("└── src\n    ├── main.c\n    └── Änderungen.txt\n", "utf-8 cp437 cp850"),
    ("╔═══╗\n║ DOS ║\n╚═══╝\nÄpfel", "utf-8 cp437 cp850"),
    ("┌───┐\n│ Привет │\n└───┘\n", "cp866"),
    ("Café", "cp1252 cp850"),
    ("ÄÖÜ", "cp1252"),
    ("Voilà un café à Orléans. L'élève a été reçu.", "cp1252 cp850 mac_roman"),
    ("Prix: 12 € l'été à la crème brûlée, cœur", "cp1252 iso8859_15"),
    ("El niño comió piñas en España. ¿Cuándo volverá?", "cp1252 cp850 mac_roman"),
    ("JOSÉ NUÑEZ; CALLE MAYOR", "cp1252"),
    ("São Paulo, informações, não há ações", "cp1252 cp850"),
    ("Smörgåsbord på väg. Blåbärssoppa är gott.", "cp1252 cp850 cp437"),
    ("“Smart quotes” – it’s a dash…", "cp1252 utf-16-le"),
    ("Price: £5 and ©2020", "cp1252"),
    ("20° C, 30 µm, ±5", "cp1252"),
    ("Zażółć gęślą jaźń, proszę bardzo. Dziękuję za wiadomość i życzę miłego dnia.", "cp1250 iso8859_2"),
    ("Wrocław; Gdańsk; Białystok", "cp1250 iso8859_2"),
    ("Škola a děti. Český jazyk je těžký.", "cp1250 iso8859_2"),
    ("Árvíztűrő tükörfúrógép. Köszönjük szépen a megrendelést!", "cp1250 iso8859_2"),
    ("Привет, мир", "utf-8 utf-16-le utf-16-be cp1251 koi8_r cp866"),
    ("Счёт на оплату № 15 от 12 марта", "cp1251"),
    ("id;имя\n1;Иван Петров\n2;Мария\n", "cp1251 koi8_r cp866"),
    ("Добрый день! Высылаю вам USB-кабель и Wi-Fi роутер по адресу.", "cp1251 koi8_r cp866"),
    ("Καλημέρα κόσμε. Αυτό είναι ένα αρχείο δοκιμής.", "utf-16-le cp1253"),
    ("שלום עולם. זהו קובץ בדיקה.", "utf-16-be cp1255"),
    ("مرحبا بالعالم. هذا ملف اختبار.", "utf-16-le cp1256"),
    ("Bu bir deneme dosyasıdır. Günaydın, şöyle güzel bir ağaç.", "cp1254"),
    ("Sveika pasaule, šī ir pārbaudes datne ar garumzīmēm un mīkstinājumiem: ņemt, ģimene", "cp1257"),
    ("สวัสดีชาวโลก นี่คือไฟล์ทดสอบ", "utf-16-le cp874"),
    ("請求書を送付いたします。よろしくお願いします。", "shift_jis euc_jp iso2022_jp utf-16-le"),
    ("これはテスト", "shift_jis euc_jp iso2022_jp"),
    ("第①章　株式会社", "cp932"),
    ("ﾃｽﾄ 半角カナ データ", "shift_jis"),
    ("您好，世界。这是一个测试文件。", "gb18030 gbk utf-16-le utf-16-be"),
    (CHINESE, "utf-8 utf-16-le utf-16-be gb18030"),
    ("联通", "gb18030"),
    ("姓名,地址\n张三,北京市\n", "gb18030"),
    ("您好，世界。這是一個測試檔案。", "big5"),
    ("姓名,地址\n張三,台北市\n", "big5 utf-16-le"),
    ("안녕하세요. 이것은 시험 문서입니다.", "euc_kr utf-16-le utf-16-be"),
    ("이름,주소\n홍길동,서울\n", "euc_kr cp949"),
    ("a 😀 b 👍🏽\r\n", "utf-8 utf-16-le utf-16-be"),
    ("\x1b[31mrot\x1b[0m: Prüfung\f\r\n", "utf-8 utf-16-le cp1252"),
]


@pytest.mark.parametrize(("text", "encoding"), [(text, name) for text, names in TABLE for name in names.split()])
def test_T83_an_encoding_without_a_mark_is_guessed(text: str, encoding: str) -> None:
    data = text.encode(encoding)
    found = detect(data)
    assert found is not None
    assert decoded(data, found) == text
    assert is_text(data)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("text", ["Grüße", CHINESE, ""])
def test_T83_a_byte_order_mark_decides(text: str, encoding: str) -> None:
    data = text.encode(encoding)
    assert decoded(data, str(detect(data))) == text


def test_T83_big_endian_marks() -> None:
    for mark, encoding in ((codecs.BOM_UTF16_BE, "utf-16-be"), (codecs.BOM_UTF32_BE, "utf-32-be")):
        assert detect(mark + CHINESE.encode(encoding)) == encoding


@pytest.mark.parametrize(
    "data",
    [
        "Grüße\n".encode() * 9 + b"a stray \xfc\n",
        b"GET /\xe9 404\n" + "Zugriff verweigert für Übung\n".encode() * 9,
        b"\0" * 500 + "Grüße".encode(),  # a log after its rotation
        "Grüße".encode() + b"\0" * 500,
        b"",
        b"dir\r\n\x1a",  # DOS marks the end
        b"8=FIX.4.2\x019=178\x0135=8\x01",
        b"+AGEAYg-",  # UTF-7 is never read
        ("x" * 70_000 + "ü").encode(),
    ],
)
def test_T83_utf_8_in_spite_of_stray_bytes(data: bytes) -> None:
    assert detect(data) == "utf-8"


def test_T83_what_follows_a_long_ascii_beginning_counts() -> None:
    assert detect(b"GET / 200\n" * 9_000 + "Grüße aus München\n".encode("cp1252")) == "cp1252"


@pytest.mark.parametrize("text", ["Grüße", "日本語のテキスト", "a😀"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_T83_a_character_cut_in_two_does_not_change_the_encoding(text: str, encoding: str) -> None:
    for end in range(len(text.encode(encoding)) - 1, len(text[:-1].encode(encoding)), -1):
        data = text.encode(encoding)[:end]
        found = str(detect(data, cut=True))
        assert (found[:6], decoded(data, found)) == (encoding[:6], text[:-1])


@pytest.mark.parametrize(
    "data",
    [
        bytes(99),
        b"\x7fELF\x02\x01\x01" + bytes(99),
        bytes(range(256)) * 9,
        b"\x89PNG\r\n\x1a\n\0\0\0",
        b"!<arch>\n/               0     \0\0\x01\0" + b"function_name\0" * 99,  # ASCII in pairs is Chinese
        b"\x1f\x8b\x08\0\0\0\0\0\x02\xff\x01\x02\x03\x04\x05\x06",
    ],
)
def test_what_is_no_text(data: bytes) -> None:
    assert detect(data) is None
    assert not is_text(data)


@pytest.mark.parametrize("encoding", ["cp932", "euc_jp", "gb18030", "koi8_r", "cp1252", "cp437"])
def test_T83_a_few_words_in_much_source_code_are_enough(encoding: str) -> None:
    """As VS Code and GitLab were reported to show them: comments in code that is ASCII."""
    comments = {
        "gb18030": "释放内存",
        "koi8_r": "освободить память",
        "cp932": "メモリを解放する",
        "euc_jp": "表示処理です",
    }
    comment = comments.get(encoding, "Speicher für Größe freigeben")
    code = "int main(void) {\n    return 0;\n}\n" * 500 + f"/* {comment} */\n" + "int x;\n" * 9_000
    data = code.encode(encoding)
    assert decoded(data, str(detect(data))) == code
    assert decoded(data, str(detect(data[:65_536], cut=True))) == code


def test_labels_are_those_that_browsers_know() -> None:
    names = ["utf-8", "utf-16-le", "cp1252", "cp932", "shift_jis", "euc_jp", "koi8_r", "gb18030", "big5", "mac_roman"]
    assert [label(name) for name in names] == [
        *("utf-8", "utf-16le", "windows-1252", "shift_jis", "shift_jis", "euc-jp", "koi8-r", "gb18030", "big5"),
        "macintosh",
    ]
    assert (label("x\r\ny"), label(None), label("gzip")) == (None, None, None)
