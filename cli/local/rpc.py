"""XML-RPC on a Unix socket, as supervisord speaks it: the parts of https://xmlrpc.com/spec.md that it uses.

`xmlrpc.client` and supervisor's own transport load HTTP and TLS clients, which takes longer than `vashsender status`.
"""

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, ParseError, fromstring
from xml.sax.saxutils import escape

TIMEOUT_SECONDS = 60.0
READ_BYTES = 65_536


class RefusedError(Exception):
    """The server refuses a call, in its own words."""


def call(path: Path, method: str, *arguments: str | bool) -> Any:
    """What `method` returns: strings, ints, bools, lists and dicts.

    Raises RefusedError if the server refuses, and OSError if it does not answer, or not with XML-RPC."""
    head, _, body = _exchange(path, _request(method, arguments)).partition(b"\r\n\r\n")
    status = head.split(b"\r\n", 1)[0]
    if b" 200 " not in status:
        raise OSError(f"{path} answers {status!r}")
    try:
        answer = fromstring(body)  # noqa: S314 - from our own child, in a folder of our own
        fault = answer.find("fault/value")
        if fault is not None:
            raise RefusedError(str(_value(fault)["faultString"]))
        return _value(next(answer.iterfind("params/param/value")))
    except (ParseError, StopIteration, ValueError) as error:
        raise OSError(f"{path} does not answer with XML-RPC: {error}") from error


def _request(method: str, arguments: tuple[str | bool, ...]) -> bytes:
    body = (
        f"<methodCall><methodName>{method}</methodName><params>{''.join(_parameters(arguments))}</params></methodCall>"
    )
    content = body.encode("ascii", "xmlcharrefreplace")
    head = f"POST /RPC2 HTTP/1.0\r\nHost: localhost\r\nContent-Type: text/xml\r\nContent-Length: {len(content)}\r\n\r\n"
    return head.encode() + content


def _parameters(arguments: tuple[str | bool, ...]) -> Iterator[str]:
    for argument in arguments:
        kind, text = ("boolean", str(int(argument))) if isinstance(argument, bool) else ("string", escape(argument))
        yield f"<param><value><{kind}>{text}</{kind}></value></param>"


def _exchange(path: Path, request: bytes) -> bytes:
    """The whole answer: the server closes after it, as this is HTTP/1.0."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(TIMEOUT_SECONDS)
        connection.connect(str(path))
        connection.sendall(request)
        parts = []
        while part := connection.recv(READ_BYTES):
            parts.append(part)
    return b"".join(parts)


def _value(element: Element) -> Any:
    if not len(element):
        return element.text or ""
    (inner,) = element
    match inner.tag:
        case "string":
            return inner.text or ""
        case "int" | "i4":
            return int(inner.text or "")
        case "boolean":
            return inner.text == "1"
        case "array":
            return [_value(value) for value in inner.iterfind("data/value")]
        case "struct":
            return {member.findtext("name", ""): _value(next(member.iterfind("value"))) for member in inner}
        case other:
            raise ValueError(f"a value of the kind {other!r}")
