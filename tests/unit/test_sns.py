"""Whatever claims to be a message of SNS is either signed, or raises NotSignedError."""

import asyncio
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from services.api.web.sns import NotSignedError, Sns, at_sns

FIELDS = ("Message", "MessageId", "Subject", "SubscribeURL", "Timestamp", "Token", "TopicArn")
URL = "https://sns.eu-west-1.amazonaws.com/x.pem"

#: With halves of pairs of UTF-16, as JSON may have them.
texts = st.text(st.characters(codec=None), max_size=20)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
)
urls = texts | st.builds("https://sns.{}.amazonaws.com/{}.pem".format, texts, texts) | st.just(URL)
messages = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(FIELDS, texts | values),
        "Type": st.sampled_from(["Notification", "SubscriptionConfirmation"]) | values,
        "SignatureVersion": st.sampled_from(["1", "2"]) | values,
        "Signature": st.sampled_from(["", "AAAA", "A" * 344]) | texts | values,
        "SigningCertURL": urls | values,
        "SigningCertUrl": urls | values,
    },
)


async def answer(url: str) -> bytes:
    """What an address of SNS may answer to a stranger's path."""
    return b"-----BEGIN CERTIFICATE-----\n" + url.encode() + b"\n-----END CERTIFICATE-----\n"


@given(messages)
@example({"Type": "Notification", "SignatureVersion": "2", "Signature": "AAAA", "SigningCertURL": URL})
def test_a_strange_message_is_not_signed(message: dict[str, Any]) -> None:
    with pytest.raises(NotSignedError):
        asyncio.run(Sns(answer).verify(message))
    if "SubscribeURL" not in message:
        with pytest.raises(NotSignedError):
            asyncio.run(Sns(answer).confirm(message))


@given(urls)
def test_an_address_of_sns_is_one_that_a_client_can_ask(url: str) -> None:
    try:
        asked = at_sns(url)
    except NotSignedError:
        return
    assert asked == url
    assert asked.isascii()
    assert asked.isprintable()
    assert " " not in asked
