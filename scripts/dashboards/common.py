"""Shared by the dashboards: variables, and links between them."""

from scripts.dashboards.panels import Variable

JOB = Variable("job", "Job", "label_values(vashsender_build_info, job)")
INSTANCE = Variable("instance", "Instance", 'label_values(vashsender_build_info{job="$job"}, instance)', multi=True)
PAGES = {
    "vashsender-overview": "Overview",
    "vashsender-senders": "Senders",
    "vashsender-campaigns": "Campaigns",
    "vashsender-broker": "Broker",
}


def links(uid: str) -> tuple[tuple[str, str], ...]:
    """Links to the other dashboards, which keep variables and time range."""
    return tuple((title, f"/d/{other}") for other, title in PAGES.items() if other != uid)
