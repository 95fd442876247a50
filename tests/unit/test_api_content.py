"""The API compiles the content of a campaign that is sent, unless it has done so before."""

import pytest

from services.api.usecases import content
from services.api.usecases.errors import InvalidError
from shared.content import CampaignContent
from shared.templates import Content, compile_content


@pytest.fixture(autouse=True)
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The subjects of the contents that are compiled."""
    subjects: list[str] = []

    def compile_and_note(subject: str, html: str | None, text: str | None, *, is_stored: bool) -> Content:
        subjects.append(subject)
        return compile_content(subject, html, text, is_stored=is_stored)

    monkeypatch.setattr(content, "_sound", type(content._sound)())
    monkeypatch.setattr(content, "compile_content", compile_and_note)
    return subjects


def stored(subject: str) -> str:
    return CampaignContent(subject=subject, text="Dear {{ name }}").model_dump_json()


async def test_what_an_import_has_compiled_is_sound(compiled: list[str]) -> None:
    await content.compiled(stored("A"))
    await content.require_sound(stored("A"))
    assert compiled == ["A"]


async def test_what_was_sent_before_is_sound(compiled: list[str]) -> None:
    for subject in ("A", "B", "A", "B"):
        await content.require_sound(stored(subject))
    assert compiled == ["A", "B"]


async def test_what_cannot_be_sent_is_refused_each_time(compiled: list[str]) -> None:
    for _ in range(2):
        with pytest.raises(InvalidError):
            await content.require_sound(stored("{% for %}"))
    assert compiled == ["{% for %}"] * 2


async def test_the_oldest_is_forgotten(compiled: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(content, "_KNOWN", 2)
    for subject in ("A", "B", "C", "A"):
        await content.require_sound(stored(subject))
    assert compiled == ["A", "B", "C", "A"]
