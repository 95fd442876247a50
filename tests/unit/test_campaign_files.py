"""A campaign in files: what it may name, and what is refused before anything is sent to the API."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from cli import output
from cli.campaign_files import read_campaign
from cli.client import media_type_of
from shared.errors import DataError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "campaign"
    (place / "images").mkdir(parents=True)
    (place / "body.html").write_text("<p>Hello</p>")
    (place / "images" / "logo.png").write_bytes(b"\x89PNG")
    (tmp_path / "secret.txt").write_text("secret")
    return place


def wrote(folder: Path, **members: Any) -> Path:
    (folder / "campaign.json").write_text(json.dumps({"name": "n", **members}))
    return folder


def test_files_beside_the_campaign_become_its_parts(folder: Path) -> None:
    (folder / "people.csv").write_text("email\n")
    attachment = {"file": "images/logo.png", "content_id": "logo"}
    files = read_campaign(
        wrote(folder, html_file="body.html", recipients_file="people.csv", attachments=[attachment, {"content": "x"}])
    )
    assert files.body["html"] == "<p>Hello</p>"
    assert files.recipients == folder / "people.csv"
    content = base64.b64encode(b"\x89PNG").decode()
    assert files.body["attachments"] == [
        {"filename": "logo.png", "content_type": "image/png", "content": content, "content_id": "logo"},
        {"content": "x"},
    ]


@pytest.mark.parametrize(
    "name", ["/etc/hostname", "../secret.txt", "images/../../secret.txt", "link.txt", "linked/secret.txt"]
)
@pytest.mark.parametrize("member", ["html_file", "text_file", "recipients_file", "attachments"])
def test_a_file_outside_the_folder_is_refused(folder: Path, name: str, member: str) -> None:
    (folder / "link.txt").symlink_to("../secret.txt")
    (folder / "linked").symlink_to("..")
    value: Any = [{"file": name}] if member == "attachments" else name
    with pytest.raises(DataError, match=r"folder|inside"):
        read_campaign(wrote(folder, **{member: value}))


def test_a_link_inside_the_folder_is_followed(folder: Path) -> None:
    (folder / "link.html").symlink_to("body.html")
    assert read_campaign(wrote(folder, html_file="link.html")).body["html"] == "<p>Hello</p>"


@pytest.mark.parametrize("value", [5, "", ["body.html"], "missing.html", "images", "a\0b"])
def test_what_is_not_the_name_of_a_file_is_refused(folder: Path, value: Any) -> None:
    with pytest.raises(DataError, match=r"campaign\.json|cannot be read|is not a file"):
        read_campaign(wrote(folder, html_file=value))


def test_a_byte_order_mark_is_dropped(folder: Path) -> None:
    (folder / "campaign.json").write_bytes(b'\xef\xbb\xbf{"name": "n"}')
    assert read_campaign(folder).body == {"name": "n"}


@pytest.mark.parametrize(
    ("document", "words"),
    [
        (b"[]", "JSON object"),
        (b'{"name": }', "line 1, column 10"),
        (b'{\n"a": "\xff"}', "line 2"),
        (b"[" * 99_999, "nested"),
    ],
)
def test_a_broken_campaign_is_refused_in_words(folder: Path, document: bytes, words: str) -> None:
    (folder / "campaign.json").write_bytes(document)
    with pytest.raises(DataError, match=words):
        read_campaign(folder)


@pytest.mark.parametrize(
    ("name", "media_type"),
    [
        ("A.CSV", "text/csv"),
        ("a.tsv", "text/csv"),
        ("a.txt.gz", "text/csv"),
        ("a.jsonl.gz", "application/x-ndjson"),
        ("a.json", "application/json"),
        ("a.zip", "application/zip"),
    ],
)
def test_the_kind_of_an_import_follows_from_its_name(name: str, media_type: str) -> None:
    assert media_type_of(Path(name)) == media_type


@pytest.mark.parametrize("name", ["a.xlsx", "a", "a.gz", ".csv"])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(DataError, match="recipients come as"):
        media_type_of(Path(name))


def test_a_name_that_looks_like_markup_is_shown_as_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(output, "out", Console(force_terminal=True, color_system=None, width=80))
    output.show_table(("Name",), [("[/x]",), ("[bold]y[/bold]",)])
    assert capsys.readouterr().out.split() == ["Name", "[/x]", "[bold]y[/bold]"]
