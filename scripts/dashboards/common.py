"""Shared by the dashboards: variables, and links between them."""

from scripts.dashboards.panels import Variable

JOB = Variable("job", "Job", "label_values(vashsender_build_info, job)")
INSTANCE = Variable("instance", "Instance", 'label_values(vashsender_build_info{job="$job"}, instance)', multi=True)
PAGES = {
    "vashsender-overview": "Overview",
    "vashsender-senders": "Senders",
    "vashsender-campaigns": "Campaigns",
    "vashsender-broker": "Broker",
    "vashsender-events": "Events",
}


def links(uid: str) -> tuple[tuple[str, str], ...]:
    """Links to the other dashboards, which keep variables and time range."""
    return tuple((title, f"/d/{other}") for other, title in PAGES.items() if other != uid)


# The colours of Okabe and Ito that colour-blind people can tell apart, without yellow and black, which vanish on white
# or on dark. Which one is for a name is decided by the last character of its first word: `sender-1`, `sender-2`, the
# random end of a pod's name, the first word of a campaign's name.
OKABE_ITO = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00")
CHARACTERS = "1234567890abcdefghijklmnopqrstuvwxyz"
NAMES = {
    f"\\S*[{''.join(CHARACTERS[number :: len(OKABE_ITO)])}](?: .*)?": color for number, color in enumerate(OKABE_ITO)
}
"""Of replicas and campaigns."""

# Blue is good, red is lost, yellow waits; purple and grey are for what people chose.
STATUSES = {
    "sent.*": "blue",
    ".*deferred.*": "yellow",
    ".*pending.*": "light-blue",
    ".*failed.*": "red",
    ".*unknown.*": "dark-orange",
    ".*expired.*": "orange",
    ".*suppressed.*": "purple",
    ".*cancelled.*": "#8e8e8e",
}
"""Of recipients, by status or outcome."""
CAMPAIGN_STATUSES = {
    "queued": "light-blue",
    "sending": "blue",
    "scheduled": "purple",
    "draft": "#8e8e8e",
    "paused": "yellow",
    "stopping": "orange",
    "blocked": "red",
    "finished": "blue",
    "failed": "red",
    "cancelled": "#8e8e8e",
    "expired": "orange",
}
QUEUE_COLORS = {
    "campaigns": "purple",
    "email": "blue",
    "default": "yellow",
    "heartbeats": "light-blue",
    "dead": "red",
}
