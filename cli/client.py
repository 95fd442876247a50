"""The command's client of the HTTP API. Errors become VashSenderErrors with the right exit code."""

import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any, Self, cast
from uuid import uuid4

from cli.place import Place, place
from shared.errors import ConfigurationError, DataError, UnavailableError, VashSenderError

# httpx has a command, whose import takes longer than most verbs; it does without where that import fails.
sys.modules.setdefault("httpx._main", cast(ModuleType, None))
import httpx  # noqa: E402

CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 60.0
IMPORT_SECONDS = 3600.0
PAGE_ROWS = 500
SHOWN_PROBLEMS = 10


class ApiTimeoutError(VashSenderError, TimeoutError):
    """The API did not answer in time, or a campaign did not close in time."""

    exit_code = 75


class ApiClient:
    """A client of one API with one key. Empty values mean this installation's."""

    def __init__(self, url: str = "", key: str = "") -> None:
        here = place() if not url or not key else None
        self.url = (url or (here and here.url) or (here.api_url if here else "")).rstrip("/")
        secret = key or (_key_for(self.url, here) if here else "")
        self._http = httpx.Client(
            base_url=self.url,
            headers={"Authorization": f"Bearer {secret}"},
            timeout=httpx.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS),
            verify=self.url.startswith("https:"),  # the authorities of the world take time to read
            # A proxy from the environment cannot reach this machine's own ports.
            trust_env=httpx.URL(self.url).host not in ("127.0.0.1", "localhost", "::1"),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _type: type[BaseException] | None, _e: BaseException | None, _t: TracebackType | None) -> None:
        self._http.close()

    def get(self, path: str, **params: Any) -> Any:
        """The JSON of a GET."""
        return self._json("GET", path, params={name: value for name, value in params.items() if value is not None})

    def post(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """The JSON of a POST. Each has its own Idempotency-Key."""
        return self._json("POST", path, json=dict(body or {}), headers={"Idempotency-Key": str(uuid4())})

    def put(self, path: str, body: Mapping[str, Any]) -> Any:
        """The JSON of a PUT."""
        return self._json("PUT", path, json=dict(body))

    def patch(self, path: str, body: Mapping[str, Any]) -> Any:
        """The JSON of a PATCH."""
        return self._json("PATCH", path, json=dict(body))

    def delete(self, path: str, **params: Any) -> Any:
        """The JSON of a DELETE; None if it answers without a body."""
        return self._json("DELETE", path, params=params)

    def upload(self, path: str, content: Iterable[bytes], media_type: str, **params: Any) -> Any:
        """The JSON of a streamed POST."""
        return self._json(
            "POST",
            path,
            params={name: value for name, value in params.items() if value is not None},
            content=content,
            headers={"Content-Type": media_type, "Idempotency-Key": str(uuid4())},
            timeout=httpx.Timeout(IMPORT_SECONDS, connect=CONNECT_SECONDS),
        )

    def pages(self, path: str, **params: Any) -> Iterator[Any]:
        """Every row of a list, page by page."""
        cursor = None
        while True:
            page = self.get(path, cursor=cursor, limit=PAGE_ROWS, **params)
            yield from page["data"]
            cursor = page["next_cursor"]
            if cursor is None:
                return

    def download(self, path: str, **params: Any) -> Iterator[bytes]:
        """The parts of a GET's answer, as they come."""
        wanted = {name: value for name, value in params.items() if value is not None}
        with self._trouble_in_words(), self._http.stream("GET", path, params=wanted) as answer:
            if not answer.is_success:
                answer.read()
                raise _error(answer)
            yield from answer.iter_bytes()

    def _json(self, method: str, path: str, **options: Any) -> Any:
        with self._trouble_in_words():
            answer = self._http.request(method, path, **options)
        if not answer.is_success:
            raise _error(answer)
        return answer.json() if answer.content else None

    @contextmanager
    def _trouble_in_words(self) -> Iterator[None]:
        try:
            yield
        except httpx.TimeoutException as error:
            raise ApiTimeoutError(f"{self.url} does not answer in time: {error or type(error).__name__}") from None
        except httpx.TransportError as error:
            raise UnavailableError(
                f"{self.url} cannot be reached: {error}. Is it running? See `vashsender status`."
            ) from None


def _key_for(url: str, here: Place) -> str:
    """The key for the API at `url`. This installation's own key goes to its own API only."""
    if here.api_key:
        return here.api_key
    if _origin(url) != _origin(here.api_url):
        raise ConfigurationError(f"{url} is not this installation's API: give its key by --key or VASHSENDER_API_KEY")
    return _own_key(here)


def _origin(url: str) -> tuple[str, str, int | None]:
    """RFC 6454, section 4; this machine's names count as one."""
    parts = httpx.URL(url)
    host = "127.0.0.1" if parts.host == "localhost" else parts.host
    return parts.scheme, host, parts.port or {"http": 80, "https": 443}.get(parts.scheme)


def _own_key(here: Place) -> str:
    path = here.secrets_dir / "api_key"
    try:
        return path.read_text().strip()
    except FileNotFoundError:
        raise ConfigurationError(
            f"there is no API key in {path}: pass one with --key or VASHSENDER_API_KEY, or create one with "
            "`vashsender key create NAME`"
        ) from None
    except PermissionError:
        raise ConfigurationError(f"you may not read {path}: pass a key with --key or VASHSENDER_API_KEY") from None


MEDIA_TYPES = {
    ".csv": "text/csv",
    ".tsv": "text/csv",
    ".txt": "text/csv",
    ".ndjson": "application/x-ndjson",
    ".jsonl": "application/x-ndjson",
    ".json": "application/json",
    ".zip": "application/zip",
}


def media_type_of(path: Path) -> str:
    """The media type of an import, by the name of its file; packed or not. Raises DataError."""
    name = path.name.lower().removesuffix(".gz")
    media_type = MEDIA_TYPES.get(Path(name).suffix)
    if media_type is None:
        raise DataError(f"{path.name}: recipients come as .csv, .tsv, .ndjson, .jsonl or .json, also as .gz or .zip")
    return media_type


def _error(answer: httpx.Response) -> VashSenderError:
    """Makes an exception from an answer's problem document (RFC 9457)."""
    try:
        problem = answer.json()
        more = [
            f"  {each.get('pointer') or each.get('parameter')}: {each['detail']}"
            for each in problem.get("errors", [])[1:SHOWN_PROBLEMS]
        ]
        text = "\n".join([f"{problem['title']}. {problem['detail']}", *more])
    except (ValueError, KeyError, TypeError):
        text = f"the API answers {answer.status_code} {answer.reason_phrase}"
    if answer.status_code in (401, 403):
        return ConfigurationError(text)
    if answer.status_code == httpx.codes.GATEWAY_TIMEOUT:
        return ApiTimeoutError(text)
    if answer.is_server_error or answer.status_code == httpx.codes.TOO_MANY_REQUESTS:
        return UnavailableError(text)
    return DataError(text)
