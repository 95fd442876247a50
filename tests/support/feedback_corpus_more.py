"""More reports in the manner of real mail systems: letters without a machine-readable part, gateways, providers of many
countries, absences in eight languages. Each was judged by its words before it was read by the code."""

from collections.abc import Iterator

from shared.feedback.meaning import Kind
from tests.support.feedback_corpus import ANN, LINK, RETURNED, TOKEN, Case, arf, dsn, group, letter

EXCHANGE_2003 = """Your message

  To:      ann@example.net
  Subject: Spring news
  Sent:    Mon, 2 Nov 2026 10:00:00 +0000

did not reach the following recipient(s):

ann@example.net on Mon, 2 Nov 2026 10:00:05 +0000
    The e-mail account does not exist at the organization this message
was sent to.  Check the e-mail address, or contact the recipient
directly to find out the correct address.
    <mail.example.net #5.1.1>
"""
EXCHANGE_GERMAN = """Fehler bei der Nachrichtenzustellung an folgende Empfänger oder Gruppen:

ann@example.net
Die eingegebene E-Mail-Adresse konnte nicht gefunden werden. Überprüfen Sie die E-Mail-Adresse des Empfängers, und
versuchen Sie, die Nachricht erneut zu senden.

Diagnoseinformationen für Administratoren:

Generierender Server: ex01.example.net

ann@example.net
Remote Server returned '550 5.1.10 RESOLVER.ADR.RecipientNotFound; Recipient ann@example.net not found by SMTP address lookup'
"""
EXCHANGE_JAPANESE = """次の受信者またはグループにメッセージを配信できませんでした:

ann@example.net
入力した電子メール アドレスが見つかりませんでした。

管理者向けの診断情報:
#550 5.1.1 RESOLVER.ADR.RecipNotFound; not found ##
"""
EXCHANGE_CHINESE = """以下收件人或组的邮件传递失败:

ann@example.net
收件人的邮箱已满，目前无法接收邮件。请稍后重新发送此邮件，或直接与收件人联系。

管理员的诊断信息:
#554 5.2.2 mailbox full; STOREDRV.Deliver.Exception:QuotaExceededException.MapiExceptionShutoffQuotaExceeded ##
"""
EXCHANGE_RUSSIAN = """Не удалось выполнить доставку следующим получателям или группам:

ann@example.net
Введенный адрес электронной почты не найден.

Диагностические сведения для администраторов:
#550 5.1.1 RESOLVER.ADR.RecipNotFound; not found ##
"""

#: Letters: name, author, subject, text, kind, consequence.
LETTERS = [
    (
        "Exchange 2003",
        "System Administrator <postmaster@example.net>",
        "Undeliverable: Spring news",
        EXCHANGE_2003,
        Kind.BOUNCED,
        "suppress",
    ),
    (
        "Exchange in German",
        "Postmaster <postmaster@example.net>",
        "Unzustellbar: Spring news",
        EXCHANGE_GERMAN,
        Kind.BOUNCED,
        "suppress",
    ),
    (
        "Exchange in Japanese",
        "postmaster@example.net",
        "配信不能: Spring news",
        EXCHANGE_JAPANESE,
        Kind.BOUNCED,
        "suppress",
    ),
    ("Exchange in Chinese", "postmaster@example.net", "未送达: Spring news", EXCHANGE_CHINESE, Kind.BOUNCED, "retry"),
    (
        "Exchange in Russian",
        "postmaster@example.net",
        "Не доставлено: Spring news",
        EXCHANGE_RUSSIAN,
        Kind.BOUNCED,
        "suppress",
    ),
    (
        "Mimecast",
        "Mimecast <postmaster@eu-smtp-1.mimecast.com>",
        "[Postmaster] Email Delivery Failure",
        "This is a delivery failure notification message indicating that\nan email you addressed to email address :\n-- ann@example.net\n\ncould not be delivered. The problem appears to be :\n-- Recipient email address is possibly incorrect\n\nAdditional information follows :\n-- 5.1.1 User Unknown\n\nThis condition occurred after 1 attempt(s) to deliver over\na period of 0 hour(s).\n",
        Kind.BOUNCED,
        "suppress",
    ),
    (
        "Mimecast held back",
        "Mimecast <postmaster@eu-smtp-1.mimecast.com>",
        "[Postmaster] Email Delivery Warning",
        "This is a delivery status notification message indicating that\nan email you addressed to email address :\n-- ann@example.net\n\nhas not yet been delivered. Delivery attempts will continue.\n\nThe problem appears to be :\n-- Recipient server unavailable or busy\n",
        Kind.DELAYED,
        "",
    ),
    (
        "Proofpoint",
        "Mail Delivery Subsystem <MAILER-DAEMON@mx0a-1.pphosted.example>",
        "Returned mail: see transcript for details",
        "The original message was received at Mon, 2 Nov 2026 10:00:00 GMT\nfrom mail.example.com [192.0.2.1]\n\n   ----- The following addresses had permanent fatal errors -----\n<ann@example.net>\n    (reason: 550 5.7.1 Message rejected due to content restrictions)\n\n   ----- Transcript of session follows -----\n... while talking to mx.example.net.:\n>>> DATA\n<<< 550 5.7.1 Message rejected due to content restrictions\n554 5.0.0 Service unavailable\n",
        Kind.BOUNCED,
        "spread",
    ),
    (
        "Barracuda",
        "Mail Delivery System <MAILER-DAEMON@barracuda.example.net>",
        "**Message you sent blocked by our bulk email filter**",
        "Your message to: ann@example.net\nwas blocked by our Spam Firewall. The email you sent with the following subject has NOT BEEN DELIVERED:\n\nSubject: Spring news\n",
        Kind.BOUNCED,
        "",
    ),
    (
        "Postini",
        "postmaster@example.net",
        "Delivery Notification: Delivery has failed",
        "This report relates to a message you sent with the following header fields:\n\n  To: ann@example.net\n  Subject: Spring news\n\nYour message cannot be delivered to the following recipients:\n\n  Recipient address: ann@example.net\n  Reason: Remote SMTP server has rejected address\n  Diagnostic code: smtp;550 5.1.1 User unknown - psmtp\n",
        Kind.BOUNCED,
        "suppress",
    ),
    (
        "Zoho",
        "mailer-daemon@mail.zoho.com",
        "Undelivered Mail Returned to Sender",
        "This message was created automatically by mail delivery software.\n A message that you sent could not be delivered to one or more of its recipients. This is a permanent error.\n\nann@example.net, ERROR CODE :550 - 5.1.1 The email account that you tried to reach does not exist.\n",
        Kind.BOUNCED,
        "suppress",
    ),
    (
        "iCloud",
        "Mail Delivery System <MAILER-DAEMON@icloud.com>",
        "Undelivered Mail Returned to Sender",
        "This is the mail system at host st11p00im.me.com.\n\nYour message could not be delivered.\n\n<ann@example.net>: user is over quota: 552 5.2.2 <ann@example.net>: user is over quota\n",
        Kind.BOUNCED,
        "retry",
    ),
    (
        "Comcast",
        "Mail Delivery Subsystem <MAILER-DAEMON@comcast.net>",
        "Permanent Error",
        "This is an automatically generated delivery failure message.\n\nThe following address failed:\n\n<ann@comcast.net>: 550 5.1.1 Not our Customer\n",
        Kind.BOUNCED,
        "suppress",
    ),
    (
        "GMX",
        "GMX Mailer Daemon <mailer-daemon@gmx.de>",
        "Mail delivery failed: returning message to sender",
        "This message was created automatically by mail delivery software.\n\nA message that you sent could not be delivered to one or more of\nits recipients. This is a permanent error. The following address(es) failed:\n\nann@gmx.example:\nSMTP error from remote server for RCPT TO command, host: mx00.emig.gmx.net (212.227.15.9) reason: 550 Requested action not taken: mailbox unavailable\nFor explanation visit https://postmaster.gmx.net/en/error-messages\n",
        Kind.BOUNCED,
        "fail",
    ),
    (
        "T-Online",
        "T-Online Mail Delivery System <mailer-daemon@t-online.de>",
        "Mail konnte nicht zugestellt werden",
        "|------------------------- Nachricht vom Mailsystem -------------------------|\n\nIhre E-Mail an ann@t-online.example konnte nicht zugestellt werden, weil das Postfach des Empfängers voll ist.\n\n<ann@t-online.example>: 552 5.2.2 Mailbox ist voll\n",
        Kind.BOUNCED,
        "retry",
    ),
    (
        "QQ",
        "PostMaster@qq.com",
        "系统退信/System bounce",
        "尊敬的用户,您好!\n很抱歉您发送的邮件被退回，以下是该邮件的相关信息：\n被退回邮件\n主题：Spring news\n收件人：ann@example.net\n退信原因：收件人邮箱地址不存在，邮件无法送达。\nhost mx3.qq.com said: 550 Mailbox not found or access denied. http://service.mail.qq.com/cgi-bin/help\n",
        Kind.BOUNCED,
        "suppress",
    ),
    (
        "163",
        "postmaster@163.com",
        "系统退信",
        "抱歉，您的邮件被退回来了……\n原邮件信息：\n  收件人：ann@163.example\n  主　题：Spring news\n\n退信原因：\n收件人不存在 ann@163.example\n\nSMTP error, RCPT TO: Host 163mx01.mxmail.netease.com said 550 User not found: ann@163.example\n",
        Kind.BOUNCED,
        "suppress",
    ),
    (
        "Naver",
        "Mail Delivery Subsystem <mailer-daemon@naver.com>",
        "메일 전송 실패 안내 : Spring news",
        "안녕하세요. 네이버 메일입니다.\n\n보내신 메일이 전송되지 못했습니다.\n받는사람: ann@naver.example\n실패 사유: 존재하지 않는 메일 주소입니다.\n550 5.1.1 No such user ann@naver.example\n",
        Kind.BOUNCED,
        "suppress",
    ),
    (
        "Naver in words alone",
        "mailer-daemon@naver.com",
        "메일 전송 실패 안내",
        "보내신 메일이 수신자에게 전송되지 못했습니다.\nann@naver.example\n메일을 받을 수 없는 주소입니다.\n",
        Kind.BOUNCED,
        "",
    ),
    (
        "WorkMail",
        "Amazon WorkMail <postmaster@example.awsapps.com>",
        "Undeliverable: Spring news",
        "Delivery has failed to these recipients:\n\nann@example.net\n\nReason: 554 5.7.1 Message rejected by the recipient's organization because of its content\n",
        Kind.BOUNCED,
        "spread",
    ),
    (
        "OpenSMTPD",
        "Mailer Daemon <MAILER-DAEMON@mx.example.net>",
        "Delivery status notification: error",
        "    Hi!\n\n    This is the MAILER-DAEMON, please DO NOT REPLY to this email.\n\n    An error has occurred while attempting to deliver a message for\n    the following list of recipients:\n\nann@example.net: 550 5.1.1 <ann@example.net>: Recipient address rejected: User unknown\n\n    Below is a copy of the original message:\n\n",
        Kind.BOUNCED,
        "suppress",
    ),
    (
        "OpenSMTPD warns",
        "Mailer Daemon <MAILER-DAEMON@mx.example.net>",
        "Delivery status notification: warning",
        "    Hi!\n\n    This is the MAILER-DAEMON, please DO NOT REPLY to this email.\n\n    A message is delayed for more than 4 hours for the following\n    list of recipients:\n\nann@example.net: 421 Connection timed out\n\n    Please note that this is only a temporary failure report.\n    The message is kept in the queue for up to 4 days.\n    You DO NOT NEED to re-send the message to these recipients.\n",
        Kind.DELAYED,
        "",
    ),
    (
        "Courier",
        '"Courier mail server at mx.example.net" <@mx.example.net>',
        "NOTICE: mail delivery status.",
        "This is a delivery status notification from mx.example.net,\nrunning the Courier mail server.\n\nThe original message was received on Mon, 02 Nov 2026 10:00:00 +0000\nfrom mail.example.com (mail.example.com [192.0.2.1])\n\n---------------------------------------------------------------------------\n\n                           UNDELIVERABLE MAIL\n\nYour message to the following recipients cannot be delivered:\n\n<ann@example.net>:\n    mx.example.net [192.0.2.9]:\n>>> RCPT TO:<ann@example.net>\n<<< 550 User <ann@example.net> unknown\n",
        Kind.BOUNCED,
        "suppress",
    ),
    (
        "MailEnable",
        "postmaster@mailenable.example.net",
        "Message Delivery Failure",
        "MailEnable: Message could not be delivered to some recipients.\nThe following recipient(s) could not be reached:\n\n\tRecipient: [SMTP:ann@example.net]\n\tReason: Remote SMTP Server Returned: 550 5.1.1 unknown or illegal alias: ann@example.net\n\nMessage headers follow:\n",
        Kind.BOUNCED,
        "suppress",
    ),
    (
        "hMailServer",
        "mailer-daemon@hmail.example.net",
        "Message undeliverable: Spring news",
        "Your message did not reach some or all of the intended recipients.\n\n   Sent: Mon, 2 Nov 2026 10:00:00 +0000\n   Subject: Spring news\n\nThe following recipient(s) could not be reached:\n\nann@example.net\n   Error Type: SMTP\n   Remote server (192.0.2.9) issued an error.\n   hMailServer sent: RCPT TO:<ann@example.net>\n   Remote server replied: 550 Unknown user\n\nhMailServer\n",
        Kind.BOUNCED,
        "suppress",
    ),
    (
        "Notes in Japanese",
        "Mail Router <postmaster@notes.example.jp>",
        "配信失敗: ユーザー ann (ann@example.net) は Domino ディレクトリにありません",
        "文書\n  件名: Spring news\n\nは次の宛先に配信されませんでした:\n\n  ann@example.net\n\n理由:\n\n  ユーザー ann は Domino ディレクトリにありません\n",
        Kind.BOUNCED,
        "",
    ),
    (
        "Groupwise",
        "Mailer-Daemon <Mailer-Daemon@gw.example.net>",
        "Message status - undeliverable",
        "The attached file had the following undeliverable recipient(s):\n\tann@example.net\n\nTranscript of session follows:\nCommand: RCPT TO:<ann@example.net>\nResponse: 550 Mailbox unavailable or access denied\n",
        Kind.BOUNCED,
        "",
    ),
    (
        "Kerio in Czech",
        "Mail Delivery Subsystem <postmaster@kerio.example.cz>",
        "Nedoručitelné: Spring news",
        "Vaši zprávu nelze doručit následujícím příjemcům:\n\nann@example.net\n550 5.1.1 Uživatel neexistuje\n",
        Kind.BOUNCED,
        "suppress",
    ),
    (
        "Postfix in Russian, delayed",
        "MAILER-DAEMON@mx.example.ru (Mail Delivery System)",
        "Отложенная почта (попытки продолжаются)",
        "Это почтовая система на узле mx.example.ru.\n\nЭТО ТОЛЬКО ПРЕДУПРЕЖДЕНИЕ. ПОВТОРНО ОТПРАВЛЯТЬ ПИСЬМО НЕ НУЖНО.\n\nВаше письмо не удалось доставить в течение 4 часов. Попытки будут продолжаться в течение 5 дней.\n\n<ann@example.net>: connect to mx.example.net[192.0.2.9]:25: Connection timed out\n",
        Kind.DELAYED,
        "",
    ),
    (
        "Mail.ru, delayed",
        "mailer-daemon@corp.mail.ru",
        "Письмо пока не доставлено",
        "Доставка вашего письма на адрес ann@example.net задерживается: сервер получателя временно недоступен.\nМы продолжим попытки в течение двух суток. Ничего делать не нужно.\n",
        Kind.DELAYED,
        "",
    ),
    (
        "Exchange in French, delayed",
        "postmaster@exemple.fr",
        "Remise retardée : Spring news",
        "La remise à ces destinataires ou groupes est retardée :\n\nann@example.net\n\nCe message n'a pas encore été remis. Les tentatives de remise vont se poursuivre.\n",
        Kind.DELAYED,
        "",
    ),
    (
        "Gmail, incomplete",
        "Mail Delivery Subsystem <mailer-daemon@googlemail.com>",
        "Delivery Status Notification (Delay)",
        "** Delivery incomplete **\n\nThere was a temporary problem delivering your message to ann@example.net. Gmail will retry for 45 more hours. You'll be notified if the delivery fails permanently.\n\nThe response was:\n\nDNS Error: DNS type 'mx' lookup of example.net responded with code SERVFAIL\n",
        Kind.DELAYED,
        "",
    ),
    (
        "Yandex in English",
        "mailer-daemon@yandex.ru",
        "Undelivered Mail Returned to Sender",
        "This is the mail system at host forward101.mail.yandex.net.\n\nI'm sorry to have to inform you that your message could not\nbe delivered to one or more recipients.\n\n<ann@example.net>: host mx.example.net[192.0.2.9] said: 554 5.7.1 [2] Message rejected under suspicion of SPAM; https://ya.cc/1IrBc (in reply to end of DATA command)\n",
        Kind.BOUNCED,
        "spread",
    ),
    (
        "Spanish words alone",
        "Administrador de correo <postmaster@ejemplo.es>",
        "Correo devuelto: Spring news",
        "No se ha podido entregar su mensaje a:\n\nann@example.net\n\nEl usuario no existe.\n",
        Kind.BOUNCED,
        "",
    ),
    (
        "Turkish",
        "MAILER-DAEMON@ornek.com.tr",
        "Teslim edilemedi: Spring news",
        "İletiniz şu alıcılara teslim edilemedi:\n\nann@example.net\n550 5.1.1 Kullanıcı bulunamadı\n",
        Kind.BOUNCED,
        "suppress",
    ),
]

#: What a program or a person writes who is away: name, subject, text.
AWAY = [
    (
        "English",
        "Away until Monday",
        "I am currently out of the office with no access to email.",
        "Auto-Submitted: auto-replied\n",
    ),
    ("Italian", "Fuori ufficio: Spring news", "Sono in ferie fino al 15. Per urgenze: 550 5.1.1.", ""),
    (
        "Portuguese",
        "Ausência temporária: Spring news",
        "Estou de férias.",
        "X-Auto-Response-Suppress: All\nAuto-Submitted: auto-generated\n",
    ),
    (
        "Spanish",
        "Ausente de la oficina: Spring news",
        "Estoy de vacaciones. Su mensaje no se pudo entregar a nadie más.",
        "",
    ),
    ("Polish", "Nieobecność w biurze: Spring news", "Jestem na urlopie.", ""),
    ("Dutch", "Afwezigheidsbericht: Spring news", "Ik ben met vakantie.", ""),
    ("Korean", "부재중 자동 회신: Spring news", "휴가 중입니다.", ""),
    ("Swedish", "Frånvaro: Spring news", "Jag är på semester.", ""),
    ("Turkish", "Ofis dışında: Spring news", "İzindeyim.", ""),
    ("Russian", "Отсутствие на рабочем месте: Spring news", "Я в отпуске до 15 ноября.", ""),
    ("French", "Absence : Spring news", "Je suis en congés.", ""),
]


def more_cases() -> Iterator[Case]:
    """All of them."""
    for name, author, subject, text, kind, consequence in LETTERS:
        octets = letter(author, subject, text + "\n----- Original message -----\n\n" + RETURNED)
        yield Case(f"letter of {name}", octets, kind, consequence)
    for name, subject, text, more in AWAY:
        octets = letter(ANN, subject, text, more=more).replace(b"Return-Path: <>\n", b"")
        yield Case(f"away in {name}", octets, Kind.AUTO_REPLY, sender=ANN)
    yield from _challenges()
    yield from _complaints()
    yield from _unsubscribes()
    yield from _statuses()


def _challenges() -> Iterator[Case]:
    """Programs that ask a stranger to prove that he is a person: nothing follows."""
    tmda = 'This message was created automatically by mail delivery software (TMDA).\n\nYour message to ann@example.net is being held because your address was not recognized.\n\nTo release your message for delivery, please send an empty message to the following address, or use your mailer\'s "Reply" feature.\n\n   ann-confirm-1133@example.net\n'
    octets = letter(
        ANN, "Please confirm your message", tmda, more="Auto-Submitted: auto-replied\nX-Delivery-Agent: TMDA/1.1.12\n"
    )
    yield Case("challenge of TMDA", octets, Kind.AUTO_REPLY)
    boxbe = 'Hello News,\n\nYour message about "Spring news" was waitlisted.\nPlease add yourself to my Guest List so your messages will be delivered to my Inbox.\n'
    octets = letter(
        "ann@example.net via Boxbe <service@boxbe.example>",
        "Re: Spring news (Action Required)",
        boxbe,
        more="Auto-Submitted: auto-replied\n",
    )
    yield Case(
        "challenge of Boxbe", octets.replace(b"Return-Path: <>\n", b""), Kind.AUTO_REPLY, sender="service@boxbe.example"
    )
    left = "Ann Smith no longer works here. Please write to info@example.net instead.\n"
    octets = letter(ANN, "Re: Spring news", left, more="X-Autoreply: yes\n")
    yield Case("an employee who left", octets, Kind.AUTO_REPLY)
    ticket = "Your request has been received and a ticket was created. A summary: delivery failed for order 550.\n"
    octets = letter(
        "Support <support@example.net>", "[Ticket#2026110] Spring news", ticket, more="Auto-Submitted: auto-replied\n"
    )
    yield Case("a ticket system", octets, Kind.AUTO_REPLY)


def _complaints() -> Iterator[Case]:
    abuse = "abuse@bounces.example.com"
    headers = RETURNED.partition("\n\n")[0] + "\n\n"
    strangers = "From: x@example.com\nTo: undisclosed\nSubject: s\n\nx"
    yield Case(
        "complaint with Original-Rcpt-To alone",
        arf("abuse", strangers, more=f"Original-Rcpt-To: rfc822;{ANN}\n"),
        Kind.COMPLAINED,
        has_token=False,
        sender=None,
        rcpt=abuse,
    )
    whole = arf("abuse", headers).replace(b"message/rfc822", b"text/rfc822-headers")
    yield Case("complaint with headers as text", whole, Kind.COMPLAINED, sender="feedback@arf.example.net", rcpt=abuse)
    yield Case("complaint with CRLF", arf("abuse").replace(b"\n", b"\r\n"), Kind.COMPLAINED, sender=None, rcpt=abuse)
    two = arf(
        "abuse",
        more=f"Original-Rcpt-To: <{ANN}>\nSource-IP: 192.0.2.1\nReported-Domain: example.com\nReported-URI: https://mail.example.com/u/{LINK}\nRemoval-Recipient: {ANN}\n",
    )
    yield Case("complaint with every field", two, Kind.COMPLAINED, sender=None, rcpt=abuse)


def _unsubscribes() -> Iterator[Case]:
    rcpt = f"unsubscribe+{TOKEN}@bounces.example.com"
    for name, text in {
        "of Yahoo": f"From: {ANN}\nTo: {rcpt}\nSubject: unsubscribe\nX-Mailer: YahooMailUnsubscribe\nContent-Type: text/plain\n\nunsubscribe\n",
        "of Outlook": f"From: {ANN}\nTo: <{rcpt.upper()}>\nSubject: unsubscribe\nContent-Type: text/html\n\n<html><body>Your request to unsubscribe could not be delivered by mail.<br></body></html>\n",
        "of iOS": f"From: {ANN}\nTo: {rcpt}\nSubject: unsubscribe\nMIME-Version: 1.0 (1.0)\nContent-Type: multipart/alternative; boundary=b\n\n--b\nContent-Type: text/plain\n\n--b--\n",
        "in Japanese": f"From: {ANN}\nTo: {rcpt}\nSubject: =?iso-2022-jp?B?GyRCR1s/LkRkO18bKEI=?=\n\nx\n",
    }.items():
        yield Case(f"unsubscribe {name}", text.encode(), Kind.UNSUBSCRIBED, sender=ANN, rcpt=rcpt)


#: Name, status, diagnostic code, consequence.
STATUSES = [
    ("only for authenticated senders", "5.7.1", "RESOLVER.RST.AuthRequired; authentication required", ""),
    ("moved away", "5.1.6", "recipient no longer on server", "suppress"),
    ("a mail loop", "5.4.14", "Hop count exceeded - possible mail loop ATTR34", "fail"),
    ("an inactive mailbox", "5.2.1", "The user you are trying to contact is inactive (mailbox disabled)", "suppress"),
]


def _statuses() -> Iterator[Case]:
    """With a machine-readable part that is out of the ordinary."""
    author = "postmaster@example.net"
    for name, status, said, consequence in STATUSES:
        found = group("failed", status, f"550 {status} {said}")
        yield Case(name, dsn(author, "Undeliverable", "x", found), Kind.BOUNCED, consequence)
    words = "Empfänger unbekannt"
    found = group("failed", "5.1.1", f"550 5.1.1 {words}")
    latin = dsn(author, "Zustellung fehlgeschlagen", words, found, charset="iso-8859-1")
    yield Case("umlauts in the status", latin, Kind.BOUNCED, "suppress")
    expired = dsn(author, "Undelivered", "x", group("failed", "4.4.7", "delivery time expired", kind="X-Local"))
    yield Case("expired with a code of class 4", expired, Kind.BOUNCED)
