"""The dashboard Senders: each replica's share, what limits it, and how many there should be."""

from scripts.dashboards.common import INSTANCE, JOB, NAMES, links
from scripts.dashboards.panels import BAD, COUNT, GOOD, PER_SECOND, WARN, Dashboard, Panel, Query, Row, Variable

MINUTES = Variable("minutes", "Backlog gone in (minutes)", choices=("5", "15", "30", "60"))

OF_SENDERS = ' and on (instance) vashsender_batch_slots{job="$job"}'

SCALING = (
    Panel(
        "stat",
        "Suggested replicas",
        "Replicas that clear the backlog in the time chosen above, at the best rate of a sender in the last hour."
        " Only a guess if relays, not senders, are the limit: see the connections and the time of `send`.",
        COUNT,
        [
            Query(
                'clamp_min(ceil(max(vashsender_backlog_emails{job="$job"}) / (60 * $minutes * '
                'max(max_over_time(instance:vashsender_emails_sent:rate5m{job="$job"}[1h]) > 0))), 1)'
            )
        ],
        width=6,
        height=5,
    ),
    Panel(
        "stat",
        "Backlog per place",
        "Emails that could go out now, per batch that the live senders may hold.",
        COUNT,
        [Query('max(vashsender_backlog_emails{job="$job"}) / (max(vashsender_live_slots{job="$job"}) > 0)')],
        width=6,
        height=5,
    ),
    Panel(
        "stat",
        "Places in use",
        "Share of the senders' capacity in use. At 100 % more senders help.",
        "percentunit",
        [Query('sum(vashsender_batches_in_hand{job="$job"}) / sum(vashsender_batch_slots{job="$job"})')],
        width=6,
        height=5,
        most=1,
    ),
    Panel(
        "stat",
        "Senders",
        "Replicas that Prometheus scrapes.",
        COUNT,
        [Query('count(vashsender_batch_slots{job="$job"})')],
        width=6,
        height=5,
    ),
    Panel(
        "timeseries",
        "Sent per second, by replica",
        "Emails that relays accepted.",
        PER_SECOND,
        [
            Query(
                'sum by (instance) (rate(vashsender_emails_total{job="$job", instance=~"$instance", outcome="sent"}'
                "[$__rate_interval]))",
                "{{instance}}",
            )
        ],
        width=12,
        stacked=True,
        colors=NAMES,
    ),
    Panel(
        "timeseries",
        "Places in use, by replica",
        "Saturation: share of a replica's capacity in use.",
        "percentunit",
        [
            Query(
                'vashsender_batches_in_hand{job="$job", instance=~"$instance"} / '
                'vashsender_batch_slots{job="$job", instance=~"$instance"}',
                "{{instance}}",
            )
        ],
        width=12,
        most=1,
        colors=NAMES,
    ),
)

DELIVERY = (
    Panel(
        "timeseries",
        "Connections",
        "Open, and of these busy, by relay, and how many all replicas together may open to a relay.",
        COUNT,
        [
            Query(
                'sum by (relay, state) (vashsender_smtp_connections{job="$job", instance=~"$instance"})',
                "{{relay}} {{state}}",
            ),
            Query('sum(vashsender_smtp_connections_limit{job="$job", instance=~"$instance"})', "limit"),
        ],
        colors={".* open": "light-blue", ".* busy": GOOD, "limit": WARN},
    ),
    Panel(
        "timeseries",
        "Emails in flight",
        "Emails between their first command and their result.",
        COUNT,
        [Query('vashsender_emails_in_flight{job="$job", instance=~"$instance"}', "{{instance}}")],
        colors=NAMES,
    ),
    Panel(
        "timeseries",
        "95 % within, by phase",
        "Queue: claim to first command. Connect: each step of opening a connection. Send: first command to result.",
        "s",
        [
            Query(
                "histogram_quantile(0.95, sum by (le, phase) (rate(vashsender_delivery_seconds_bucket"
                '{job="$job", instance=~"$instance"}[$__rate_interval])))',
                "{{phase}}",
            )
        ],
        colors={"queue": "purple", "connect": WARN, "send": GOOD},
    ),
    Panel(
        "timeseries",
        "Deferred",
        "Deferred attempts per second.",
        PER_SECOND,
        [
            Query(
                'sum by (instance) (rate(vashsender_retries_total{job="$job", instance=~"$instance"}'
                "[$__rate_interval]))",
                "{{instance}}",
            )
        ],
        colors=NAMES,
    ),
    Panel(
        "timeseries",
        "Refusals, by whose fault",
        "Refusals by relays per second. Recipient: usual. Provider, relay or campaign: look at the replies.",
        PER_SECOND,
        [
            Query(
                'sum by (fault) (rate(vashsender_refusals_total{job="$job", instance=~"$instance"}[$__rate_interval]))',
                "{{fault}}",
            )
        ],
        colors={"recipient": GOOD, "provider": "purple", "connection": "light-blue", "relay": WARN, "campaign": BAD},
    ),
    Panel(
        "timeseries",
        "Resting relays, by replica",
        "1 while a relay rests. If it rests for one replica, suspect its network; if for all, the relay.",
        COUNT,
        [Query('vashsender_relay_resting{job="$job", instance=~"$instance"}', "{{instance}} {{relay}}")],
        most=1,
        colors={".*": WARN},
    ),
    Panel(
        "timeseries",
        "Batches: 95 % held for",
        "From claiming a batch to letting go of it.",
        "s",
        [
            Query(
                "histogram_quantile(0.95, sum by (le) (rate(vashsender_batch_seconds_bucket"
                '{job="$job", instance=~"$instance"}[$__rate_interval])))',
                "p95",
            )
        ],
    ),
)

LIMITS = (
    Panel(
        "timeseries",
        "Slots of limits",
        "Emails per second that began under a limit (used), and slots for which no email was ready in time (lost)."
        " Many lost ones mean that the limit is not reached: look at connections and replies.",
        PER_SECOND,
        [
            Query(
                'sum by (outcome) (rate(vashsender_limit_slots_total{job="$job", instance=~"$instance"}'
                "[$__rate_interval]))",
                "{{outcome}}",
            )
        ],
        colors={"used": GOOD, "lost": WARN},
    ),
    Panel(
        "timeseries",
        "Limits used up",
        "Limits per hour or day that are used up. Their campaigns wait, and `blocked_by` says so.",
        COUNT,
        [Query('vashsender_limits_used_up{job="$job", instance=~"$instance"}', "{{instance}}")],
        colors={".*": WARN},
    ),
)

LEDGER = (
    Panel(
        "timeseries",
        "Commits: 95 % within",
        "One group of results in one transaction. Slow commits mean a slow database.",
        "s",
        [
            Query(
                "histogram_quantile(0.95, sum by (le) (rate(vashsender_commit_seconds_bucket"
                '{job="$job", instance=~"$instance"}[$__rate_interval])))',
                "p95",
            )
        ],
    ),
    Panel(
        "timeseries",
        "Results in a commit",
        "On average. Many mean that the database is slower than the relays.",
        "none",
        [
            Query(
                'sum(rate(vashsender_commit_group_size_sum{job="$job", instance=~"$instance"}[$__rate_interval])) / '
                '(sum(rate(vashsender_commit_group_size_count{job="$job", instance=~"$instance"}[$__rate_interval]))'
                " > 0)",
                "results",
            )
        ],
    ),
    Panel(
        "timeseries",
        "Lease age and idle time",
        "Longest time since a lease's renewal, and since a held batch's last result. A lease expires after 15 s.",
        "s",
        [
            Query('vashsender_lease_age_seconds{job="$job", instance=~"$instance"}', "{{instance}} lease"),
            Query('vashsender_progress_age_seconds{job="$job", instance=~"$instance"}', "{{instance}} idle"),
        ],
        steps=((GOOD, None), (WARN, 5.0), (BAD, 15.0)),
        colors={".* lease": WARN},
    ),
    Panel(
        "timeseries",
        "CPU",
        "Share of a core. Above 100 % while threads sign with DKIM.",
        "percentunit",
        [
            Query(
                'rate(process_cpu_seconds_total{job="$job", instance=~"$instance"}[$__rate_interval])' + OF_SENDERS,
                "{{instance}}",
            )
        ],
        colors=NAMES,
    ),
    Panel(
        "timeseries",
        "Memory",
        "Resident.",
        "bytes",
        [
            Query('process_resident_memory_bytes{job="$job", instance=~"$instance"}' + OF_SENDERS, "{{instance}}"),
        ],
        colors=NAMES,
    ),
    Panel(
        "timeseries",
        "Heartbeats",
        "Longest time since the last heartbeat of a live sender.",
        "s",
        [Query('max(vashsender_heartbeat_age_seconds{job="$job"})', "oldest")],
    ),
)

SENDERS = Dashboard(
    "vashsender-senders",
    "VashSender / Senders",
    "Each replica's share, what limits it, and how many there should be.",
    [JOB, INSTANCE, MINUTES],
    [Row("Scaling", SCALING), Row("Delivery and limits", (*DELIVERY, *LIMITS)), Row("Ledger and machine", LEDGER)],
    links("vashsender-senders"),
)
