from __future__ import annotations

import io
from base64 import b64encode
from typing import Any

import pytest

from parsers import mail
from parsers.reading import read


def parsed(data: bytes, mime: str = "message/rfc822") -> dict[str, Any]:
    return mail.parse(data, {"mime_type": mime, "want": ["text", "document"], "head": 1 << 24})[0]


def content(data: bytes, mime: str = "message/rfc822") -> str:
    return str(parsed(data, mime)["document"]["content"])


# As Outlook and Apple Mail build them: the alternatives in what belongs together, in a message with attachments.
MIXED = b"""Return-Path: <a@example.org>
From: "M=?iso-8859-1?Q?=FCller?=, Max" <max@example.org>
To: =?gb2312?B?1cXI/Q==?= <zhang@example.org>,
\t=?unknown-8bit?Q?Andr=E9?= <andre@example.org>
Date: Mon, 1 Jan 2024 10:00:00 +0100
Subject: =?ISO-2022-JP?B?GyRCRnxLXBsoQg==?=
 =?ISO-2022-JP?B?GyRCOGwbKEI=?= and caf=?utf-8?Q?=C3?= =?utf-8?Q?=A9_au_lait?=
Content-Type: multipart/mixed; boundary="mix"

This is a multi-part message in MIME format.
--mix
Content-Type: multipart/related; boundary=rel

--rel
Content-Type: multipart/alternative; boundary=alt

--alt
Content-Type: text/html; charset=utf-8

<p>not this one</p>
--alt
Content-Type: text/plain; charset=iso-8859-1
Content-Transfer-Encoding: quoted-printable

Gr=FC=DFe aus M=FCnchen =
und mehr
--alt--
--rel
Content-Type: image/png; name="=?utf-8?B?TG9nw7YucG5n?="
Content-Transfer-Encoding: base64

AAAA
--rel--
--mix
Content-Type: application/pdf
Content-Disposition: attachment; filename*0*=utf-8''R%C3%A9; filename*1*=sum%C3%A9.pdf

x
--mix
Content-Type: application/ms-tnef; name="winmail.dat"

x
--mix
Content-Type: text/plain; name="notes.txt"
Content-Disposition: attachment

not shown
--mix
Content-Type: message/rfc822

From: inner@example.org
Subject: Inner

The attached message
--mix--
"""


def test_a_message_with_alternatives_attachments_and_another_message() -> None:
    found = read(io.BytesIO(MIXED), "message/rfc822", name="x.eml", want=frozenset({"metadata", "text", "document"}))
    assert found.document is not None
    assert found.document["content"] == (
        'From: "Müller, Max" <max@example.org>\n'
        "To: 张三 <zhang@example.org>, André <andre@example.org>\n"
        "Date: Mon, 1 Jan 2024 10:00:00 +0100\n"
        "Subject: 日本語 and café au lait\n\n"
        "Grüße aus München und mehr\n\n"
        "From: inner@example.org\nSubject: Inner\n\nThe attached message\n\n"
        "Attachments: Logö.png, Résumé.pdf, winmail.dat, notes.txt"
    )
    assert not found.document["truncated"]
    assert found.metadata["title"] == "日本語 and café au lait"
    assert found.metadata["author"] == '"Müller, Max" <max@example.org>'
    assert found.text is not None and "und mehr" in found.text and "not this one" not in found.text


def message(body: bytes, content_type: str = "", encoding: str = "") -> bytes:
    head = "Subject: s\r\n" + (f"Content-Type: {content_type}\r\n" if content_type else "")
    head += f"Content-Transfer-Encoding: {encoding}\r\n" if encoding else ""
    return head.encode() + b"\r\n" + body


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (message(b64encode("Übergabe 日本".encode()), "text/plain; charset=utf-8", "base64"), "Übergabe 日本"),
        (message("Übergabe".encode("cp1252"), "text/plain; charset=iso-8859-1", "8bit"), "Übergabe"),
        (message("“Übergabe” 5 €".encode("cp1252"), "text/plain; charset=iso-8859-1", "8bit"), "“Übergabe” 5 €"),
        (message("Übergabe".encode(), "text/plain; charset=us-ascii"), "Übergabe"),
        (message("Übergabe".encode("cp1252")), "Übergabe"),
        (message("Привет, мир".encode("koi8_r"), "text/plain; charset=x-unknown"), "Привет, мир"),
        (message("Привет, мир".encode("koi8_r"), "text/plain; charset=utf-8"), "Привет, мир"),
        (message("日本語".encode("iso2022_jp"), "text/plain; charset=ISO-2022-JP", "7bit"), "日本語"),
        (message("张三①".encode("gb18030"), "text/plain; charset=gb2312"), "张三①"),
        (message(b"<head><style>p{}</style><title>t</title><body><p>Gr&uuml;&szlig;e<br>b", "text/html"), "Grüße\nb"),
        (message('<meta charset="windows-1251"><p>Мир'.encode("cp1251"), "text/html"), "Мир"),
        (message(b64encode("Übergabe 日本".encode())[:-1], "text/plain", "base64"), "Übergabe 日本"),
        (message(b64encode(b"with a footer") + b"\n-- \nList", "text/plain", "base64"), "with a footer"),
        (message(b"not base64: \xc3\xbc", "text/plain", "base64"), "not base64: ü"),
        (message(b64encode(b"Subject: in\n\nside"), "message/rfc822", "base64"), "Subject: in\n\nside"),
        (message(b"--b\n\nparts", "multipart/mixed; boundary=b", "base64"), "parts"),
        (message(message(b"a", "multipart/mixed; boundary=c"), "message/rfc822", "base64"), "Subject: s\n\na"),
        (message(b"no boundary", "multipart/mixed"), "no boundary"),
        (message(b"--\r\n\r\nempty boundary\r\n----\r\n", 'multipart/mixed; boundary=""'), "empty boundary"),
        (message(b"--b\r\n\r\nno end", "multipart/mixed; boundary=b"), "no end"),
        (message(b"BEGIN:VCALENDAR\r\nSUMMARY:x", "text/calendar"), "BEGIN:VCALENDAR\nSUMMARY:x"),
        (b"\xef\xbb\xbf" + message(b"after a mark"), "after a mark"),
        (message("Ü".encode()).decode().encode("utf-16"), "Ü"),
        (b"From sender@example.org Mon Jan  1\r\n" + message(b"with an envelope"), "with an envelope"),
    ],
)
def test_T83_bodies_are_decoded(data: bytes, text: str) -> None:
    assert content(data) == f"Subject: s\n\n{text}"


@pytest.mark.parametrize(
    ("raw", "subject"),
    [
        (b"=?utf-8?Q?Gr=C3=BC=C3=9Fe?=", "Grüße"),
        ("Grüße".encode(), "Grüße"),
        ("Grüße".encode("cp1252"), "Grüße"),
        (b"=?iso-8859-1*de?q?Gr=FC=DFe?= x", "Grüße x"),
        (b"=?utf-8?Q?Gr=C3=BC=C3=9Fe aus?=  =?utf-8?B?TcO8bmNoZW4?=", "Grüße ausMünchen"),
        (b"a =?utf-8?B?A?= b", "a A b"),
        (b"=?x-nonsense?Q?Gr=FC=DFe?=", "Grüße"),
        (b"=?rot13?Q?abc?= =?utf-8?Q?", "abc =?utf-8?Q?"),
    ],
)
def test_T83_subjects_are_decoded(raw: bytes, subject: str) -> None:
    assert parsed(b"Subject: " + raw + b"\r\n\r\nx")["metadata"]["title"] == subject


def test_a_delivery_report_shows_its_fields() -> None:
    report = (
        b"Subject: failed\nContent-Type: multipart/report; boundary=b\n\n--b\n\nSorry\n"
        b"--b\nContent-Type: message/delivery-status\n\nReporting-MTA: dns; x\n\n"
        b"Final-Recipient: rfc822; a@b\nStatus: 5.1.1\n\n--b--\n"
    )
    assert content(report).endswith("Sorry\n\nReporting-MTA: dns; x\n\nFinal-Recipient: rfc822; a@b\nStatus: 5.1.1")


def test_a_mailbox_shows_its_messages() -> None:
    box = b"From a@b Mon Jan 1\nSubject: one\n\nfirst\n\nFrom c@d Tue Jan 2\nSubject: two\n\nsecond\n"
    assert content(box, mime="application/mbox") == "Subject: one\n\nfirst\n\nSubject: two\n\nsecond"


def test_what_is_no_mail_is_shown_as_text() -> None:
    assert content("nur Text, größer als nichts".encode("cp1252")) == "nur Text, größer als nichts"


@pytest.mark.parametrize(
    "data",
    [
        b"".join(b"Content-Type: multipart/mixed; boundary=b%d\n\n--b%d\n" % (n, n) for n in range(3000)),
        b"Content-Type: message/rfc822\n\n" * 20_000 + b"\nx",
        b"Subject: " + b"=?" * 500_000 + b"\n\nx",
        b"Content-Type: text/plain; " + b"a*0=1;" * 20_000 + b"\n\nx",
        b"Content-Type: text/plain; name*x*=\xff'\n\nx",
    ],
)
def test_T83_hostile_mail_is_still_shown(data: bytes) -> None:
    assert content(data)
