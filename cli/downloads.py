"""Files from the API. A file is complete or not there: it gets its name when all of it has come."""

from collections.abc import Iterator
from pathlib import Path
from tempfile import NamedTemporaryFile

from rich.progress import DownloadColumn, Progress, SpinnerColumn, TextColumn, TransferSpeedColumn

from cli.client import ApiClient
from cli.output import err
from shared.errors import DataError, VashSenderError

FORMATS = {".csv": "csv", ".ndjson": "ndjson", ".jsonl": "ndjson"}


def export_recipients(api: ApiClient, campaign_id: str, path: Path, status: str | None) -> int:
    """Writes a campaign's recipients into a file; returns its bytes. Raises DataError."""
    return _export(api, f"/v1/campaigns/{campaign_id}/recipients/export", path, status=status)


def export_suppressions(api: ApiClient, path: Path, reason: str | None) -> int:
    """Writes a project's suppressions into a file; returns its bytes. Raises DataError."""
    return _export(api, "/v1/suppressions/export", path, reason=reason)


def _export(api: ApiClient, url: str, path: Path, **wanted: str | None) -> int:
    packed = path.name.endswith(".gz")
    suffix = Path(path.name.removesuffix(".gz")).suffix
    if suffix not in FORMATS:
        raise DataError(f"{path}: the name must end with {', '.join(FORMATS)}, or with one of these and .gz")
    return _write(path, api.download(url, format=FORMATS[suffix], gzip=str(packed).lower(), **wanted))


def _write(path: Path, parts: Iterator[bytes]) -> int:
    try:
        with NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}-", delete=False) as file:
            begun = Path(file.name)
            try:
                written = sum(file.write(part) for part in _watched(path.name, parts))
                file.flush()
                begun.replace(path)
            except BaseException:
                begun.unlink()
                raise
    except VashSenderError:
        raise  # a timeout of the API is an OSError, too
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error.strerror}") from None
    return written


def _watched(name: str, parts: Iterator[bytes]) -> Iterator[bytes]:
    """The same parts, with a line on the terminal that says how far it is."""
    columns = (SpinnerColumn(), TextColumn(name), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=err(), transient=True, disable=not err().is_terminal) as progress:
        task = progress.add_task("", total=None)
        for part in parts:
            progress.advance(task, len(part))
            yield part
