"""The dashboard Broker: RabbitMQ's own metrics. Without the broker mail still goes out, but slower."""

from scripts.dashboards.common import JOB, QUEUE_COLORS, links
from scripts.dashboards.panels import BAD, COUNT, GOOD, PER_SECOND, WARN, Dashboard, Panel, Query, Row, Variable

RABBITMQ = Variable("rabbitmq", "RabbitMQ job", "label_values(rabbitmq_alarms_memory_used_watermark, job)")
VHOST = Variable("vhost", "Virtual host", "label_values(rabbitmq_detailed_queue_messages_ready, vhost)")
QUEUE = Variable(
    "queue", "Queue", 'label_values(rabbitmq_detailed_queue_messages_ready{vhost="$vhost"}, queue)', multi=True
)
OURS = 'vhost="$vhost", queue=~"$queue"'

QUEUES = (
    Panel(
        "timeseries",
        "Ready",
        "Messages waiting for a consumer. `email` holds tickets for batches, not emails: a few per sender.",
        COUNT,
        [Query(f"max by (queue) (rabbitmq_detailed_queue_messages_ready{{{OURS}}})", "{{queue}}")],
        colors=QUEUE_COLORS,
    ),
    Panel(
        "timeseries",
        "Unacknowledged",
        "Messages that consumers work on; in `email`, one per batch that a sender holds.",
        COUNT,
        [Query(f"max by (queue) (rabbitmq_detailed_queue_messages_unacked{{{OURS}}})", "{{queue}}")],
        colors=QUEUE_COLORS,
    ),
    Panel(
        "timeseries",
        "Consumers",
        "Senders consume `email`, dispatchers `campaigns` and `default`, watchdogs `heartbeats`; `dead` has none.",
        COUNT,
        [Query(f"max by (queue) (rabbitmq_detailed_queue_consumers{{{OURS}}})", "{{queue}}")],
        colors=QUEUE_COLORS,
    ),
    Panel(
        "timeseries",
        "As the watchdog sees the queues",
        "By passive declaration, so also without RabbitMQ's own metrics.",
        COUNT,
        [Query('max by (queue) (vashsender_queue_messages{job="$job"})', "{{queue}}")],
        colors=QUEUE_COLORS,
    ),
    Panel(
        "timeseries",
        "Messages per second",
        "Through the whole broker.",
        PER_SECOND,
        [
            Query('sum(rate(rabbitmq_global_messages_received_total{job="$rabbitmq"}[$__rate_interval]))', "received"),
            Query(
                'sum(rate(rabbitmq_global_messages_delivered_total{job="$rabbitmq"}[$__rate_interval]))', "delivered"
            ),
            Query(
                'sum(rate(rabbitmq_global_messages_acknowledged_total{job="$rabbitmq"}[$__rate_interval]))',
                "acknowledged",
            ),
        ],
        colors={"received": GOOD, "delivered": "purple", "acknowledged": "orange"},
    ),
    Panel(
        "timeseries",
        "Redelivered, unroutable, dead",
        "Redelivered after a lost connection or an error, returned as unroutable, or dead after the delivery limit.",
        COUNT,
        [
            Query(
                'sum(increase(rabbitmq_global_messages_redelivered_total{job="$rabbitmq"}[$__rate_interval]))',
                "redelivered",
            ),
            Query(
                'sum(increase(rabbitmq_global_messages_unroutable_returned_total{job="$rabbitmq"}[$__rate_interval]))',
                "unroutable",
            ),
            Query(
                "sum(increase(rabbitmq_global_messages_dead_lettered_delivery_limit_total"
                '{job="$rabbitmq"}[$__rate_interval]))',
                "dead",
            ),
        ],
        colors={"redelivered": GOOD, "unroutable": WARN, "dead": BAD},
    ),
)

NODE = (
    Panel(
        "stat",
        "Alarms",
        "Memory, disk or file descriptors. Under an alarm the broker accepts no events.",
        COUNT,
        [Query('sum({__name__=~"rabbitmq_alarms_.+", job="$rabbitmq"})')],
        width=6,
        height=6,
        steps=((GOOD, None), (BAD, 1.0)),
    ),
    Panel(
        "timeseries",
        "Memory",
        "Resident memory, and the limit at which the alarm starts.",
        "bytes",
        [
            Query('rabbitmq_process_resident_memory_bytes{job="$rabbitmq"}', "{{instance}}"),
            Query('rabbitmq_resident_memory_limit_bytes{job="$rabbitmq"}', "{{instance}} limit"),
        ],
        width=9,
        height=6,
        colors={".* limit": WARN},
    ),
    Panel(
        "timeseries",
        "Disk",
        "Free space, and the limit at which the alarm starts.",
        "bytes",
        [
            Query('rabbitmq_disk_space_available_bytes{job="$rabbitmq"}', "{{instance}}"),
            Query('rabbitmq_disk_space_available_limit_bytes{job="$rabbitmq"}', "{{instance}} limit"),
        ],
        width=9,
        height=6,
        colors={".* limit": WARN},
    ),
    Panel(
        "timeseries",
        "Connections and channels",
        "Each process has two connections: one to consume, one to publish.",
        COUNT,
        [
            Query('rabbitmq_connections{job="$rabbitmq"}', "{{instance}} connections"),
            Query('rabbitmq_channels{job="$rabbitmq"}', "{{instance}} channels"),
        ],
        width=12,
        colors={".* connections": GOOD, ".* channels": "purple"},
    ),
    Panel(
        "timeseries",
        "File descriptors",
        "Share of the node's limit that is open.",
        "percentunit",
        [
            Query(
                'rabbitmq_process_open_fds{job="$rabbitmq"} / rabbitmq_process_max_fds{job="$rabbitmq"}', "{{instance}}"
            )
        ],
        width=12,
        most=1,
    ),
)

BROKER = Dashboard(
    "vashsender-broker",
    "VashSender / Broker",
    "RabbitMQ's own metrics. Without the broker mail still goes out, but slower.",
    [JOB, RABBITMQ, VHOST, QUEUE],
    [Row("Queues", QUEUES), Row("Node", NODE)],
    links("vashsender-broker"),
)
