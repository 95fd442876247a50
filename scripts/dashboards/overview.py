"""Overview: is mail moving, and what is in the way."""

from scripts.dashboards.common import JOB, links
from scripts.dashboards.panels import Dashboard, Panel, Query, Row

MOVING = (
    Panel(
        "stat",
        "Sent per second",
        "Emails that relays have accepted, over all senders.",
        "cps",
        [Query('sum(rate(vashsender_emails_total{job="$job", outcome="sent"}[$__rate_interval]))')],
        width=4,
        height=5,
    ),
    Panel(
        "stat",
        "Backlog",
        "Emails that could go out now if more senders ran. Of a campaign with a rate, at most a minute's worth.",
        "short",
        [Query('max(vashsender_backlog_emails{job="$job"})')],
        width=4,
        height=5,
    ),
    Panel(
        "stat",
        "Backlog gone in",
        "At the rate of the last five minutes. Empty while nothing is sent.",
        "s",
        [Query('job:vashsender_backlog:seconds{job="$job"}')],
        width=4,
        height=5,
    ),
    Panel(
        "stat",
        "Oldest unsent email",
        "Since its campaign began; campaigns that are paused do not count.",
        "s",
        [Query('max(vashsender_oldest_unsent_seconds{job="$job"})')],
        width=4,
        height=5,
        steps=(("green", None), ("orange", 6 * 3600.0)),
    ),
    Panel(
        "stat",
        "Failed, last 15 minutes",
        "Of the emails that came to an end: refused, out of retries, or unknown.",
        "percentunit",
        [Query('job:vashsender_emails_failed:ratio15m{job="$job"}')],
        width=4,
        height=5,
        steps=(("green", None), ("orange", 0.05), ("red", 0.1)),
    ),
    Panel(
        "stat",
        "Senders alive",
        "Those whose heartbeats the watchdog hears.",
        "short",
        [Query('max(vashsender_senders{job="$job"})')],
        width=4,
        height=5,
        steps=(("red", None), ("green", 1.0)),
    ),
    Panel(
        "timeseries",
        "By outcome and reply",
        "Recipients recorded per second, by outcome and the first digit of the relay's reply (0: none).",
        "cps",
        [
            Query(
                'sum by (outcome, reply_class) (rate(vashsender_emails_total{job="$job"}[$__rate_interval]))',
                "{{outcome}} {{reply_class}}",
            )
        ],
        stacked=True,
    ),
    Panel(
        "timeseries",
        "Open emails",
        "Recipients of campaigns under way that are pending or deferred, and the part of them that is backlog.",
        "short",
        [
            Query('max by (status) (vashsender_open_emails{job="$job"})', "{{status}}"),
            Query('max(vashsender_backlog_emails{job="$job"})', "backlog"),
        ],
    ),
    Panel(
        "bargauge",
        "Recorded since the senders began",
        "Counters of the processes that run now; where none was ever restarted, the ledger's totals.",
        "short",
        [Query('sum by (outcome) (vashsender_emails_total{job="$job"})', "{{outcome}}", instant=True)],
    ),
)

IN_THE_WAY = (
    Panel(
        "timeseries",
        "Alerts",
        "VashSender's alerts that are pending or fire. Empty is good.",
        "short",
        [Query('count by (alertname, alertstate) (ALERTS{alertname=~"VashSender.*"})', "{{alertname}} {{alertstate}}")],
    ),
    Panel(
        "timeseries",
        "Resting relays",
        "How many senders rest a relay after failures.",
        "short",
        [Query('sum by (relay) (vashsender_relay_resting{job="$job"})', "{{relay}}")],
    ),
    Panel(
        "timeseries",
        "Campaigns",
        "Campaigns that are not closed, by status; and those that could not go on at the last sweep.",
        "short",
        [
            Query('max by (status) (vashsender_campaigns{job="$job", status!="draft"})', "{{status}}"),
            Query('max(vashsender_campaigns_blocked{job="$job"})', "blocked"),
        ],
    ),
    Panel(
        "timeseries",
        "Batches out",
        "Released or being sent, beside how many may be: a window that is full means that senders are the limit.",
        "short",
        [
            Query('max(vashsender_batches_out{job="$job"})', "out"),
            Query('max(vashsender_release_window_batches{job="$job"})', "window"),
        ],
    ),
    Panel(
        "timeseries",
        "Taken back and mended",
        "Batches rescued and things repaired in the ledger, by reason.",
        "short",
        [
            Query('sum by (reason) (increase(vashsender_rescues_total{job="$job"}[$__rate_interval]))', "{{reason}}"),
            Query('sum by (reason) (increase(vashsender_repairs_total{job="$job"}[$__rate_interval]))', "{{reason}}"),
        ],
    ),
    Panel(
        "timeseries",
        "Leases lost, duplicates known",
        "Batches lost while held, and emails accepted that the ledger already had as sent.",
        "short",
        [
            Query('sum(increase(vashsender_lease_lost_total{job="$job"}[$__rate_interval]))', "leases lost"),
            Query('sum(increase(vashsender_known_duplicates_total{job="$job"}[$__rate_interval]))', "duplicates"),
        ],
    ),
    Panel(
        "timeseries",
        "Wake-ups by cause",
        "Turns that found work, per second. Events should carry it; a rising clock means that events are lost.",
        "cps",
        [Query('sum by (cause) (rate(vashsender_wakeups_total{job="$job"}[$__rate_interval]))', "{{cause}}")],
    ),
    Panel(
        "timeseries",
        "Events",
        "Events handed to the broker per second. Those that are lost cost time, not mail.",
        "cps",
        [
            Query(
                'sum by (event, outcome) (rate(vashsender_events_published_total{job="$job"}[$__rate_interval]))',
                "{{event}} {{outcome}}",
            )
        ],
    ),
    Panel(
        "timeseries",
        "Processes that answer",
        "1 while Prometheus can read a process's metrics.",
        "short",
        [Query('up{job="$job"}', "{{instance}}")],
        most=1,
    ),
    Panel(
        "timeseries",
        "API: answers by status",
        "HTTP requests per second.",
        "reqps",
        [Query('sum by (status) (rate(vashsender_http_requests_total{job="$job"}[$__rate_interval]))', "{{status}}")],
        width=12,
    ),
    Panel(
        "timeseries",
        "API: 95 % of answers within",
        "Without imports and event streams, which last as they last.",
        "s",
        [
            Query(
                "histogram_quantile(0.95, sum by (le) (rate(vashsender_http_request_seconds_bucket"
                '{job="$job", route!~".*/(recipients|events)"}[$__rate_interval])))',
                "p95",
            )
        ],
        width=12,
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
