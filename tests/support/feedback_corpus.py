"""Reports in the manner of real mail systems, each with what it means; made from their public formats."""

import base64
import quopri
from collections.abc import Iterator
from dataclasses import dataclass

from shared.feedback.meaning import Kind

TOKEN = "haudm5pirx5nmvulzvogl2uamwwvwqyn"
LINK = "wuwOjOIeSdq0QEBBHhofyQAAAAAAADA5z0Ac7vIlX5HFFApsxUlh_bO_"
RCPT = f"bounce+{TOKEN}@bounces.example.com"
ANN = "ann@example.net"

RETURNED = f"""Return-Path: <{RCPT}>
Received: from mail.example.com (mail.example.com [192.0.2.1]) by mx.example.net; Mon, 2 Nov 2026 10:00:00 +0000
Date: Mon, 02 Nov 2026 10:00:00 +0000
Message-ID: <{TOKEN}@example.com>
To: {ANN}
List-Unsubscribe: <https://mail.example.com/u/{LINK}>, <mailto:unsubscribe+{TOKEN}@bounces.example.com>
List-Unsubscribe-Post: List-Unsubscribe=One-Click
Subject: Spring news
From: News <news@example.com>
MIME-Version: 1.0
Content-Type: text/plain; charset=utf-8

Hello Ann. Not for you? https://mail.example.com/u/{LINK}
"""


@dataclass(frozen=True)
class Case:
    """One report."""

    name: str
    octets: bytes
    kind: Kind
    #: What follows, for bounces: `suppress`, `retry`, `fail`, `spread`, `hold`, `reroute` ...; empty: not said.
    consequence: str = ""
    #: Whether a token of ours can be found in it.
    has_token: bool = True
    sender: str | None = ""
    rcpt: str = RCPT


REPLIES = [  # Status, Diagnostic-Code, consequence
    (
        "5.1.1",
        "550 5.1.1 <ann@example.net>: Recipient address rejected: User unknown in virtual mailbox table",
        "suppress",
    ),
    (
        "5.1.1",
        "550-5.1.1 The email account that you tried to reach does not exist. Please try double-checking",
        "suppress",
    ),
    ("5.1.10", "550 5.1.10 RESOLVER.ADR.RecipientNotFound; Recipient not found by SMTP address lookup", "suppress"),
    ("5.2.1", "550 5.2.1 The email account that you tried to reach is disabled.", "suppress"),
    ("5.2.2", "552 5.2.2 The email account that you tried to reach is over quota", "retry"),
    ("4.2.2", "452 4.2.2 Mailbox full", "retry"),
    ("5.7.1", "554 5.7.1 Message rejected as spam by Content Filtering", "spread"),
    ("5.7.1", "550 5.7.1 Service unavailable; client [192.0.2.1] blocked using Spamhaus", "reroute"),
    (
        "5.7.26",
        "550 5.7.26 Unauthenticated email from example.com is not accepted due to domain's DMARC policy",
        "hold",
    ),
    ("5.3.4", "552 5.3.4 Message size exceeds fixed limit", "fail"),
    ("5.4.4", "", "fail"),
    ("5.0.0", "550 5.1.1 No such user here", "suppress"),
    ("5.0.0", "554 delivery error: dd This user doesn't have a yahoo.com account", "suppress"),
    ("5.1.2", "550 5.1.2 Host unknown (Name server: host not found)", ""),
    ("4.4.7", "554 5.4.7 Message expired", ""),
]


def dsn(
    author: str,
    subject: str,
    note: str,
    *groups: str,
    returned: str = RETURNED,
    returned_type: str = "message/rfc822",
    message: str = "Reporting-MTA: dns; mx.example.net\nArrival-Date: Mon, 2 Nov 2026 10:00:00 +0000",
    charset: str = "utf-8",
    encoding: str = "8bit",
    more: str = "",
) -> bytes:
    """A multipart/report."""

    def part(kind: str, text: str, parameters: str = "") -> bytes:
        octets = text.encode(charset if kind == "text/plain" else "utf-8")
        if encoding == "base64":
            octets = base64.encodebytes(octets)
        elif encoding == "quoted-printable":
            octets = quopri.encodestring(octets)
        return (
            f"--=_b\nContent-Type: {kind}{parameters}\nContent-Transfer-Encoding: {encoding}\n\n".encode()
            + octets
            + b"\n"
        )

    encoded = (
        f"=?{charset}?b?{base64.b64encode(subject.encode(charset)).decode()}?=" if not subject.isascii() else subject
    )
    head = (
        f"Return-Path: <>\nFrom: {author}\nTo: {RCPT}\nSubject: {encoded}\nMIME-Version: 1.0\n{more}"
        'Content-Type: multipart/report; report-type=delivery-status;\n boundary="=_b"\n\nThis is a MIME message.\n'
    ).encode()
    status = message + "\n\n" + "\n\n".join(groups) + "\n"
    body = part("text/plain", note, f"; charset={charset}") + part("message/delivery-status", status)
    if returned:
        body += part(returned_type, returned)
    return head + body + b"--=_b--\n"


def group(
    action: str, status: str, diagnostic: str = "", *, final: str = ANN, original: str = "", kind: str = "smtp"
) -> str:
    """The fields of one recipient."""
    lines = [f"Original-Recipient: rfc822;{original}"] if original else []
    lines += [f"Final-Recipient: rfc822; {final}", f"Action: {action}", f"Status: {status}"]
    lines += ["Remote-MTA: dns; mx.example.net", f"Diagnostic-Code: {kind}; {diagnostic}"] if diagnostic else []
    return "\n".join(lines)


AUTHORS = {
    "postfix": (
        "MAILER-DAEMON@mx.example.net (Mail Delivery System)",
        "Undelivered Mail Returned to Sender",
        "This is the mail system at host mx.example.net.\n\nI'm sorry to have to inform you that your message could not\nbe delivered to one or more recipients.",
    ),
    "exim": (
        "Mail Delivery System <Mailer-Daemon@mx.example.net>",
        "Mail delivery failed: returning message to sender",
        "This message was created automatically by mail delivery software.",
    ),
    "sendmail": (
        "Mail Delivery Subsystem <MAILER-DAEMON@mx.example.net>",
        "Returned mail: see transcript for details",
        "The original message was received at Mon, 2 Nov 2026\n\n   ----- The following addresses had permanent fatal errors -----\n<ann@example.net>\n",
    ),
    "exchange": (
        "postmaster@example.net",
        "Undeliverable: Spring news",
        "Delivery has failed to these recipients or groups:\n\nann@example.net\nThe email address you entered couldn't be found.",
    ),
    "microsoft365": (
        "Microsoft Outlook <MicrosoftExchange329e71ec88ae4615bbc36ab6ce41109e@example.onmicrosoft.com>",
        "Undeliverable: Spring news",
        "Your message to ann@example.net couldn't be delivered.\nann wasn't found at example.net.",
    ),
    "gmail": (
        "Mail Delivery Subsystem <mailer-daemon@googlemail.com>",
        "Delivery Status Notification (Failure)",
        "** Address not found **\n\nYour message wasn't delivered to ann@example.net because the address couldn't be found.",
    ),
    "yahoo": (
        "MAILER-DAEMON@yahoo.com",
        "Failure Notice",
        "Sorry, we were unable to deliver your message to the following address.",
    ),
    "mailru": (
        "mailer-daemon@corp.mail.ru",
        "Недоставленное сообщение",
        "Это письмо создано автоматически сервером Mail.Ru. К сожалению, Ваше письмо не может быть доставлено.",
    ),
    "yandex": (
        "mailer-daemon@yandex.ru",
        "Недоставленное сообщение",
        "Это письмо отправлено почтовым сервером yandex.ru.\nК сожалению, мы вынуждены сообщить Вам о том, что Ваше письмо не может быть отправлено.",
    ),
    "domino": (
        "Mail Router <postmaster@notes.example.net>",
        "DELIVERY FAILURE: User ann (ann@example.net) not listed in Domino Directory",
        "Your message\n\n  Subject: Spring news\n\nwas not delivered to:\n\n  ann@example.net",
    ),
    "ses": (
        "MAILER-DAEMON@eu-west-1.amazonses.com",
        "Delivery Status Notification (Failure)",
        "An error occurred while trying to deliver the mail to the following recipients:\nann@example.net",
    ),
    "german": (
        "Postmaster <postmaster@beispiel.de>",
        "Unzustellbar: Frühlingsnachrichten",
        "Ihre Nachricht konnte nicht zugestellt werden. Empfänger unbekannt: ann@example.net",
    ),
    "japanese": (
        "MAILER-DAEMON@example.jp",
        "配信不能メール",
        "次の宛先にメールを配信できませんでした。\nann@example.net",
    ),
    "chinese": ("Postmaster@163.com", "系统退信", "抱歉，您的邮件被退回来了。收件人地址不存在：ann@example.net"),
}
CHARSETS = {
    "mailru": "koi8-r",
    "yandex": "windows-1251",
    "german": "iso-8859-1",
    "japanese": "iso-2022-jp",
    "chinese": "gb2312",
}


def cases() -> list[Case]:
    """All of them."""
    return [
        *_failures(),
        *_other_actions(),
        *_shapes(),
        *_letters(),
        *_delays(),
        *_complaints(),
        *_unsubscribes(),
        *_replies(),
        *_rest(),
    ]


def _failures() -> Iterator[Case]:
    for index, (name, (author, subject, note)) in enumerate(AUTHORS.items()):
        for number, (status, diagnostic, consequence) in enumerate(REPLIES):
            encoding = ("8bit", "base64", "quoted-printable")[(index + number) % 3]
            octets = dsn(
                author,
                subject,
                note,
                group("failed", status, diagnostic),
                charset=CHARSETS.get(name, "utf-8"),
                encoding=encoding,
                returned_type="text/rfc822-headers" if number % 4 == 3 else "message/rfc822",
                returned=RETURNED.partition("\n\n")[0] + "\n" if number % 4 == 3 else RETURNED,
                more="Auto-Submitted: auto-replied\n" if name in ("postfix", "exim", "sendmail") else "",
            )
            yield Case(f"{name} {status} {number}", octets, Kind.BOUNCED, consequence)


def _other_actions() -> Iterator[Case]:
    for name, (author, _, note) in AUTHORS.items():
        yield Case(
            f"{name} delayed",
            dsn(
                author,
                "Warning: message delayed",
                note,
                group("delayed", "4.4.1", "connect to mx.example.net: Connection timed out", kind="X-Postfix"),
            ),
            Kind.DELAYED,
        )
    author, _, note = AUTHORS["postfix"]
    yield Case(
        "delivered",
        dsn(author, "Successful Mail Delivery Report", note, group("delivered", "2.0.0", "250 2.0.0 Ok")),
        Kind.DELIVERED,
    )
    yield Case("relayed", dsn(author, "Relayed", note, group("relayed", "2.1.9")), Kind.DELIVERED)
    yield Case("expanded", dsn(author, "Expanded", note, group("expanded", "2.1.5")), Kind.DELIVERED)
    yield Case(
        "one of three failed",
        dsn(
            author,
            "x",
            note,
            group("delivered", "2.0.0"),
            group("failed", "5.1.1", "550 5.1.1 User unknown"),
            group("relayed", "2.0.0"),
        ),
        Kind.BOUNCED,
        "suppress",
    )
    yield Case(
        "expired after delays",
        dsn(
            author,
            "x",
            note,
            group("failed", "4.4.1", "connect to mx.example.net[192.0.2.9]:25: Connection refused", kind="X-Postfix"),
        ),
        Kind.BOUNCED,
        "",
    )


def _shapes() -> Iterator[Case]:
    author, subject, note = AUTHORS["postfix"]
    good = group("failed", "5.1.1", "550 5.1.1 <ann@example.net>: User unknown")
    whole = dsn(author, subject, note, good)
    bounced = (Kind.BOUNCED, "suppress")
    yield Case("no returned message", dsn(author, subject, note, good, returned=""), *bounced)
    yield Case("no last boundary", whole.removesuffix(b"--=_b--\n"), *bounced)
    yield Case("cut in the returned message", whole[:-200], *bounced)
    yield Case("CRLF", whole.replace(b"\n", b"\r\n"), *bounced)
    yield Case("CR alone", whole.replace(b"\n", b"\r"), *bounced)
    yield Case("no boundary parameter", whole.replace(b';\n boundary="=_b"', b""), *bounced)
    yield Case("another boundary than it says", whole.replace(b'boundary="=_b"', b'boundary="other"'), *bounced)
    yield Case("no report-type", whole.replace(b"report-type=delivery-status;\n", b"\n"), *bounced)
    yield Case("multipart/mixed", whole.replace(b"multipart/report", b"multipart/mixed"), *bounced)
    yield Case("Action missing", dsn(author, subject, note, good.replace("Action: failed\n", "")), *bounced)
    yield Case("Status missing", dsn(author, subject, note, good.replace("Status: 5.1.1\n", "")), *bounced)
    yield Case("Action in capitals", dsn(author, subject, note, good.replace("failed", "FAILED")), *bounced)
    yield Case(
        "Status with words",
        dsn(author, subject, note, good.replace("5.1.1\n", "5.1.1 (bad destination mailbox address)\n")),
        *bounced,
    )
    yield Case(
        "no empty line between groups",
        dsn(author, subject, note, good, message="Reporting-MTA: dns; mx").replace(b"mx\n\n", b"mx\n"),
        *bounced,
    )
    yield Case("empty lines doubled", whole.replace(b"\n\nFinal", b"\n\n\n\nFinal"), *bounced)
    yield Case("text/delivery-status", whole.replace(b"message/delivery-status", b"text/delivery-status"), *bounced)
    yield Case(
        "global",
        whole.replace(b"message/delivery-status", b"message/global-delivery-status")
        .replace(b"message/rfc822", b"message/global")
        .replace(b"rfc822; ann", b"utf-8; ann"),
        *bounced,
    )
    yield Case(
        "nested in a forward",
        b"From: MAILER-DAEMON@x\nContent-Type: multipart/mixed; boundary=outer\n\n--outer\nContent-Type: text/plain\n\nx\n--outer\n"
        + whole.partition(b"MIME-Version: 1.0\n")[2]
        + b"\n--outer--\n",
        *bounced,
    )
    yield Case(
        "the status in the text only",
        f"From: MAILER-DAEMON@mx\nSubject: failure\nTo: {RCPT}\n\nReporting-MTA: dns; mx\n\n{good}\n".encode(),
        *bounced,
    )
    yield Case(
        "original recipient",
        dsn(
            author,
            subject,
            note,
            group("failed", "5.1.1", "550 5.1.1 User unknown", final="ann@internal.example.net", original=ANN),
        ),
        *bounced,
    )
    yield Case(
        "reply in the text alone",
        dsn(
            author,
            subject,
            "Hello\n\n<ann@example.net>: host mx.example.net said: 550 5.1.1 User unknown (in reply to RCPT TO)\n",
            group("failed", "5.0.0"),
        ),
        *bounced,
    )
    yield Case(
        "encoded diagnostic",
        dsn(author, subject, note, group("failed", "5.1.1", "=?utf-8?q?550_5=2E1=2E1_User_unknown?=")),
        *bounced,
    )


LETTERS = [  # name, author, subject, text, consequence
    (
        "qmail",
        "MAILER-DAEMON@mx.example.net",
        "failure notice",
        "Hi. This is the qmail-send program at mx.example.net.\nI'm afraid I wasn't able to deliver your message to the following addresses.\nThis is a permanent error; I've given up. Sorry it didn't work out.\n\n<ann@example.net>:\nSorry, no mailbox here by that name. (#5.1.1)\n\n--- Below this line is a copy of the message.\n\n",
        "suppress",
    ),
    (
        "qmail remote",
        "MAILER-DAEMON@mx.example.net",
        "failure notice",
        "Hi. This is the qmail-send program at mx.example.net.\nI'm afraid I wasn't able to deliver your message to the following addresses.\n\n<ann@example.net>:\n192.0.2.9 does not like recipient.\nRemote host said: 550 5.1.1 <ann@example.net>: User unknown\nGiving up on 192.0.2.9.\n\n--- Below this line is a copy of the message.\n\n",
        "suppress",
    ),
    (
        "qmail quota",
        "MAILER-DAEMON@mx.example.net",
        "failure notice",
        "Hi. This is the qmail-send program.\n\n<ann@example.net>:\nUser is over the quota. You can try again later. (#5.2.2)\n\n--- Below this line is a copy of the message.\n\n",
        "retry",
    ),
    (
        "exim letter",
        "Mail Delivery System <Mailer-Daemon@mx.example.net>",
        "Mail delivery failed: returning message to sender",
        "This message was created automatically by mail delivery software.\n\nA message that you sent could not be delivered to one or more of its\nrecipients. This is a permanent error. The following address(es) failed:\n\n  ann@example.net\n    SMTP error from remote mail server after RCPT TO:<ann@example.net>:\n    host mx.example.net [192.0.2.9]: 550 5.1.1 No such user here\n\n------ This is a copy of the message, including all the headers. ------\n\n",
        "suppress",
    ),
    (
        "exim no route",
        "Mail Delivery System <Mailer-Daemon@mx.example.net>",
        "Mail delivery failed: returning message to sender",
        "This message was created automatically by mail delivery software.\n\nThe following address(es) failed:\n\n  ann@example.net\n    Unrouteable address\n\n------ This is a copy of the message, including all the headers. ------\n\n",
        "suppress",
    ),
    (
        "old yahoo",
        "MAILER-DAEMON@yahoo.com",
        "Failure Notice",
        "Sorry, we were unable to deliver your message to the following address.\n\n<ann@example.net>:\n554: 5.7.9 Message not accepted for policy reasons.\n\n--- Below this line is a copy of the message.\n\n",
        "",
    ),
    (
        "sendmail letter",
        "Mail Delivery Subsystem <MAILER-DAEMON@mx.example.net>",
        "Returned mail: User unknown",
        "   ----- The following addresses had permanent fatal errors -----\n<ann@example.net>\n\n   ----- Transcript of session follows -----\n... while talking to mx.example.net.:\n>>> RCPT To:<ann@example.net>\n<<< 550 5.1.1 <ann@example.net>... User unknown\n550 <ann@example.net>... User unknown\n\n   ----- Original message follows -----\n\n",
        "suppress",
    ),
    (
        "domino letter",
        "postmaster@notes.example.net",
        "DELIVERY FAILURE: User ann not listed in public Name & Address Book",
        "Your message was not delivered to:\n\nann@example.net\n\nbecause:\n\nUser unknown\n\n",
        "suppress",
    ),
    (
        "russian",
        "MAILER-DAEMON@example.ru",
        "Сообщение не доставлено",
        "К сожалению, Ваше письмо не может быть доставлено:\n\nann@example.net\n550 5.1.1 Пользователь не найден\n",
        "suppress",
    ),
    (
        "german",
        "MAILER-DAEMON@example.de",
        "Unzustellbare Nachricht",
        "Die Nachricht konnte nicht zugestellt werden an:\n\n<ann@example.net>\n550 5.1.1 Benutzer nicht bekannt\n",
        "suppress",
    ),
    (
        "japanese",
        "MAILER-DAEMON@example.jp",
        "メール配信エラー",
        "以下の宛先に配信できませんでした。\n<ann@example.net>\n550 5.1.1 User unknown\n",
        "suppress",
    ),
    (
        "chinese",
        "postmaster@qq.example.cn",
        "来自邮局的退信",
        "您的邮件无法送达：\nann@example.net\n550 5.1.1 邮箱不存在\n",
        "suppress",
    ),
    (
        "words alone",
        "MAILER-DAEMON@mx.example.net",
        "Delivery failure",
        "Your message could not be delivered.\n\n<ann@example.net>\nno such user\n",
        "suppress",
    ),
    (
        "french",
        "MAILER-DAEMON@exemple.fr",
        "Message non remis",
        "Votre message n'a pas pu être remis à ann@example.net\n550 5.1.1 Utilisateur inconnu\n",
        "suppress",
    ),
]


def letter(
    author: str, subject: str, text: str, charset: str = "utf-8", encoding: str = "8bit", more: str = ""
) -> bytes:
    octets = text.encode(charset)
    if encoding == "base64":
        octets = base64.encodebytes(octets)
    encoded = subject if subject.isascii() else f"=?{charset}?b?{base64.b64encode(subject.encode(charset)).decode()}?="
    return (
        f"Return-Path: <>\nFrom: {author}\nTo: {RCPT}\nSubject: {encoded}\n{more}Content-Type: text/plain; charset={charset}\n"
        f"Content-Transfer-Encoding: {encoding}\n\n"
    ).encode() + octets


def _letters() -> Iterator[Case]:
    charsets = {
        "russian": "koi8-r",
        "german": "iso-8859-1",
        "japanese": "iso-2022-jp",
        "chinese": "gb2312",
        "french": "iso-8859-15",
    }
    for name, author, subject, text, consequence in LETTERS:
        yield Case(f"letter of {name}", letter(author, subject, text + RETURNED), Kind.BOUNCED, consequence)
        octets = letter(author, subject, text, charsets.get(name, "utf-8"), "base64")
        yield Case(f"letter of {name} in base64", octets, Kind.BOUNCED, consequence)
    yield Case(
        "exim with X-Failed-Recipients",
        letter(
            "Mail Delivery System <Mailer-Daemon@mx>",
            "Mail delivery failed",
            LETTERS[3][3],
            more=f"X-Failed-Recipients: {ANN}\nAuto-Submitted: auto-replied\n",
        ),
        Kind.BOUNCED,
        "suppress",
    )


def _delays() -> Iterator[Case]:
    texts = {
        "english": (
            "Warning: message delayed 24 hours",
            "Your message has not yet been delivered to ann@example.net. Delivery attempts will continue to be made.",
        ),
        "russian": (
            "Доставка задерживается",
            "Доставка письма для ann@example.net задерживается. Попытки доставки будут продолжены.",
        ),
        "german": (
            "Zustellung verzögert",
            "Die Zustellung an ann@example.net ist verzögert. Es wird weiterhin versucht.",
        ),
        "japanese": ("配信遅延のお知らせ", "ann@example.net への配信が遅れています。再送を試みます。"),
        "chinese": ("邮件投递延迟", "发往 ann@example.net 的邮件投递延迟，系统将继续尝试。"),
    }
    for name, (subject, text) in texts.items():
        yield Case(f"delay in {name}", letter("MAILER-DAEMON@mx.example.net", subject, text), Kind.DELAYED)


def arf(kind: str, returned: str = RETURNED, *, more: str = "", encoding: str = "7bit") -> bytes:
    """A complaint (RFC 5965)."""
    report = f"Feedback-Type: {kind}\nUser-Agent: SomeGenerator/1.0\nVersion: 1\n{more}"

    def packed(text: str) -> str:
        return base64.encodebytes(text.encode()).decode() if encoding == "base64" else text

    transfer = f"Content-Transfer-Encoding: {encoding}\n"
    return (
        "From: <feedback@arf.example.net>\nSubject: FW: Spring news\nTo: <abuse@bounces.example.com>\nMIME-Version: 1.0\n"
        'Content-Type: multipart/report; report-type=feedback-report; boundary="p"\n\n--p\nContent-Type: text/plain\n\n'
        f"This is an email abuse report.\n\n--p\nContent-Type: message/feedback-report\n{transfer}\n{packed(report)}\n"
        f"--p\nContent-Type: message/rfc822\n{transfer}\n{packed(returned)}\n--p--\n"
    ).encode()


def _complaints() -> Iterator[Case]:
    abuse = "abuse@bounces.example.com"
    redacted = RETURNED.replace(ANN, "redacted@example.net")
    headers = RETURNED.partition("\n\n")[0] + "\n\n"
    no_path = RETURNED.partition("\n")[2]
    for kind in ("abuse", "fraud", "other", "virus", "Abuse"):
        yield Case(f"complaint {kind}", arf(kind), Kind.COMPLAINED, sender="feedback@arf.example.net", rcpt=abuse)
    for name, returned in {"redacted": redacted, "headers alone": headers, "no Return-Path": no_path}.items():
        yield Case(f"complaint {name}", arf("abuse", returned), Kind.COMPLAINED, sender=None, rcpt=abuse)
    yield Case("complaint in base64", arf("abuse", encoding="base64"), Kind.COMPLAINED, sender=None, rcpt=abuse)
    only_link = f"From: x@example.com\nSubject: s\n\nhttps://mail.example.com/u/{LINK}\n"
    yield Case("complaint with the link alone", arf("abuse", only_link), Kind.COMPLAINED, sender=None, rcpt=abuse)
    from_path = arf("abuse", "From: x@y\n\nx", more=f"Original-Mail-From: <{RCPT}>\nOriginal-Rcpt-To: <{ANN}>\n")
    yield Case("complaint with Original-Mail-From alone", from_path, Kind.COMPLAINED, sender=None, rcpt=abuse)
    jmrp = f"From: staff@hotmail.com\nSubject: complaint about message from 192.0.2.1\nContent-Type: multipart/mixed; boundary=j\n\n--j\nContent-Type: message/rfc822\n\n{RETURNED}\n--j--\n"
    yield Case("complaint of Microsoft", jmrp.encode(), Kind.COMPLAINED, sender=None, rcpt=abuse)
    yield Case(
        "complaint without a token",
        arf("abuse", "From: a@b\n\nx"),
        Kind.COMPLAINED,
        has_token=False,
        sender=None,
        rcpt=abuse,
    )
    yield Case("not spam", arf("not-spam"), Kind.AUTO_REPLY, sender=None, rcpt=abuse)
    yield Case("authentication failure", arf("auth-failure"), Kind.AUTO_REPLY, sender=None, rcpt=abuse)
    yield Case("opt-out", arf("opt-out"), Kind.UNSUBSCRIBED, sender=None, rcpt=abuse)


def _unsubscribes() -> Iterator[Case]:
    rcpt = f"unsubscribe+{TOKEN}@bounces.example.com"
    for name, text in {
        "empty": f"From: {ANN}\nTo: {rcpt}\nSubject: \n\n",
        "of a mail program": f"From: {ANN}\nTo: {rcpt}\nSubject: unsubscribe\n\nThis message was automatically generated by Gmail.\n",
        "with words": f"From: {ANN}\nTo: {rcpt}\nSubject: Re: Spring news\n\nPlease stop.\n",
        "in russian": f"From: {ANN}\nTo: {rcpt}\nSubject: =?utf-8?b?0J7RgtC/0LjRgdC60LA=?=\n\nx\n",
    }.items():
        yield Case(f"unsubscribe {name}", text.encode(), Kind.UNSUBSCRIBED, sender=ANN, rcpt=rcpt)
    away = f"From: {ANN}\nTo: {rcpt}\nSubject: Out of office\nAuto-Submitted: auto-replied\n\nx\n"
    yield Case("out of office to unsubscribe", away.encode(), Kind.AUTO_REPLY, sender=ANN, rcpt=rcpt)


def _replies() -> Iterator[Case]:
    for subject in (
        "Out of Office: Spring news",
        "Automatic reply: Spring news",
        "Автоответ: Spring news",
        "Abwesenheitsnotiz: Spring news",
        "自動返信: Spring news",
        "自动回复: Spring news",
        "Réponse automatique : Spring news",
    ):
        text = "I am away. My mailbox is not read. 550 5.1.1 is my lucky number. user unknown"
        yield Case(
            f"reply {subject}",
            letter(ANN, subject, text).replace(b"Return-Path: <>\n", b""),
            Kind.AUTO_REPLY,
            sender=ANN,
        )
    for header in ("Auto-Submitted: auto-replied", "X-Autoreply: yes", "Precedence: auto_reply", "X-Autorespond: Re"):
        yield Case(
            f"reply with {header}",
            letter(ANN, "Re: Spring news", "I left the company.", more=header + "\n"),
            Kind.AUTO_REPLY,
        )
    mdn = f"From: {ANN}\nTo: {RCPT}\nSubject: Read: Spring news\nContent-Type: multipart/report; report-type=disposition-notification; boundary=d\n\n--d\nContent-Type: text/plain\n\nread\n--d\nContent-Type: message/disposition-notification\n\nFinal-Recipient: rfc822;{ANN}\nDisposition: manual-action/MDN-sent-manually; displayed\n--d--\n"
    yield Case("receipt", mdn.encode(), Kind.AUTO_REPLY, sender=ANN, has_token=True)


def _rest() -> Iterator[Case]:
    yield Case(
        "a person writes",
        f"From: {ANN}\nTo: {RCPT}\nSubject: Re: Spring news\n\nThanks for the news!\n".encode(),
        Kind.UNKNOWN,
        sender=ANN,
    )
    yield Case(
        "a person forwards spam",
        f"From: {ANN}\nTo: abuse@bounces.example.com\nSubject: stop this\n\nspam\n".encode(),
        Kind.UNKNOWN,
        sender=ANN,
        rcpt="abuse@bounces.example.com",
        has_token=False,
    )
    yield Case("nothing", b"", Kind.UNKNOWN, sender=None, rcpt="", has_token=False)
    inner = dsn(
        "MAILER-DAEMON@a",
        "Undelivered",
        "x",
        group("failed", "5.1.1", "550 5.1.1 User unknown", final="b@c"),
        returned="From: b@c\n\nx",
    ).decode()
    double = dsn(
        "MAILER-DAEMON@b",
        "Undelivered",
        "x",
        group("failed", "5.1.1", "550 5.1.1 User unknown", final="MAILER-DAEMON@a"),
        returned=inner,
    )
    double = double.replace(RCPT.encode(), b"postmaster@bounces.example.com")
    yield Case("a bounce of a bounce", double, Kind.AUTO_REPLY, has_token=False, rcpt="postmaster@bounces.example.com")
