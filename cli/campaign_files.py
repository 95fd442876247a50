"""A campaign in files: `campaign.json`, with its bodies, attachments and recipients beside it."""

import base64
import json
import mimetypes
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from stat import S_ISREG
from typing import Any

from cli.client import ApiClient, media_type_of
from shared.errors import DataError
from shared.json_words import place_and_reason

BLOCK_BYTES = 262_144
MAX_FILE_BYTES = 25_000_000
"""More than any API accepts in one body."""


@dataclass(frozen=True, slots=True)
class CampaignFiles:
    """A campaign as read from its files."""

    #: The body of `POST /v1/campaigns`.
    body: Mapping[str, Any]
    #: The file to import afterwards; None if there is none.
    recipients: Path | None


def read_campaign(path: Path) -> CampaignFiles:
    """Reads a campaign's JSON, or the campaign.json of a folder. Files that it names lie in the same folder or below.
    Raises DataError."""
    file = path / "campaign.json" if path.is_dir() else path
    try:
        body = json.loads(_text(file))
    except json.JSONDecodeError as error:
        raise DataError(f"{file} is not JSON: {place_and_reason(error)}") from None
    except RecursionError:
        raise DataError(f"{file} is not usable: its JSON is nested too deeply") from None
    if not isinstance(body, dict):
        raise DataError(f"{file} does not contain a JSON object")
    for part in ("html", "text"):
        name = body.pop(f"{part}_file", None)
        if name is not None:
            body[part] = _text(_beside(file, f"{part}_file", name))
    if isinstance(body.get("attachments"), list):
        body["attachments"] = [_attachment(file, given) for given in body["attachments"]]
    recipients = body.pop("recipients_file", None)
    return CampaignFiles(body, _beside(file, "recipients_file", recipients) if recipients is not None else None)


def create_campaign(api: ApiClient, files: CampaignFiles) -> Any:
    """Creates the draft and returns the API's answer."""
    return api.post("/v1/campaigns", files.body)


def import_recipients(api: ApiClient, campaign_id: str, path: Path, **options: str | list[str] | None) -> Any:
    """Streams a file of recipients into a campaign and returns the API's report. `options` go into the query."""
    media_type = media_type_of(path)
    try:
        file = path.open("rb")
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None
    with file:
        blocks = iter(lambda: file.read(BLOCK_BYTES), b"")
        return api.upload(f"/v1/campaigns/{campaign_id}/recipients", blocks, media_type, **options)


def _attachment(campaign: Path, given: Any) -> Any:
    """An attachment that names a `file`, with that file's content; any other as it is."""
    if not isinstance(given, dict) or "file" not in given:
        return given
    attachment = dict(given)
    path = _beside(campaign, "attachments: file", attachment.pop("file"))
    guessed, packing = mimetypes.guess_type(path.name)
    attachment.setdefault("filename", path.name)
    attachment.setdefault("content_type", guessed if guessed and not packing else "application/octet-stream")
    attachment["content"] = base64.b64encode(_bytes(path)).decode()
    return attachment


def _beside(campaign: Path, member: str, name: Any) -> Path:
    """A file that a campaign names. A campaign from a stranger must not publish other files of this machine, so the
    path stays inside the campaign's folder, also after symbolic links."""
    if not isinstance(name, str) or not name:
        raise DataError(f"{campaign}: {member} is not the name of a file")
    folder = campaign.parent.resolve()
    if PurePosixPath(name).is_absolute() or "\0" in name:
        raise DataError(f"{campaign}: {member} {name!r} is not inside {folder}; give a path relative to that folder")
    path = (folder / name).resolve()
    if not path.is_relative_to(folder):
        raise DataError(f"{campaign}: {member} {name!r} leads out of {folder}; copy the file into that folder")
    return path


def _text(path: Path) -> str:
    try:
        return _bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path} is not UTF-8 text (line {line}); save it as UTF-8") from None


def _bytes(path: Path) -> bytes:
    try:
        status = path.stat()
        if not S_ISREG(status.st_mode):
            raise DataError(f"{path} is not a file")
        if status.st_size > MAX_FILE_BYTES:
            raise DataError(f"{path} has {status.st_size} bytes; at most {MAX_FILE_BYTES} can be sent")
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None
