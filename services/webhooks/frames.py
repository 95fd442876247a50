"""Frames that publish events (AMQP 0-9-1, sections 2.3.5 and 4.2). Only what differs between events is built again."""

import struct
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

import orjson
import pamqp.frame
from pamqp.commands import Basic
from pamqp.header import ContentHeader

from shared import topology

PERSISTENT = 2
SET_LATER = "an id"

HEADER, BODY = 2, 3
FRAME_END = b"\xce"
START = struct.Struct(">BHI")
"""Of a frame: its type, its channel, its length in bytes without this and the last byte."""
CONTENT = struct.Struct(">HHQ")
"""The start of a header's payload: class `basic`, weight, and the bytes of the body."""
BASIC, WEIGHT = 60, 0


class Frames:
    """Makes the frames for the events of one project on one channel."""

    def __init__(self, channel: int, largest_body: int, project_id: UUID, account: str | None) -> None:
        """`largest_body`: bytes that one frame may hold; a longer body takes several."""
        self._channel = channel
        self._largest_body = largest_body
        self._project_id = project_id
        self._account = account
        #: By type of event: the frame of the method, and what the header has before and after the message id.
        self._of_type: dict[str, tuple[bytes, bytes, bytes]] = {}

    def of(self, events: Sequence[Mapping[str, Any]]) -> bytes:
        """The frames of all messages."""
        out: list[bytes] = []
        for event in events:
            kind = event["type"]
            method, before, after = self._of_type.get(kind) or self._learn(kind)
            body, identity = orjson.dumps(event), event["id"].encode()
            header = b"%b%b%c%b%b" % (CONTENT.pack(BASIC, WEIGHT, len(body)), before, len(identity), identity, after)
            out += (method, self._frame(HEADER, header))
            for start in range(0, len(body), self._largest_body):
                out.append(self._frame(BODY, body[start : start + self._largest_body]))
        return b"".join(out)

    def _frame(self, kind: int, payload: bytes) -> bytes:
        return b"%b%b%b" % (START.pack(kind, self._channel, len(payload)), payload, FRAME_END)

    def _learn(self, kind: str) -> tuple[bytes, bytes, bytes]:
        method = Basic.Publish(exchange=topology.EVENTS_EXCHANGE, routing_key=routing_key(self._project_id, kind))
        properties = Basic.Properties(
            content_type="application/json",
            delivery_mode=PERSISTENT,
            message_id=SET_LATER,
            message_type=kind,
            user_id=self._account,
        )
        header = pamqp.frame.marshal(ContentHeader(properties=properties), self._channel)
        before, _, after = header[START.size + CONTENT.size : -1].partition(
            bytes([len(SET_LATER)]) + SET_LATER.encode()
        )
        self._of_type[kind] = (pamqp.frame.marshal(method, self._channel), before, after)
        return self._of_type[kind]


def routing_key(project_id: UUID, kind: str) -> str:
    """`PROJECT.TYPE`, so that a program can be given the events of one project and no other."""
    return f"{project_id}.{kind}"
