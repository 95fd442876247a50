"""docs/metrics.md matches the code, and names follow the conventions of Prometheus."""

import re

from prometheus_client.metrics import MetricWrapperBase

from scripts.metrics_page import PAGE, SERVICES, instruments, page

OTHER_UNITS = {"milliseconds", "ms", "minutes", "hours", "kilobytes", "megabytes", "mb", "percent", "count"}
GROWING = {"campaign", "campaign_id", "name", "recipient", "email", "reply", "batch", "batch_id"}
BOUNDED = {"campaign", "name"}
"""Labels that grow with the data: only of a metric with at most fifty campaigns."""


def test_the_page_matches_the_code() -> None:
    assert PAGE.read_text() == page(), "run: python -m scripts.metrics_page"


def test_names_follow_the_rules() -> None:
    for name, instrument in everything().items():
        assert re.fullmatch(r"vashsender_[a-z]+(_[a-z]+)*", name), name
        assert instrument._type != "counter" or name.endswith("_total"), name
        assert not set(name.split("_")) & OTHER_UNITS, name
        assert instrument._documentation.endswith("."), name


def test_no_label_grows_with_the_data() -> None:
    for name, instrument in everything().items():
        grows = GROWING & set(instrument._labelnames)
        assert grows == (BOUNDED if name == "vashsender_campaign_emails" else set()), name


def everything() -> dict[str, MetricWrapperBase]:
    found = instruments()
    for service in SERVICES:
        found |= instruments(service)
    return found
