"""The dashboard Overview: is mail moving, and what is in the way."""

from scripts.dashboards.common import CAMPAIGN_STATUSES, JOB, STATUSES, links
from scripts.dashboards.panels import BAD, COUNT, GOOD, PER_SECOND, WARN, Dashboard, Panel, Query, Row

MOVING = (
    Panel(
        "stat",
        "Sent per second",
        "Emails that relays accepted, over all senders.",
        PER_SECOND,
        [Query('sum(rate(vashsender_emails_total{job="$job", outcome="sent"}[$__rate_interval]))')],
        width=4,
        height=5,
    ),
    Panel(
        "stat",
        "Backlog",
        "Emails that could go out now if more senders ran. A rate limit counts for at most one minute.",
        COUNT,
        [Query('max(vashsender_backlog_emails{job="$job"})')],
        width=4,
        height=5,
    ),
    Panel(
        "stat",
        "Backlog gone in",
        "Time until the backlog is gone at the rate of the last five minutes. Empty while nothing is sent.",
        "s",
        [Query('job:vashsender_backlog:seconds{job="$job"}')],
        width=4,
        height=5,
    ),
    Panel(
        "stat",
        "Oldest unsent email",
        "Time since the start of the oldest campaign with open emails, paused campaigns excluded.",
        "s",
        [Query('max(vashsender_oldest_unsent_seconds{job="$job"})')],
        width=4,
        height=5,
        steps=((GOOD, None), (WARN, 6 * 3600.0)),
    ),
    Panel(
        "stat",
        "Failed, last 15 minutes",
        "Share of closed emails that were refused, ran out of retries, or are unknown.",
        "percentunit",
        [Query('job:vashsender_emails_failed:ratio15m{job="$job"}')],
        width=4,
        height=5,
        steps=((GOOD, None), (WARN, 0.05), (BAD, 0.1)),
    ),
    Panel(
        "stat",
        "Senders alive",
        "Senders whose heartbeats the watchdog receives.",
        COUNT,
        [Query('max(vashsender_senders{job="$job"})')],
        width=4,
        height=5,
        steps=((BAD, None), (GOOD, 1.0)),
    ),
    Panel(
        "timeseries",
        "By outcome and reply",
        "Results recorded per second, by outcome and class of the relay's reply, such as 5xx.",
        PER_SECOND,
        [
            Query(
                "sum by (outcome, reply_class) "
                '(rate(vashsender_emails_total{job="$job", reply_class!="0"}[$__rate_interval]))',
                "{{outcome}} {{reply_class}}xx",
            ),
            Query(
                'sum by (outcome) (rate(vashsender_emails_total{job="$job", reply_class="0"}[$__rate_interval]))',
                "{{outcome}}, no reply",
            ),
        ],
        stacked=True,
        colors=STATUSES,
    ),
    Panel(
        "timeseries",
        "Open emails",
        "Pending and deferred recipients of campaigns under way, and the part of them that is backlog.",
        COUNT,
        [
            Query('max by (status) (vashsender_open_emails{job="$job"})', "{{status}}"),
            Query('max(vashsender_backlog_emails{job="$job"})', "backlog"),
        ],
        colors=STATUSES | {"backlog": "orange"},
    ),
    Panel(
        "bargauge",
        "Recorded since the senders started",
        "Counters of the running processes. They equal the ledger's totals if none was ever restarted.",
        COUNT,
        [Query('sum by (outcome) (vashsender_emails_total{job="$job"})', "{{outcome}}", instant=True)],
        colors=STATUSES,
    ),
)

IN_THE_WAY = (
    Panel(
        "timeseries",
        "Alerts",
        "VashSender's pending and firing alerts. Empty is good.",
        COUNT,
        [Query('count by (alertname, alertstate) (ALERTS{alertname=~"VashSender.*"})', "{{alertname}} {{alertstate}}")],
        colors={".* firing": BAD, ".* pending": WARN},
        empty="No alert",
    ),
    Panel(
        "timeseries",
        "Resting relays",
        "Senders for which a relay rests after failures.",
        COUNT,
        [Query('sum by (relay) (vashsender_relay_resting{job="$job"})', "{{relay}}")],
        colors={".*": WARN},
    ),
    Panel(
        "timeseries",
        "Breakers tripped",
        "Campaigns that a breaker paused in the last hour: a relay refuses nearly everyone, or a list looks old.",
        COUNT,
        [Query('sum by (kind) (increase(vashsender_breaker_trips_total{job="$job"}[1h]))', "{{kind}}")],
        colors={"relay": WARN, "list": "purple"},
        empty="No breaker has tripped",
    ),
    Panel(
        "timeseries",
        "Campaigns",
        "Campaigns that are not closed, by status, and those that were blocked at the last sweep.",
        COUNT,
        [
            Query('max by (status) (vashsender_campaigns{job="$job", status!="draft"})', "{{status}}"),
            Query('max(vashsender_campaigns_blocked{job="$job"})', "blocked"),
        ],
        colors=CAMPAIGN_STATUSES,
    ),
    Panel(
        "timeseries",
        "Batches out",
        "Batches released or sending, and how many may be. If the window is full, senders are the limit.",
        COUNT,
        [
            Query('max(vashsender_batches_out{job="$job"})', "out"),
            Query('max(vashsender_release_window_batches{job="$job"})', "window"),
        ],
        colors={"out": GOOD, "window": WARN},
    ),
    Panel(
        "timeseries",
        "Rescues and repairs",
        "Batches rescued and repairs in the ledger, by reason.",
        COUNT,
        [
            Query(
                'sum by (reason) (increase(vashsender_rescues_total{job="$job"}[$__rate_interval])) > 0', "{{reason}}"
            ),
            Query(
                'sum by (reason) (increase(vashsender_repairs_total{job="$job"}[$__rate_interval])) > 0', "{{reason}}"
            ),
        ],
        colors={
            ".*": WARN,
            "restarted": GOOD,
            "lease_expired": "yellow",
            "ticket_lost": "purple",
            "stalled|overdue": BAD,
        },
        empty="No rescue, no repair",
    ),
    Panel(
        "timeseries",
        "Lost leases, known duplicates",
        "Held batches that another owner took, and accepted emails that the ledger already had as sent.",
        COUNT,
        [
            Query('sum(increase(vashsender_lease_lost_total{job="$job"}[$__rate_interval]))', "leases lost"),
            Query('sum(increase(vashsender_known_duplicates_total{job="$job"}[$__rate_interval]))', "duplicates"),
        ],
        colors={"leases lost": WARN, "duplicates": BAD},
    ),
    Panel(
        "timeseries",
        "Wake-ups by cause",
        "Ticks and rounds that found work, per second. Mostly events; if `clock` rises, events are being lost.",
        PER_SECOND,
        [Query('sum by (cause) (rate(vashsender_wakeups_total{job="$job"}[$__rate_interval]))', "{{cause}}")],
        colors={"event": GOOD, "clock": WARN, "sweep": "#8e8e8e"},
    ),
    Panel(
        "timeseries",
        "Events",
        "Events published per second. A lost event costs time, not mail.",
        PER_SECOND,
        [
            Query(
                'sum by (event, outcome) (rate(vashsender_events_published_total{job="$job"}[$__rate_interval]))',
                "{{event}} {{outcome}}",
            )
        ],
        colors={
            "batch.finished .*": GOOD,
            "batch.released .*": "purple",
            "batch.requeued .*": WARN,
            "campaign.*": "light-blue",
            "sender.heartbeat .*": "#8e8e8e",
            ".* lost": BAD,
        },
    ),
    Panel(
        "timeseries",
        "Processes",
        "Those that Prometheus can scrape, and those that do not answer.",
        COUNT,
        [
            Query('sum(up{job="$job"})', "answer"),
            Query('count(up{job="$job"} == 0) or vector(0)', "silent"),
        ],
        colors={"answer": GOOD, "silent": BAD},
    ),
    Panel(
        "timeseries",
        "API: answers by status",
        "HTTP requests per second.",
        "reqps",
        [Query('sum by (status) (rate(vashsender_http_requests_total{job="$job"}[$__rate_interval]))', "{{status}}")],
        colors={"2..": GOOD, "3..": "light-blue", "4..": WARN, "5..": BAD},
    ),
    Panel(
        "timeseries",
        "API: 95 % of answers within",
        "Without imports and event streams, which may take long.",
        "s",
        [
            Query(
                "histogram_quantile(0.95, sum by (le) (rate(vashsender_http_request_seconds_bucket"
                '{job="$job", route!~".*/(recipients|events)"}[$__rate_interval])))',
                "p95",
            )
        ],
    ),
)

OVERVIEW = Dashboard(
    "vashsender-overview",
    "VashSender / Overview",
    "Is mail moving, and what is in the way.",
    [JOB],
    [Row("Is mail moving", MOVING), Row("What is in the way", IN_THE_WAY)],
    links("vashsender-overview"),
)
