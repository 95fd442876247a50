"""docs/scaling.md and its picture are what scripts/sizing.py reckons, and what it reckons is in proportion."""

from xml.etree import ElementTree

from scripts import sizing
from scripts.sizing import Size
from shared.settings import DispatcherSettings, SenderSettings


def test_table_and_picture_are_as_reckoned() -> None:
    assert sizing.PAGE.read_text() == sizing.page(sizing.PAGE.read_text()), "run: python -m scripts.sizing"
    assert sizing.PICTURE.read_text() == sizing.picture(), "run: python -m scripts.sizing"
    assert ElementTree.fromstring(sizing.picture()).tag.endswith("svg")


def test_twice_the_emails_take_twice_of_everything() -> None:
    one, two = Size(200_000_000), Size(400_000_000)
    for what in ("per_second", "connections", "senders", "cores", "postgresql_cores", "gigabytes", "log_megabytes"):
        assert 1.9 < getattr(two, what) / getattr(one, what) < 2.1, what


def test_a_sender_is_enough_for_little_and_no_sender_is_asked_for_too_much() -> None:
    assert Size(1000).senders == Size(1_000_000).senders == 1
    for volume in sizing.VOLUMES:
        size = Size(volume)
        assert size.per_second / size.senders <= sizing.ONE_SENDER * sizing.SENDER_SHARE
        assert size.connections <= size.senders * sizing.CONNECTIONS
        assert size.connections / sizing.RELAY_SECONDS >= size.per_second


def test_it_reckons_with_the_settings_there_are() -> None:
    assert DispatcherSettings.model_fields["batch_size"].default == sizing.BATCH
    assert 1 / SenderSettings.model_fields["heartbeat_seconds"].default == sizing.HEARTBEATS_PER_SECOND
