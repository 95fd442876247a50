"""A visitor of the page without a browser: reads forms from the page, fills them in and posts them, as browsers do."""

import re
from dataclasses import dataclass
from html import unescape
from html.parser import HTMLParser
from typing import Any

import httpx

from tests.support.api import ApiRig


@dataclass
class Visitor:
    """One cookie jar."""

    client: httpx.AsyncClient

    @classmethod
    def of(cls, rig: ApiRig, **headers: str) -> "Visitor":
        transport = httpx.ASGITransport(rig.app, raise_app_exceptions=False)
        return cls(httpx.AsyncClient(transport=transport, base_url=str(rig.client.base_url), headers=headers))

    @classmethod
    async def signed_in(cls, rig: ApiRig) -> "Visitor":
        """A visitor who has signed in with the key of the rig's client."""
        visitor = cls.of(rig)
        await visitor.sign_in(rig.client.headers["Authorization"].removeprefix("Bearer "))
        return visitor

    async def get(self, path: str, expect: int = 200) -> str:
        answer = await self.client.get(path)
        assert answer.status_code == expect, f"{path}: {answer.status_code} {answer.text}"
        return answer.text

    async def post(
        self, page: str, action: str, *, expect: Any = 303, files: Any = None, **fields: Any
    ) -> httpx.Response:
        """Posts a form of `page`; `files` are uploaded with it. The answer must have this status."""
        hidden = forms(page)[action]
        answer = await self.client.post(action, data={**hidden, **fields}, files=files)
        assert answer.status_code == expect, f"POST {action}: {answer.status_code} {answer.text}"
        return answer

    async def sign_in(self, key: str, expect: int = 303) -> httpx.Response:
        return await self.post(await self.get("/sign-in"), "/sign-in", expect=expect, key=key)


class _Forms(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, dict[str, str]] = {}
        self._fields: dict[str, str] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag == "form":
            self._fields = self.found.setdefault(given["action"], {})
        elif tag == "input" and given.get("type") == "hidden":
            self._fields[given["name"]] = given["value"]


def forms(page: str) -> dict[str, dict[str, str]]:
    """The hidden fields of each form of a page, by its action."""
    parser = _Forms()
    parser.feed(page)
    return parser.found


def text(page: str) -> str:
    """The text of a page, without its tags."""
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]*>", " ", page))).strip()
