"""HL7 messages: text, escape sequences, character sets and numbers of orders; damage is named."""

import pytest

from mrm.data.hl7 import read_messages
from mrm.system.errors import MRMError, ReportError
from tests.support.report_documents import oru


def report(message: str, encoding: str = "utf-8"):
    (found,) = read_messages(message.encode(encoding), "r.hl7").reports
    return found


def test_the_text_of_a_report_and_the_numbers_of_its_order():
    found = report(oru("A7", "Größe normal.", "Kein Erguss.", placer="P9"))
    assert found.text == "Größe normal.\nKein Erguss."
    assert (found.keys, found.time, found.patient) == (("A7", "P9"), "20240131120000", "p1")


@pytest.mark.parametrize(
    ("written", "text"),
    [
        (r"one\.br\two", "one\ntwo"),
        (r"a\F\b\S\c\T\d\R\e\E\f", "a|b^c&d~e\\f"),
        (r"\H\bold\N\ text", "bold text"),
        (r"\XC3A4\ \X41\\X42\ ", "ä A" + "B "),
        (r"one\.sp2\two\.in+4\three", "one\n\ntwothree"),
        ("one~two", "one\ntwo"),
        (r"C:\path and 5\6", r"C:\path and 5\6"),  # no escape sequences
        (r"\Zxy\end\C2842\ ", "end "),
    ],
)
def test_escape_sequences_are_what_they_stand_for(written, text):
    assert report(oru("A7", written)).text == text


@pytest.mark.parametrize(
    ("charset", "encoding"),
    [
        ("UNICODE UTF-8", "utf-8"),
        ("8859/1", "latin-1"),
        ("8859/15", "iso8859-15"),
        ("", "cp1252"),
        ("ASCII", "cp1252"),
        ("", "utf-8"),
    ],
)
def test_the_character_set_is_the_one_that_is_stated_or_found_out(charset, encoding):
    assert report(oru("A7", "Größe, à 39", charset=charset), encoding).text == "Größe, à 39"


@pytest.mark.parametrize(("charset", "encoding"), [("GB 18030-2000", "gb18030"), ("KS X 1001", "euc-kr")])
def test_character_sets_of_other_scripts(charset, encoding):
    text = "肺炎" if encoding == "gb18030" else "폐렴"
    assert report(oru("A7", text, charset=charset), encoding).text == text


def test_a_file_of_several_messages_with_frames_and_a_batch():
    content = (
        "FHS|^~\\&\rBHS|^~\\&\r"
        + "".join(f"\x0b{oru(f'A{n}', f'Report {n}.')}\x1c\r" for n in range(3))
        + "BTS|3\rFTS|1\r"
    )
    found = read_messages(content.encode(), "r.hl7")
    assert [(r.keys[0], r.text) for r in found.reports] == [(f"A{n}", f"Report {n}.") for n in range(3)]


def test_several_orders_in_a_message_and_lines_with_any_line_end():
    text = oru("A1", "First.").rstrip("\r") + "\rOBR|2|P2|A2^RIS\rOBX|1|FT|x||Second.\\.br\\Line.\r"
    for end in ("\r", "\n", "\r\n"):
        found = read_messages(text.replace("\r", end).encode(), "r.hl7")
        assert [(r.keys, r.text) for r in found.reports] == [(("A1", "P"), "First."), (("A2", "P2"), "Second.\nLine.")]


def test_other_separators_are_those_that_the_message_states():
    text = "MSH*:;!?*a*b*c*d*20240101**ORU:R01*1*P*2.3\rOBR*1**A7:RIS\rOBX*1*TX*x**one!F!two;three\r"
    assert report(text).text == "one*two\nthree"


def test_what_is_no_report_is_counted():
    adt = oru("A1", "x").replace("ORU^R01^ORU_R01", "ADT^A01")
    pdf = oru("A2").rstrip("\r") + "\rOBX|1|ED|x||^application^pdf^Base64^JVBE\rOBX|2|TX|x||withdrawn||||||W\r"
    found = read_messages((adt + pdf).encode(), "r.hl7")
    assert found.reports == []
    assert found.left_out == [
        "a message of type ADT, which holds no report",
        "an OBX segment of type ED, which is no text",
        "an order without text",
    ]


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ("PID|1||p1\r", "not an HL7 message; the first segment of one begins with MSH"),
        ("", "not an HL7 message"),
        ("MSH\r", "damaged; MSH must be followed by its separators"),
        ("MSHabcdefgh\r", "damaged; MSH must be followed by its separators"),
        ("MSH||||||||ORU\r", "damaged; MSH must be followed by its separators"),
        (oru("A7", "text").partition("OBR")[0], "no OBR segment, so the order of the report is not known; .* cut off"),
        (oru("A7", "text").replace("|P|A7^RIS|", "|||"), "an OBR segment without an order number"),
        (
            oru("A7", "text").partition("xt||")[0],
            "cut off in its last OBX segment, so the end of the report is missing",
        ),
        (oru("A7", "text", charset="UNICODE UTF-9"), "unknown encoding 'UNICODE UTF-9'"),
    ],
)
def test_a_damaged_message_is_named(message, reason):
    with pytest.raises((ReportError, MRMError), match=reason):
        read_messages(message.encode(), "r.hl7")


def test_a_damaged_message_among_others_is_named_by_its_number():
    with pytest.raises(ReportError, match=r"r\.hl7, message 2: damaged"):
        read_messages((oru("A7", "text") + "MSH\r").encode(), "r.hl7")
