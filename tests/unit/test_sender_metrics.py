"""The sender's histogram of emails."""

import pytest
from prometheus_client import CollectorRegistry, Histogram

from services.sender.metrics import SECONDS, EmailSeconds

SAMPLES = ("_bucket", "_count", "_sum")


def shown(registry: CollectorRegistry) -> dict[tuple[str, str], float]:
    samples = (sample for metric in registry.collect() for sample in metric.samples)
    return {(one.name, one.labels.get("le", "")): one.value for one in samples if one.name.endswith(SAMPLES)}


@pytest.mark.parametrize(
    "values",
    [[], [0.0], [0.3, 0.001, 0.002, 0.3], [*SECONDS], [300.5, 1000.0, 0.004]],
    ids=["none", "zero", "some", "the bounds", "beyond the last bound"],
)
def test_many_values_at_once_count_as_one_by_one(values: list[float]) -> None:
    together, single = CollectorRegistry(), CollectorRegistry()
    at_once = EmailSeconds("x", "Seconds.", ["phase"], buckets=SECONDS, registry=together).labels("send")
    one_by_one = Histogram("x", "Seconds.", ["phase"], buckets=SECONDS, registry=single).labels("send")
    for part in (values[:2], values[2:]):
        at_once.observe_all(part)
        for value in part:
            one_by_one.observe(value)
    assert shown(together) == pytest.approx(shown(single))
    assert len(shown(together)) == len(SECONDS) + 3
