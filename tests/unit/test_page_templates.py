"""Templates: no inline scripts or styles, nothing from other sites, data is escaped."""

import hashlib
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from jinja2 import UndefinedError

from scripts.docs_site import SHIM
from services.api.page import assets, render
from services.api.usecases import replies
from shared.scopes import EVERY_SCOPE

PAGE = Path(assets.__file__).parent
TEMPLATES = sorted((PAGE / "templates").iterdir())
EVIL = "<script>alert(1)</script>\"'"


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: path.name)
def test_no_template_needs_what_the_policy_forbids(template: Path) -> None:
    source = template.read_text()
    assert not re.search(r"<script(?![^>]*\bsrc=)", source), "an inline script"
    assert not re.search(r"<style|\sstyle=|javascript:|\son[a-z]+=|hx-on|hx-vals=.js", source)
    assert not re.search(r"(src|href|action)=[\"']?(https?:)?//", source), "something from elsewhere"
    assert "|safe" not in re.sub(r"parts(\.\w+|\[.*?\])\|safe|attributes\|safe", "", source)


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: path.name)
def test_every_form_that_acts_carries_its_token(template: Path) -> None:
    source = template.read_text()
    forms = re.findall(r"<form[^>]*(?:method=\"post\"|in_place).*?</form>", source, re.DOTALL)
    for form in forms:
        assert 'name="csrf"' in form or "{{ token }}" in form, form


def test_data_is_escaped() -> None:
    row = SimpleNamespace(email=EVIL, attempts=1, smtp_code=550, enhanced_code="5.7.1", reply=EVIL, relay=EVIL)
    groups = replies.Groups(replies.group([row]), 1, 1)
    counts = dict.fromkeys(("failed", "deferred", "unknown"), 1)
    page = render.html(
        "failures.html",
        session=SimpleNamespace(key=SimpleNamespace(name=EVIL, scopes=EVERY_SCOPE)),
        csrf="token",
        section="campaigns",
        tab="failures",
        campaign=SimpleNamespace(id="1", name=EVIL, counts=counts, forgotten_at=None),
        status="failed",
        statuses=("failed", "deferred", "unknown"),
        found=groups,
        may_retry=True,
    )
    assert "<script>alert" not in page
    assert page.count("&lt;script&gt;") >= 4


def test_an_undefined_name_is_an_error() -> None:
    with pytest.raises(UndefinedError):
        render.html("_state.html")


@pytest.mark.parametrize(
    ("folder", "number", "licence"),
    [(PAGE / "vendor", 2, "BSD"), (SHIM.parent, 1, "Permission is hereby granted, free of charge")],
)
def test_vendored_scripts_match_their_checksums(folder: Path, number: int, licence: str) -> None:
    readme = (folder / "README.md").read_text()
    scripts = list(folder.glob("*.js"))
    assert len(scripts) == number
    for script in scripts:
        assert f"{hashlib.sha256(script.read_bytes()).hexdigest()}  {script.name}" in readme
    found = list(folder.glob("LICENSE.*"))
    assert len(found) == number
    assert all(licence in path.read_text() for path in found)
