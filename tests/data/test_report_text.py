"""Reports as cells and files hold them: markup is removed, words stay, and shared lines are found."""

import time

import pytest

from mrm.data.report_text import plain_text, shared_lines
from mrm.system.errors import ReportError

RTF = r"{\rtf1\ansi\ansicpg1252{\fonttbl{\f0 Arial;}}{\colortbl;\red0;}\f0\fs20 Gr\'f6\'dfe normal.\par Kein \b Erguss\b0. < 5 mm \u8211?\par}"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (RTF, "Größe normal.\nKein Erguss. < 5 mm –"),
        (r"{\rtf1\ansi{\*\generator Word;}{\header Klinikum}one\line two\tab three}", "one\ntwo three"),
        (r"{\rtf1\ansi\uc1 \u-10179?\u-8694? end}", "\U0001f60a end"),  # the halves of one character
        (
            "<html><head><title>x</title><style>p{}</style></head><body><p>A &lt; B</p><p>C&nbsp;D</p></body></html>",
            "A < B\nC D",
        ),
        ("No effusion.<br>Heart <b>normal</b>.<BR/>&Auml;lter", "No effusion.\nHeart normal.\nÄlter"),
        (
            "<table><tr><td>Heart</td><td>normal</td></tr><tr><td>Lungs</td><td>clear</td></tr></table>",
            "Heart normal\nLungs clear",
        ),
        ("<p>one<!-- a <b>note</b> --></p>two --> three", "one\ntwo --> three"),
        ("one --> two", "one --> two"),
        ("<p>Nodule <5 mm, RR<120 and SpO2 >90%</p>", "Nodule <5 mm, RR<120 and SpO2 >90%"),
        ("Nodule <5 mm & stable, pH>7; AT&T; p<0.05", "Nodule <5 mm & stable, pH>7; AT&T; p<0.05"),
        ("gr&ouml;&szlig;er als 5&#160;mm", "größer als 5\xa0mm"),
        ("one_x000D_\ntwo\r\nthree\rfour\vfive", "one\ntwo\nthree\nfour\nfive"),
        ("  as it is,  with  blanks ", "  as it is,  with  blanks "),
    ],
)
def test_what_a_reader_sees_is_what_is_left(text, expected):
    assert plain_text(text) == expected


@pytest.mark.parametrize(
    "text", ["{\\rtf1" + "{" * 200_000, "<p>" + "<b " * 200_000, "<p>" + "<!--" * 100_000, "&" * 300_000]
)
def test_markup_that_is_damaged_costs_little_time(text):
    start = time.process_time()
    plain_text(text)
    assert time.process_time() - start < 5


def test_markup_of_millions_of_characters_and_damaged_rtf_are_refused():
    with pytest.raises(ReportError, match=r"a report with markup of 2,000,003 characters; at most 1,000,000"):
        plain_text("<p>" + "x" * 2_000_000)
    with pytest.raises(ReportError, match=r"RTF that cannot be read"):
        plain_text(r"{\rtf1 \uc text}")


# Shared lines ---------------------------------------------------------------------------------------------

HEAD = ["Example Hospital, Radiology", "Report of {n:02}.03.2024", "Findings:"]
END = ["Dr. A. Example", "Tel. 12345"]


def letter(n: int) -> str:
    body = [
        f"The heart is of size {n}.",
        "No effusion." if n % 3 else "Left effusion.",
        f"Mass of segment {'abcdefghij'[n % 10]}",
    ]
    return "\n".join([*HEAD, *body, "", *END]).replace("{n:02}", f"{n:02}")


def test_a_letterhead_and_a_signature_are_found_and_only_they_are_removed():
    reports = [letter(n) for n in range(20)]
    shared = shared_lines(reports)
    assert "'Example Hospital, Radiology' (100%)" in shared.said()
    assert "'Report of 00.03.2024' (100%)" in shared.said()
    assert "Findings:" not in shared.said()  # the title of a section
    cleaned = shared.remove(reports[3])
    assert cleaned.startswith("Findings:\n")
    assert "Example" not in cleaned
    assert "Left effusion." in cleaned


def test_few_reports_and_reports_of_one_line_share_nothing():
    assert not shared_lines([letter(n) for n in range(9)])
    assert not shared_lines(["No acute findings."] * 50)
    assert not shared_lines([])


def test_a_line_of_fewer_than_half_of_the_reports_stays():
    reports = [
        f"Title {chr(97 + n)}\n{'Clear lungs.' if n % 5 == 0 else f'Lung {chr(97 + n)}.'}\nEnd {chr(97 + n)}"
        for n in range(20)
    ]
    assert not shared_lines(reports)
