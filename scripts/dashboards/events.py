"""The dashboard Events: what programs are told, by webhook and over the broker."""

from scripts.dashboards.common import JOB, links
from scripts.dashboards.panels import BAD, COUNT, GOOD, PER_SECOND, WARN, Dashboard, Panel, Query, Row

WEBHOOKS = (
    Panel(
        "timeseries",
        "Webhooks by state",
        "Failing ones are active, and their newest POST failed. Disabled ones failed for three days.",
        COUNT,
        [Query('max by (state) (vashsender_webhook_endpoints{job="$job"})', "{{state}}")],
        colors={"active": GOOD, "failing": WARN, "paused": "#8e8e8e", "disabled": BAD},
    ),
    Panel(
        "timeseries",
        "Behind",
        "Events that the active webhook which is farthest behind has not got yet.",
        COUNT,
        [Query('max(vashsender_webhook_behind_events{job="$job"})', "events")],
    ),
    Panel(
        "timeseries",
        "Failing for",
        "Of the active webhook that has failed longest. It is disabled after three days.",
        "s",
        [Query('max(vashsender_webhook_failing_seconds{job="$job"})', "seconds")],
        colors={"seconds": WARN},
    ),
    Panel(
        "timeseries",
        "Events by webhook",
        "Delivered; set aside because a webhook refused that one; or deleted before it took them.",
        PER_SECOND,
        [
            Query(
                'sum by (outcome) (rate(vashsender_webhook_events_total{job="$job"}[$__rate_interval]))', "{{outcome}}"
            )
        ],
        colors={"delivered": GOOD, "set_aside": WARN, "forgotten": BAD},
    ),
    Panel(
        "timeseries",
        "POSTs",
        "Accepted, refused (4xx), or failed in another way. A POST has up to 500 events.",
        PER_SECOND,
        [Query('sum by (outcome) (rate(vashsender_webhook_posts_total{job="$job"}[$__rate_interval]))', "{{outcome}}")],
        colors={"accepted": GOOD, "refused": WARN, "failed": BAD},
    ),
    Panel(
        "timeseries",
        "95 % of POSTs within",
        "Until the webhook has answered, or has not.",
        "s",
        [
            Query(
                "histogram_quantile(0.95, sum by (le) "
                '(rate(vashsender_webhook_post_seconds_bucket{job="$job"}[$__rate_interval])))',
                "seconds",
            )
        ],
    ),
)

EXCHANGE = (
    Panel(
        "timeseries",
        "Events on the exchange",
        "Published; refused by the queue of a program that is full; or deleted before the broker took them.",
        PER_SECOND,
        [
            Query(
                'sum by (outcome) (rate(vashsender_exchange_events_total{job="$job"}[$__rate_interval]))', "{{outcome}}"
            )
        ],
        colors={"published": GOOD, "refused": WARN, "forgotten": BAD},
    ),
    Panel(
        "timeseries",
        "Not published yet",
        "Of the project with most of them.",
        COUNT,
        [Query('max(vashsender_exchange_behind_events{job="$job"})', "events")],
    ),
    Panel(
        "timeseries",
        "Publishing fails for",
        "The broker is away, or refuses the account. Events wait in the ledger, as during an alarm of the broker.",
        "s",
        [Query('max(vashsender_exchange_failing_seconds{job="$job"})', "seconds")],
        colors={"seconds": WARN},
    ),
)

OUTBOX = (
    Panel(
        "timeseries",
        "Written",
        "Events that got their position.",
        PER_SECOND,
        [Query('sum(rate(vashsender_outbox_events_total{job="$job"}[$__rate_interval]))', "events")],
        width=12,
    ),
    Panel(
        "timeseries",
        "Deleted after their retention",
        "Rows of the outbox, each with up to 500 events.",
        PER_SECOND,
        [Query('sum(rate(vashsender_outbox_rows_deleted_total{job="$job"}[$__rate_interval]))', "rows")],
        width=12,
    ),
)

EVENTS = Dashboard(
    "vashsender-events",
    "VashSender / Events",
    "What programs are told, by webhook and over the broker.",
    [JOB],
    [Row("Webhooks", WEBHOOKS), Row("Exchange", EXCHANGE), Row("Outbox", OUTBOX)],
    links("vashsender-events"),
)
