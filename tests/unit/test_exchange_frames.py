"""The frames with which events are published, read back by an AMQP library."""

from collections.abc import Iterator
from typing import Any
from uuid import UUID

import orjson
import pamqp.frame
from hypothesis import given
from hypothesis import strategies as st
from pamqp.base import Frame
from pamqp.body import ContentBody
from pamqp.commands import Basic
from pamqp.header import ContentHeader

from services.webhooks.frames import Frames

PROJECT = UUID(int=7)
CHANNEL = 3


def read_back(data: bytes) -> Iterator[Any]:
    while data:
        used, channel, frame = pamqp.frame.unmarshal(data)
        assert channel == CHANNEL
        data = data[used:]
        yield frame


@given(
    st.lists(
        st.tuples(st.sampled_from(["recipient.sent", "campaign.finished"]), st.integers(1, 2**62), st.text()),
        max_size=5,
    ),
    st.integers(1, 200),
    st.text(min_size=1, max_size=20),
)
def test_each_event_is_one_persistent_message(
    told: list[tuple[str, int, str]], largest_body: int, account: str
) -> None:
    events = [
        {"id": f"{PROJECT}-{position}", "type": kind, "position": position, "data": {"reply": reply}}
        for kind, position, reply in told
    ]
    frames = read_back(Frames(CHANNEL, largest_body, PROJECT, account).of(events))
    for event in events:
        method: Frame = next(frames)
        assert isinstance(method, Basic.Publish)
        assert (method.exchange, method.routing_key) == ("vashsender.events", f"{PROJECT}.{event['type']}")
        header = next(frames)
        assert isinstance(header, ContentHeader)
        properties = header.properties
        assert (properties.content_type, properties.delivery_mode) == ("application/json", 2)
        assert (properties.message_id, properties.message_type) == (event["id"], event["type"])
        assert properties.user_id == account
        body = b""
        while len(body) < header.body_size:
            part = next(frames)
            assert isinstance(part, ContentBody)
            assert 0 < len(part.value) <= largest_body
            body += part.value
        assert orjson.loads(body) == event
    assert next(frames, None) is None
