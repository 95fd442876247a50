"""DKIM: keys are made and found, and dkimpy accepts what is signed."""

import re
import stat
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

import dkim
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from shared.addresses import AddressError
from shared.dkim_keys import NewKey, find_keys, load_key, new_key
from shared.errors import ConfigurationError, DataError
from shared.messages.dkim import SIGNED_HEADERS, DkimSigner, load_signers
from shared.messages.message import Attachment, CampaignHeaders, MessageBuilder, Unsigned
from shared.templates import compile_content

DATE = "Mon, 01 Jan 2024 00:00:00 +0000"
URL = "https://mail.example.com/u/abc"
CYRILLIC = "Съешь же ещё этих мягких  французских булок, да выпей чаю.\n"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> NewKey:
    return new_key(tmp_path_factory.mktemp("dkim"), "example.com", "s1")


@pytest.fixture(scope="module")
def signer(made: NewKey) -> DkimSigner:
    return load_signers(made.path.parent)["example.com"]


@pytest.fixture(scope="module")
def verifies(made: NewKey) -> Callable[[bytes], bool]:
    def dns(name: bytes, timeout: int = 5) -> bytes | None:
        return made.record_text.encode() if name.decode().rstrip(".") == made.record_name else None

    return lambda message: bool(dkim.verify(message, dnsfunc=dns))


def message(
    html: str | None = None,
    text: str | None = "Hi {{ name }}\n",
    files: tuple[Attachment, ...] = (),
    email: str = "a@b.de",
    url: str = URL,
) -> Unsigned:
    facts = CampaignHeaders(
        UUID(int=1),
        "news@example.com",
        "Новости, Inc",
        "reply@example.com",
        "Ответы",
        "n.example.com",
        "a:b:c:d",
        "",
        files,
    )
    content = compile_content("Привет, {{ name }}! " + "long " * 30, html, text)
    return MessageBuilder(content, facts).build_unsigned(1, email, {"name": "Анна"}, DATE, url)


VARIANTS = {
    "text": message(),
    "base64": message(text=CYRILLIC * 20),
    "spaces and tabs": message(text="a  b \t c  \n\n\n \t\n" * 50 + "\n\n"),
    "one line": message(text="x"),
    "html": message(html="<p>\t  {{ name }}  </p>\n" * 30),
    "html in base64": message(html=f"<p>{CYRILLIC * 30}</p>"),
    "attachment": message(files=(Attachment("отчёт.pdf", "application/pdf", bytes(range(256)) * 9),)),
    "long attachment": message(files=(Attachment("a.bin", "application/pdf", bytes(range(256)) * 900),)),
    "long html": message(html="<p>a  b {{ name }} c</p>\n" * 3000, text="x\n\n\n"),
    "attachment beside html": message(html="<p>x</p>", files=(Attachment("a.txt", "text/plain", b"\r\n.\r\n"),)),
    "SMTPUTF8": message(email="иван@xn--e1afmkfd.xn--p1ai"),
    "no unsubscribe link": message(url=""),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_dkimpy_accepts(variant: str, signer: DkimSigner, verifies: Callable[[bytes], bool]) -> None:
    signed = b"".join(signer.sign(VARIANTS[variant]))
    head, body, _ = VARIANTS[variant]
    assert signed.endswith(b"\r\n" + head + b"\r\n\r\n" + b"".join(body))
    assert max(len(line) for line in signed.partition(b"\r\nDate:")[0].split(b"\r\n")) <= 78
    assert verifies(signed)


@pytest.mark.parametrize(
    "header",
    ["From", "To", "Cc", "Subject", "Date", "Reply-To", "Content-Type"],
)
def test_no_signed_header_can_be_added_or_changed(
    header: str, signer: DkimSigner, verifies: Callable[[bytes], bool]
) -> None:
    signed = b"".join(signer.sign(VARIANTS["html"]))
    assert header.lower().encode() in SIGNED_HEADERS
    assert not verifies(f"{header}: x@evil.test\r\n".encode() + signed)
    changed = re.sub(rb"\r\n" + header.encode() + rb": ", lambda found: found.group() + b"x", signed)
    assert (changed == signed) == (header == "Cc")
    assert verifies(changed) == (header == "Cc")


@pytest.mark.parametrize("header", ["List-Unsubscribe", "List-Unsubscribe-Post"])
def test_a_relay_may_add_headers_of_lists_where_there_are_none(
    header: str, signer: DkimSigner, verifies: Callable[[bytes], bool]
) -> None:
    without, having = b"".join(signer.sign(VARIANTS["no unsubscribe link"])), b"".join(signer.sign(VARIANTS["html"]))
    assert verifies(f"{header}: x\r\n".encode() + without)
    changed = re.sub(rb"\r\n" + header.encode() + rb": ", lambda found: found.group() + b"x", having)
    assert changed != having
    assert not verifies(changed)


def test_the_body_cannot_be_changed(signer: DkimSigner, verifies: Callable[[bytes], bool]) -> None:
    signed = b"".join(signer.sign(VARIANTS["text"]))
    assert not verifies(signed + b"x\r\n")
    assert verifies(signed + b"\r\n")


def test_what_is_signed_is_told(signer: DkimSigner, made: NewKey) -> None:
    at = DkimSigner("example.com", "s1", load_key(find_keys(made.path.parent)[0]), clock=lambda: 1700000000.9)
    head = b"".join(at.sign(VARIANTS["html"])).partition(b"\r\nDate:")[0]
    tags = dict(tag.split("=", 1) for tag in re.sub(r"\s", "", head.decode().partition(":")[2]).split(";"))
    assert {name: tags[name] for name in ("v", "a", "c", "d", "s", "t")} == {
        "v": "1",
        "a": "rsa-sha256",
        "c": "relaxed/relaxed",
        "d": "example.com",
        "s": "s1",
        "t": "1700000000",
    }
    assert "l" not in tags
    named = tags["h"].split(":")
    assert named.count("from") == named.count("to") == named.count("subject") == named.count("date") == 2
    assert named.count("cc") == named.count("list-unsubscribe") == named.count("list-unsubscribe-post") == 1


def test_a_new_key_is_private_and_its_record_is_whole(tmp_path: Path) -> None:
    key = new_key(tmp_path / "keys", "Пример.рф")
    assert stat.S_IMODE(key.path.stat().st_mode) == 0o600
    assert key.active
    selector = key.path.name.split(".")[-2]
    assert re.fullmatch(r"vs\d{8}", selector)
    assert key.record_name == f"{selector}._domainkey.xn--e1afmkfd.xn--p1ai"
    strings = re.findall(r'"([^"]*)"', key.zone_line)
    assert "".join(strings) == key.record_text
    assert max(map(len, strings)) <= 255
    assert load_key(find_keys(key.path.parent)[0]).key_size == 2048


def test_a_second_key_waits_until_it_is_renamed(tmp_path: Path) -> None:
    new_key(tmp_path, "example.com", "s1")
    second = new_key(tmp_path, "example.com", "s2")
    assert not second.active
    assert load_signers(tmp_path)["example.com"].selector == "s1"
    second.path.rename(tmp_path / "example.com.s2.pem")
    assert load_signers(tmp_path)["example.com"].selector == "s2"
    for selector in ("s1", "s2"):
        with pytest.raises(DataError, match="exists already"):
            new_key(tmp_path, "example.com", selector)


def test_wrong_names_are_refused(tmp_path: Path) -> None:
    for domain in ("", "a b", "../x", "example.com\n"):
        with pytest.raises(AddressError):
            new_key(tmp_path, domain)
    for selector in ("a.b", "../x", "A", "-a"):
        with pytest.raises(DataError, match="selector"):
            new_key(tmp_path, "example.com", selector)
    assert list(tmp_path.iterdir()) == []


def test_without_a_folder_nothing_is_signed(tmp_path: Path) -> None:
    assert load_signers(None) == {}
    assert load_signers(tmp_path) == {}


def test_unusable_key_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "example.com.s1.pem"
    short = rsa.generate_private_key(65537, 1024)
    curve = ec.generate_private_key(ec.SECP256R1())
    for content in (b"x", pem(curve)):
        path.write_bytes(content)
        path.chmod(0o600)
        with pytest.raises(ConfigurationError, match=re.escape(str(path))):
            load_signers(tmp_path)
    path.write_bytes(pem(short))
    load_signers(tmp_path)
    path.chmod(0o644)
    with pytest.raises(ConfigurationError, match="chmod 600"):
        load_signers(tmp_path)


def pem(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
