"""The result of a demo: ledger and mailbox compared into sent, failed, lost and duplicated."""

from pathlib import Path

from cli.account import copies, settle
from cli.mailbox.maildir import Maildir

CAMPAIGN = "01890a5d-ac96-774b-bcce-b302099a8057"


def test_agreement_gives_the_last_line_of_a_demo() -> None:
    ledger = {f"p{number}@example.com": "sent" for number in range(995)}
    ledger |= {f"refused{number}@example.com": "failed" for number in range(5)}
    account = settle(ledger, dict.fromkeys([email for email, status in ledger.items() if status == "sent"], 1))
    assert account.line() == "1000 recipients: 995 sent, 5 failed, 0 lost, 0 duplicated"
    assert account.astray == 0


def test_an_email_sent_in_the_ledger_but_not_in_the_mailbox_is_lost() -> None:
    account = settle({"a@x.test": "sent", "b@x.test": "sent"}, {"a@x.test": 1})
    assert account.line() == "2 recipients: 1 sent, 0 failed, 1 lost, 0 duplicated"


def test_open_and_unknown_recipients_without_an_email_are_lost() -> None:
    account = settle({"a@x.test": "pending", "b@x.test": "deferred", "c@x.test": "unknown"}, {})
    assert account.lost == 3


def test_copies_beyond_the_first_are_duplicates() -> None:
    account = settle({"a@x.test": "sent", "b@x.test": "sent"}, {"a@x.test": 3, "b@x.test": 1})
    assert (account.sent, account.duplicated) == (2, 2)


def test_an_unrecorded_email_is_astray_and_not_lost() -> None:
    account = settle({"a@x.test": "failed", "b@x.test": "sent"}, {"a@x.test": 1, "b@x.test": 1, "c@x.test": 1})
    assert (account.sent, account.failed, account.lost, account.astray) == (1, 0, 0, 2)


def test_only_the_emails_of_the_campaign_are_counted(tmp_path: Path) -> None:
    maildir = Maildir(tmp_path)

    def keep(recipient: str, message_id: str) -> str:
        return maildir.store(f"Delivered-To: {recipient}\r\nMessage-ID: <{message_id}>\r\n\r\n".encode(), b"Body\r\n")

    first = keep("a@x.test", f"1.{CAMPAIGN}@x.test")
    second = keep("a@x.test", f"1.{CAMPAIGN.replace('-', '')}@x.test")
    keep("b@x.test", "2.another@x.test")
    maildir.store(b"Delivered-To: c@x.test\r\n\r\n", CAMPAIGN.encode())  # has no meaning in a body
    found, keys = copies(maildir, CAMPAIGN, since=0)
    assert found == {"a@x.test": 2}
    assert sorted(keys) == [first, second]
    assert copies(maildir, CAMPAIGN, since=4e9) == ({}, [])
