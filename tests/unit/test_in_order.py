"""One condition finds the recipients of a campaign in order, written for each database."""

from uuid import UUID

import pytest
from sqlalchemy import make_url, select
from sqlalchemy.engine import Dialect
from sqlmodel import col

from shared.ledger.in_order import IN_ORDER, REPORTS_IN_ORDER, all_after, recipients_after, reports_after
from shared.ledger.models import Campaign, Recipient
from shared.ledger.report_tables import Report

POSTGRESQL = make_url("postgresql+asyncpg://").get_dialect()()
SQLITE = make_url("sqlite+aiosqlite://").get_dialect()()

STATEMENT = select(col(Recipient.id)).where(recipients_after(UUID(int=7), 5, 90)).order_by(*IN_ORDER)


@pytest.mark.parametrize(
    ("dialect", "words"),
    [
        (POSTGRESQL, "(recipient.campaign_id, recipient.id) > ("),
        (SQLITE, "recipient.campaign_id = "),
    ],
)
def test_each_database_gets_its_own_form(dialect: Dialect, words: str) -> None:
    compiled = STATEMENT.compile(dialect=dialect)
    assert words in str(compiled)
    assert "recipient.campaign_id, recipient.id" in str(compiled).rpartition("ORDER BY")[2]
    assert set(compiled.params.values()) == {UUID(int=7), 5, 90}


def test_the_rows_behind_a_cursor_are_correlated_with_their_campaign() -> None:
    behind = select(col(Recipient.id)).where(all_after(col(Campaign.id), col(Campaign.cursor)))
    statement = select(col(Campaign.id)).where(behind.correlate(Campaign).exists())
    on_postgresql = str(statement.compile(dialect=POSTGRESQL))
    assert "> (campaign.id, campaign.cursor)" in on_postgresql
    assert "<=" not in on_postgresql
    assert on_postgresql.count("FROM campaign") == 1
    assert "recipient.campaign_id = campaign.id" in str(statement.compile(dialect=SQLITE))


def test_reports_are_found_by_kind() -> None:
    statement = select(col(Report.id)).where(reports_after(UUID(int=7), "bounced", 5)).order_by(*REPORTS_IN_ORDER)
    on_postgresql = str(statement.compile(dialect=POSTGRESQL))
    assert "(report.campaign_id, report.kind, report.recipient_id) > (" in on_postgresql
    assert "report.kind = " in str(statement.compile(dialect=SQLITE))
