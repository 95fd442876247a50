"""Microseconds per email to render, encode and sign, compared with Jinja2 and EmailMessage, and with bare RSA.

Each round runs all contestants, so that they share the same conditions; the median round counts.
Prints tables, writes JSON to var/bench/render.json.
"""

import argparse
import re
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from email.message import EmailMessage
from email.policy import SMTP
from pathlib import Path
from uuid import UUID

from jinja2 import Environment
from rich.console import Console
from rich.table import Table

from bench.reports import write_report
from bench.tables import show_table
from shared.addresses import parse_address
from shared.dkim_keys import new_key
from shared.messages.dkim import DkimSigner, load_signers
from shared.messages.message import CampaignHeaders, MessageBuilder, Unsigned
from shared.templates import Value, compile_content
from shared.unsubscribe import make_token, read_token

SIZES_KB = (2, 10, 100)
SIGNING_ROUNDS = 5
PARAGRAPHS = {
    "latin": "<p style=\"margin: 0\">Some words of a newsletter, and a <a href='https://example.com/'>link</a>.</p>\n",
    "cyrillic": '<p style="margin: 0">Несколько слов из рассылки, и ещё несколько слов.</p>\n',
}
FIELDS = '<p>{{ first_name }} {{ last_name|default("") }}, {{ city }} {% if vip %}({{ points }}){% endif %}</p>\n'
FOOTER = '<a href="{{ unsubscribe_url }}">Unsubscribe</a>'
SUBJECT = "{{ first_name }}, our spring news"
DATA: Mapping[str, Value] = {
    "first_name": "Анна",
    "last_name": "O'Neil",
    "city": "Санкт-Петербург",
    "vip": True,
    "points": 17,
}
CAMPAIGN = UUID("018f0000-0000-7000-8000-000000000001")
DATE = "Mon, 01 Jan 2024 00:00:00 +0000"
SECRET = b"0123456789abcdef0123456789abcdef"
URL = f"https://mail.example.com/u/{make_token(SECRET, CAMPAIGN, 17)}"
EMAIL = "anna@example.org"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.2, help="how long a contestant runs in each round")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        new_key(Path(folder), "example.com", "s1")
        signer = load_signers(Path(folder))["example.com"]
    report = {
        "messages": [
            {"kilobytes": size, "text": kind, **message_figures(kind, size, signer, options.rounds, options.seconds)}
            for kind in PARAGRAPHS
            for size in SIZES_KB
        ],
        "signing": signing_figures(signer, options.rounds),
        "small": small_figures(options.rounds, options.seconds),
    }
    path = write_report("render", **report)
    show(report)
    Console().print(f"Written to {path}", style="dim")


def message_figures(kind: str, kilobytes: int, signer: DkimSigner, rounds: int, seconds: float) -> dict[str, float]:
    """Microseconds per email for a message of `kilobytes` on the wire, text and HTML together."""
    html, text = sources(kind, kilobytes * 1024)
    content = compile_content(SUBJECT, html, text)
    assert content.html
    part = content.html
    headers = CampaignHeaders(
        CAMPAIGN, "news@example.com", "Новости", "reply@example.com", "", "news.example.com", "a:b:c:d"
    )
    builder = MessageBuilder(content, headers)
    values = {**DATA, "email": EMAIL, "unsubscribe_url": URL}
    message = builder.build_unsigned(17, EMAIL, DATA, DATE, URL)
    usual = usual_way(html, text)
    took = compare(
        {
            "render": lambda: part.pieces(values),
            "build": lambda: builder.build(17, EMAIL, DATA, DATE, URL),
            "build to sign": lambda: builder.build_unsigned(17, EMAIL, DATA, DATE, URL),
            "sign": lambda: signer.sign(message),
            "usual": lambda: usual(values),
        },
        rounds,
        seconds,
    )
    return {"bytes": len(builder.build(17, EMAIL, DATA, DATE, URL)), **took}


def sources(kind: str, wire_bytes: int) -> tuple[str, str]:
    """HTML and text for a message of about this many bytes."""
    paragraph = PARAGRAPHS[kind]
    plain = re.sub("<[^>]*>", "", paragraph)
    times = max(1, round((wire_bytes - 1700) / (len(paragraph.encode()) + len(plain.encode())) / 1.15))
    text = "{{ first_name }}, {{ city }}\n" + plain * times + "{{ unsubscribe_url }}\n"
    return FIELDS + paragraph * times + FOOTER, text


def usual_way(html: str, text: str) -> Callable[[Mapping[str, Value]], bytes]:
    """Compiled templates of Jinja2 and EmailMessage of the standard library, the usual way."""
    escaping, plain = Environment(autoescape=True), Environment(autoescape=False)
    subject_template = plain.from_string(SUBJECT)
    html_template, text_template = escaping.from_string(html), plain.from_string(text)

    def build(values: Mapping[str, Value]) -> bytes:
        message = EmailMessage(policy=SMTP)
        message["From"], message["To"], message["Date"] = "news@example.com", str(values["email"]), DATE
        message["Subject"] = subject_template.render(values)
        message.set_content(text_template.render(values))
        message.add_alternative(html_template.render(values), subtype="html")
        return message.as_bytes()

    return build


def signing_figures(signer: DkimSigner, rounds: int) -> dict[str, float]:
    """One core against `openssl speed`, and how two threads scale; a 10 KB message."""
    html, text = sources("latin", 10 * 1024)
    builder = MessageBuilder(compile_content(SUBJECT, html, text), CampaignHeaders(CAMPAIGN, "news@example.com"))
    message = builder.build_unsigned(17, EMAIL, DATA, DATE, URL)
    openssl, ours, threaded = [], [], []
    for _ in range(rounds):
        openssl.append(openssl_signs_per_second())
        ours.append(1e6 / microseconds(lambda: signer.sign(message), 1.0))
        threaded.append(threads_signs_per_second(signer, message, threads=2))
    return {
        "openssl_speed_per_second": statistics.median(openssl),
        "signed_per_second": statistics.median(ours),
        "share_of_openssl": statistics.median(own / peer for own, peer in zip(ours, openssl, strict=True)),
        "signed_per_second_2_threads": statistics.median(threaded),
    }


def signing_share(signer: DkimSigner, message: Unsigned) -> float:
    """The rate of signing whole messages as a share of `openssl speed`: the median of several short measurements, each
    between two of openssl, because a shared machine changes its pace within seconds."""
    openssl = [openssl_signs_per_second()]
    shares = []
    for _ in range(SIGNING_ROUNDS):
        ours = 1e6 / microseconds(lambda: signer.sign(message), 1.0)
        openssl.append(openssl_signs_per_second())
        shares.append(ours / statistics.mean(openssl[-2:]))
    return statistics.median(shares)


def openssl_signs_per_second() -> float:
    command = ["openssl", "speed", "-seconds", "1", "rsa2048"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return float(printed.split()[-2])


def threads_signs_per_second(signer: DkimSigner, message: Unsigned, threads: int) -> float:
    number = 1000
    with ThreadPoolExecutor(threads) as pool:
        began = time.perf_counter()
        for _ in pool.map(lambda _: signer.sign(message), range(number)):
            pass
        return number / (time.perf_counter() - began)


def small_figures(rounds: int, seconds: float) -> dict[str, float]:
    token = make_token(SECRET, CAMPAIGN, 17)
    return compare(
        {
            "parse_address": lambda: parse_address("Ivan.Petrov+news@Mail.Example.com"),
            "make_token": lambda: make_token(SECRET, CAMPAIGN, 17),
            "read_token": lambda: read_token([SECRET], token),
        },
        rounds,
        seconds,
    )


def compare(contestants: Mapping[str, Callable[[], object]], rounds: int, seconds: float) -> dict[str, float]:
    """Microseconds per call, the median of interleaved rounds."""
    took: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, call in contestants.items():
            took[name].append(microseconds(call, seconds))
    return {name: statistics.median(times) for name, times in took.items()}


def microseconds(call: Callable[[], object], seconds: float) -> float:
    """CPU time of this thread per call."""
    calls = 0
    began = time.thread_time()
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        for _ in range(20):
            call()
        calls += 20
    return (time.thread_time() - began) / calls * 1e6


def show(report: Mapping[str, object]) -> None:
    console = Console()
    messages, signing, small = report["messages"], report["signing"], report["small"]
    assert isinstance(messages, list)
    assert isinstance(signing, dict)
    assert isinstance(small, dict)
    table = Table(
        "text",
        "bytes",
        "render HTML",
        "build",
        "build to sign",
        "sign",
        "Jinja2 + EmailMessage",
        title="CPU per email, us",
    )
    for row in messages:
        figures = [f"{row[name]:.1f}" for name in ("render", "build", "build to sign", "sign", "usual")]
        table.add_row(str(row["text"]), str(row["bytes"]), *figures)
    show_table(table, console)
    table = Table("what", "value", title="DKIM, RSA-2048, and small things (us)")
    for name, value in {**signing, **small}.items():
        table.add_row(name, f"{value:.2f}")
    show_table(table, console)


if __name__ == "__main__":
    main()
