"""OpenDKIM, which no one here wrote, verifies what we sign. Needs Debian's `opendkim`; its daemon is not started."""

import shutil
import subprocess
from pathlib import Path
from uuid import UUID

import pytest

from shared.dkim_keys import NewKey, new_key
from shared.messages.dkim import DkimSigner, load_signers
from shared.messages.message import Attachment, CampaignHeaders, MessageBuilder
from shared.templates import compile_content

pytestmark = pytest.mark.more

CYRILLIC = "Съешь же ещё этих мягких  французских булок, да выпей чаю.\n"
BODIES = {
    "quoted-printable": (None, "Hi {{ name }}  \n.\n\n\tFrom me\n\n"),
    "base64": (None, CYRILLIC * 20),
    "alternatives": (f"<p>\t  {{{{ name }}}}</p>\n{CYRILLIC * 20}", None),
}
FILES = (Attachment("отчёт.pdf", "application/pdf", bytes(range(256)) * 9),)


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> NewKey:
    return new_key(tmp_path_factory.mktemp("keys"), "example.com", "s1")


@pytest.fixture(scope="module")
def signer(key: NewKey) -> DkimSigner:
    return load_signers(key.path.parent)["example.com"]


def verdict(message: bytes, key: NewKey, folder: Path) -> str:
    """What `opendkim -t` says, with the key's record in a file instead of DNS."""
    binary = shutil.which("opendkim", path="/usr/sbin:/usr/bin:/usr/local/sbin")
    assert binary, "opendkim is missing: apt-get install opendkim"
    (folder / "records").write_text(f"{key.record_name} {key.record_text}\n")
    (folder / "opendkim.conf").write_text(f"Mode v\nSyslog no\nTestPublicKeys {folder}/records\n")
    (folder / "message").write_bytes(message)
    command = [binary, "-f", "-x", str(folder / "opendkim.conf"), "-t", str(folder / "message")]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout


@pytest.mark.parametrize("email", ["a@b.de", "иван@xn--e1afmkfd.xn--p1ai"])
@pytest.mark.parametrize("files", [(), FILES])
@pytest.mark.parametrize("body", BODIES)
def test_opendkim_accepts(
    body: str, files: tuple[Attachment, ...], email: str, key: NewKey, signer: DkimSigner, tmp_path: Path
) -> None:
    html, text = BODIES[body]
    facts = CampaignHeaders(
        UUID(int=1), "news@example.com", "Новости", "r@example.com", "Ответы", "n.example.com", "a:b:c:d", "", files
    )
    builder = MessageBuilder(compile_content("Привет, {{ name }}! " + "long " * 30, html, text), facts)
    message = builder.build_unsigned(
        1, email, {"name": "Анна"}, "Mon, 01 Jan 2024 00:00:00 +0000", "https://example.com/u/x"
    )
    signed = b"".join(signer.sign(message))
    assert "verification (s=s1, d=example.com, 2048-bit key) succeeded" in verdict(signed, key, tmp_path)
    assert "failed" in verdict(signed.replace(b"\r\nSubject: ", b"\r\nSubject: x"), key, tmp_path)
    assert "failed" in verdict(b"From: x@evil.test\r\n" + signed, key, tmp_path)
