"""The hook of Amazon SES: only what SNS has signed changes anything."""

import base64
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.x509.oid import NameOID
from sqlalchemy import update
from sqlmodel import col

from services.api.web.sns import NotSignedError, Sns, at_sns
from shared.ledger.models import Recipient
from tests.integration.test_feedback import a_sent_campaign, counts, suppressed
from tests.support.api import ApiRig, api_on
from tests.support.feedback_corpus import ANN

CERTIFICATE_URL = "https://sns.eu-west-1.amazonaws.com/SimpleNotificationService-1.pem"
NAMES = ("Message", "MessageId", "Subject", "SubscribeURL", "Timestamp", "Token", "TopicArn", "Type")


class Amazon:
    """Signs as SNS does, and answers what it is asked for."""

    def __init__(self) -> None:
        self.key = rsa.generate_private_key(65537, 2048)
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "sns.amazonaws.com")])
        now = datetime.now(UTC)
        made = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(self.key.public_key())
        made = made.serial_number(1).not_valid_before(now).not_valid_after(now + timedelta(days=1))
        self.certificate = made.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
        self.asked: list[str] = []

    async def answer(self, url: str) -> bytes:
        self.asked.append(url)
        return self.certificate

    def signed(self, message: dict[str, Any], version: str = "2") -> dict[str, Any]:
        text = "".join(f"{name}\n{message[name]}\n" for name in NAMES if name in message)
        algorithm = hashes.SHA1() if version == "1" else hashes.SHA256()
        signature = base64.b64encode(self.key.sign(text.encode(), PKCS1v15(), algorithm)).decode()
        return {"Signature": signature, "SignatureVersion": version, "SigningCertURL": CERTIFICATE_URL, **message}


def notification(event: dict[str, Any]) -> dict[str, Any]:
    return {
        "Type": "Notification",
        "MessageId": "1",
        "TopicArn": "arn:aws:sns:eu-west-1:1:bounces",
        "Timestamp": "2026-11-02T10:00:00.000Z",
        "Message": json.dumps(event),
    }


def bounce(queue_id: str = "q-1", source: str = "news@example.test") -> dict[str, Any]:
    person = {"emailAddress": ANN, "status": "5.1.1", "diagnosticCode": "smtp; 550 5.1.1 user unknown"}
    mail = {"messageId": queue_id, "source": source}
    return {"eventType": "Bounce", "mail": mail, "bounce": {"bouncedRecipients": [person]}}


@pytest.fixture(scope="module")
def amazon() -> Amazon:
    return Amazon()


@pytest.fixture
async def api(database_url: str, amazon: Amazon) -> AsyncIterator[ApiRig]:
    amazon.asked.clear()
    async with api_on(database_url) as rig:
        rig.app.state.sns = Sns(amazon.answer)
        yield rig


async def hook(api: ApiRig) -> str:
    url: str = (await api.get("/v1/feedback/ses"))["url"]
    return url.partition("8700")[2]


@pytest.mark.parametrize("version", ["1", "2"])
async def test_a_signed_bounce_is_matched_by_the_queue_id(api: ApiRig, amazon: Amazon, version: str) -> None:
    campaign, _ = await a_sent_campaign(api)
    async with api.ledger.write() as connection:
        await connection.execute(
            update(Recipient).where(col(Recipient.campaign_id) == UUID(campaign)).values(queue_id="q-1", relay="ses")
        )
    for result in ("recorded", "repeated"):
        taken = await api.post(await hook(api), amazon.signed(notification(bounce()), version), 200)
        assert [(one["result"], one["kind"]) for one in taken["data"]] == [(result, "bounced")]
    assert (await counts(api, campaign))["bounced"] == 1
    assert await suppressed(api) == [(ANN, "bounced")]
    assert amazon.asked == [CERTIFICATE_URL]


async def test_a_signed_bounce_is_matched_by_a_token(api: ApiRig, amazon: Amazon) -> None:
    campaign, [ann] = await a_sent_campaign(api)
    event = bounce("other", f"bounce+{ann.mail}@bounces.example.com")
    taken = await api.post(await hook(api), amazon.signed(notification(event)), 200)
    assert taken["data"][0]["result"] == "recorded"
    assert (await counts(api, campaign))["bounced"] == 1


async def test_an_email_that_is_not_ours_is_unverified(api: ApiRig, amazon: Amazon) -> None:
    await a_sent_campaign(api)
    taken = await api.post(await hook(api), amazon.signed(notification(bounce("other"))), 200)
    assert taken["data"][0]["result"] == "unverified"
    assert await suppressed(api) == []


@pytest.mark.parametrize(
    "changed",
    [
        {"Message": "{}"},
        {"Signature": "AAAA"},
        {"Signature": "not base64"},
        {"SignatureVersion": "3"},
        {"Type": "Other"},
        {"SigningCertURL": "https://sns.evil.example/x.pem"},
        {"SigningCertURL": "http://sns.eu-west-1.amazonaws.com/x.pem"},
        {"SigningCertURL": None},
        {"SigningCertURL": CERTIFICATE_URL.replace("Simple", "Sim\0ple")},
        {"SigningCertURL": CERTIFICATE_URL.replace("Simple", "Sim\nple")},
        {"SigningCertURL": CERTIFICATE_URL.replace("Simple", "Sim\ud800ple")},
        {"SigningCertURL": CERTIFICATE_URL.replace("Simple", "S" * 100_000)},
        {"SigningCertURL": [CERTIFICATE_URL]},
        {"SigningCertURL": "https://[sns.eu-west-1.amazonaws.com/x.pem"},
        {"Message": "\ud800"},
        {"MessageId": "\udfff"},
        {"Subject": ["no", "text"]},
        {"Subject": {"\ud800": 1}},
        {"Timestamp": 10**400},
        {"Signature": "\ud800"},
        {"Signature": None},
        {"SignatureVersion": 2},
        {"Type": ["Notification"]},
        {"Type": "\ud800"},
    ],
    ids=lambda changed: ascii(changed)[:80],
)
async def test_a_wrong_signature_is_401_and_counted(api: ApiRig, amazon: Amazon, changed: dict[str, Any]) -> None:
    await a_sent_campaign(api)
    before = api.api.metrics.wrong_signatures._value.get()
    message = json.dumps({**amazon.signed(notification(bounce())), **changed}).encode()
    await api.request("POST", await hook(api), 401, content=message)
    assert api.api.metrics.wrong_signatures._value.get() == before + 1
    assert (await api.get("/v1/reports"))["data"] == []


async def test_a_subscription_is_confirmed_once_it_is_verified(api: ApiRig, amazon: Amazon) -> None:
    url = "https://sns.eu-west-1.amazonaws.com/?Action=ConfirmSubscription&Token=t"
    message = notification({}) | {"Type": "SubscriptionConfirmation", "SubscribeURL": url, "Token": "t"}
    await api.post(await hook(api), amazon.signed(message), 200)
    assert amazon.asked == [CERTIFICATE_URL, url]
    elsewhere = message | {"SubscribeURL": "https://evil.example/"}
    await api.post(await hook(api), amazon.signed(elsewhere), 401)
    assert "https://evil.example/" not in amazon.asked


async def test_a_wrong_address_is_404_and_no_object_is_422(api: ApiRig, amazon: Amazon) -> None:
    path = await hook(api)
    await api.post(path[:-1] + ("A" if path[-1] != "A" else "B"), amazon.signed(notification({})), 404)
    await api.request("POST", path, 422, content=b"[1]")
    await api.request("POST", path, 422, content=b"[" * 100_000)


@pytest.mark.parametrize(
    "strange",
    [
        {"mail": {"messageId": "\ud800\0"}},
        {"mail": {"messageId": ["\ud800"], "source": {"\udfff": "\0"}, "headers": [{"name": "\ud800", "value": "\0"}]}},
        {
            "bounce": {
                "bouncedRecipients": [{"emailAddress": "\ud800@\0", "status": "\udfff", "diagnosticCode": "\ud800\0"}]
            }
        },
        {"bounce": {"bouncedRecipients": [{"emailAddress": ANN}], "reportingMTA": "\ud800\0"}},
        {"eventType": "\ud800"},
    ],
    ids=ascii,
)
async def test_a_signed_event_may_hold_anything(api: ApiRig, amazon: Amazon, strange: dict[str, Any]) -> None:
    await a_sent_campaign(api)
    taken = await api.post(await hook(api), amazon.signed(notification({**bounce(), **strange})), 200)
    assert {one["result"] for one in taken["data"]} <= {"unverified"}
    assert await suppressed(api) == []


async def test_a_signed_message_in_plain_words_changes_nothing(api: ApiRig, amazon: Amazon) -> None:
    said = "Successfully validated SNS topic for Amazon SES event publishing."
    assert await api.post(await hook(api), amazon.signed(notification({}) | {"Message": said}), 200) == {"data": []}


@pytest.mark.parametrize(
    "url",
    [
        "https://sns.eu-west-1.amazonaws.com.evil.example/x.pem",
        "https://sns.eu-west-1.amazonaws.com@evil.example/x.pem",
        "https://user@sns.eu-west-1.amazonaws.com/x.pem",
        "https://sns.eu-west-1.amazonaws.com:8443/x.pem",
        "https://evil.example/sns.eu-west-1.amazonaws.com/x.pem",
        "https://sns.eu.west.1.amazonaws.com/x.pem",
        "//sns.eu-west-1.amazonaws.com/x.pem",
        "https://[::1/x.pem",
        "",
    ],
)
def test_only_addresses_of_sns_are_asked(url: str) -> None:
    with pytest.raises(NotSignedError):
        at_sns(url)
