"""The dashboard Campaigns: progress of those under way, at most fifty; one that closes disappears."""

from scripts.dashboards.common import CAMPAIGN_STATUSES, JOB, NAMES, links
from scripts.dashboards.panels import BAD, COUNT, GOOD, PER_SECOND, WARN, Dashboard, Panel, Query, Row, Variable

NAME = Variable("campaign", "Campaign", 'label_values(vashsender_campaign_emails{job="$job"}, name)', multi=True)
EMAILS = 'max by (campaign, name, status) (vashsender_campaign_emails{job="$job", name=~"$campaign"%s})'


def emails(status: str = "") -> str:
    """Recipients of each campaign by status. Several dispatchers report the same values."""
    return EMAILS % (f', status=~"{status}"' if status else "")


PROGRESS = (
    Panel(
        "bargauge",
        "Done",
        "Share of recipients that are closed, whatever their result.",
        "percentunit",
        [
            Query(
                f"sum by (campaign, name) ({emails('sent|failed|suppressed|expired|cancelled|unknown')}) / "
                f"(sum by (campaign, name) ({emails()}) > 0)",
                "{{name}}",
                instant=True,
            )
        ],
        width=12,
        height=10,
        most=1,
    ),
    Panel(
        "timeseries",
        "Sent",
        "Emails that relays accepted.",
        COUNT,
        [Query(emails("sent"), "{{name}}")],
        width=12,
        height=10,
        colors=NAMES,
    ),
    Panel(
        "timeseries",
        "Speed",
        "Emails accepted per second.",
        PER_SECOND,
        [
            Query(
                "clamp_min(max by (campaign, name) (deriv(vashsender_campaign_emails"
                '{job="$job", name=~"$campaign", status="sent"}[$__rate_interval])), 0)',
                "{{name}}",
            )
        ],
        colors=NAMES,
    ),
    Panel(
        "timeseries",
        "Open",
        "Pending: waiting for a sender, the rate limit or a resume. Deferred: the relay asked to try later.",
        COUNT,
        [Query(emails("pending|deferred"), "{{name}} {{status}}")],
        colors=NAMES,
    ),
    Panel(
        "timeseries",
        "Not sent",
        "Recipients that were closed without being sent to, by status.",
        COUNT,
        [Query(emails("failed|suppressed|expired|cancelled|unknown") + " > 0", "{{name}} {{status}}")],
        colors=NAMES,
    ),
)

ALL = (
    Panel(
        "timeseries",
        "Campaigns not closed",
        "By status.",
        COUNT,
        [Query('max by (status) (vashsender_campaigns{job="$job"})', "{{status}}")],
        colors=CAMPAIGN_STATUSES,
    ),
    Panel(
        "bargauge",
        "Closed since the dispatchers started",
        "By final status.",
        COUNT,
        [Query('sum by (status) (vashsender_campaigns_closed_total{job="$job"})', "{{status}}", instant=True)],
        colors=CAMPAIGN_STATUSES,
    ),
    Panel(
        "stat",
        "Time used until deliver_by",
        "Of the campaign that has used most of it. Recipients still open at 100 % expire.",
        "percentunit",
        [Query('max(vashsender_deadline_used_ratio{job="$job"})')],
        most=1,
        steps=((GOOD, None), (WARN, 0.5), (BAD, 0.8)),
    ),
    Panel(
        "timeseries",
        "Imported rows",
        "Per second, by outcome.",
        PER_SECOND,
        [Query('sum by (outcome) (rate(vashsender_imported_rows_total{job="$job"}[$__rate_interval]))', "{{outcome}}")],
        width=12,
        colors={"imported": GOOD, "duplicate": "light-blue", "invalid": WARN},
    ),
    Panel(
        "timeseries",
        "Batches released",
        "Per second: fresh for the first time, or again after a retry, pause or rescue.",
        PER_SECOND,
        [Query('sum by (kind) (rate(vashsender_batches_released_total{job="$job"}[$__rate_interval]))', "{{kind}}")],
        width=12,
        colors={"fresh": GOOD, "again": WARN},
    ),
)

BACK = (
    Panel(
        "timeseries",
        "What comes back",
        "Reports taken in per hour, by what they say: bounces, complaints, unsubscribes.",
        COUNT,
        [
            Query(
                'sum by (kind) (increase(vashsender_feedback_reports_total{job="$job", result="recorded"}[1h])) > 0',
                "{{kind}}",
            )
        ],
        width=12,
        colors={"bounced": WARN, "complained": BAD, "delayed": "yellow", "unsubscribed": "purple", "delivered": GOOD},
        empty="No report",
    ),
    Panel(
        "timeseries",
        "Not matched, or refused at the door",
        "Per hour. Unverified: nothing proves whom it is about, so a person reads it. Others: mail that was not taken.",
        COUNT,
        [
            Query(
                'sum(increase(vashsender_feedback_reports_total{job="$job", result="unverified"}[1h]))', "unverified"
            ),
            Query('sum by (reason) (increase(vashsender_feedback_refused_total{job="$job"}[1h])) > 0', "{{reason}}"),
        ],
        width=12,
        colors={".*": BAD, "unverified": "purple", "wrong_token|unknown_address": WARN},
        empty="No report",
    ),
)

CAMPAIGNS = Dashboard(
    "vashsender-campaigns",
    "VashSender / Campaigns",
    "Progress of the campaigns under way, at most fifty. Closed ones disappear; the API's page still has them.",
    [JOB, NAME],
    [Row("Under way", PROGRESS), Row("All", ALL), Row("Feedback", BACK)],
    links("vashsender-campaigns"),
)
