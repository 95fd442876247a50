"""A campaign in files: `campaign.json`, with its bodies and recipients beside it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cli.client import ApiClient, media_type_of
from shared.errors import DataError

BLOCK_BYTES = 262_144


@dataclass(frozen=True, slots=True)
class CampaignFiles:
    """A campaign as read from its files."""

    #: The body of `POST /v1/campaigns`.
    body: Mapping[str, Any]
    #: The file to import afterwards; None if there is none.
    recipients: Path | None


def read_campaign(path: Path) -> CampaignFiles:
    """Reads a campaign's JSON, or the campaign.json of a folder. Raises DataError."""
    file = path / "campaign.json" if path.is_dir() else path
    try:
        body = json.loads(_text(file))
    except json.JSONDecodeError as error:
        raise DataError(f"{file} is not JSON: line {error.lineno}, column {error.colno}: {error.msg}") from None
    if not isinstance(body, dict):
        raise DataError(f"{file} does not contain a JSON object")
    for part in ("html", "text"):
        beside = body.pop(f"{part}_file", None)
        if beside is not None:
            body[part] = _text(file.parent / beside)
    recipients = body.pop("recipients_file", None)
    return CampaignFiles(body, file.parent / recipients if recipients is not None else None)


def create_campaign(api: ApiClient, files: CampaignFiles) -> Any:
    """Creates the draft and returns the API's answer."""
    return api.post("/v1/campaigns", files.body)


def import_recipients(api: ApiClient, campaign_id: str, path: Path) -> Any:
    """Streams a file of recipients into a campaign and returns the API's report."""
    media_type = media_type_of(path)
    try:
        file = path.open("rb")
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None
    with file:
        blocks = iter(lambda: file.read(BLOCK_BYTES), b"")
        return api.upload(f"/v1/campaigns/{campaign_id}/recipients", blocks, media_type)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise DataError(f"{path} is not UTF-8 text") from None
