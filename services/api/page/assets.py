"""Style and scripts: files in memory, with their digest in the address so that browsers keep them."""

import hashlib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

from fastapi import APIRouter, Response

from services.api.usecases.errors import NotFoundError

HERE = Path(__file__).parent
FOLDERS = ("static", "vendor")
TYPES = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}
FOREVER = "public, max-age=31536000, immutable"
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
}
"""A picture that is opened by itself may use the style inside it; nothing runs there."""


class Asset(NamedTuple):
    content: bytes
    media_type: str
    version: str


router = APIRouter(include_in_schema=False)


@router.get("/static/{name}")
async def asset(name: str, v: str = "") -> Response:
    found = _assets().get(name)
    if found is None:
        raise NotFoundError("file with this name")
    caching = FOREVER if v == found.version else "no-cache"
    return Response(found.content, headers={**HEADERS, "Cache-Control": caching}, media_type=found.media_type)


def address(name: str) -> str:
    """The address of an asset in its present version."""
    return f"/static/{name}?v={_assets()[name].version}"


@cache
def _assets() -> Mapping[str, Asset]:
    return {path.name: _read(path) for folder in FOLDERS for path in (HERE / folder).iterdir() if path.suffix in TYPES}


def _read(path: Path) -> Asset:
    content = path.read_bytes()
    return Asset(content, TYPES[path.suffix], hashlib.sha256(content).hexdigest()[:12])
