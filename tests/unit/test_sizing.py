"""docs/scaling.md and its picture match scripts/sizing.py, whose results are proportional."""

from xml.etree import ElementTree

from scripts import sizing
from scripts.sizing import Size
from shared.settings import DispatcherSettings, SenderSettings


def test_table_and_picture_match_the_script() -> None:
    assert sizing.PAGE.read_text() == sizing.page(sizing.PAGE.read_text()), "run: python -m scripts.sizing"
    assert sizing.PICTURE.read_text() == sizing.picture(), "run: python -m scripts.sizing"
    assert ElementTree.fromstring(sizing.picture()).tag.endswith("svg")


def test_twice_the_emails_need_twice_of_everything() -> None:
    one, two = Size(200_000_000), Size(400_000_000)
    for what in ("per_second", "connections", "senders", "cores", "postgresql_cores", "gigabytes", "log_megabytes"):
        assert 1.9 < getattr(two, what) / getattr(one, what) < 2.1, what


def test_one_sender_suffices_for_few_emails_and_none_is_overloaded() -> None:
    assert Size(1000).senders == Size(1_000_000).senders == 1
    for volume in sizing.VOLUMES:
        size = Size(volume)
        assert size.per_second / size.senders <= sizing.ONE_SENDER * sizing.SENDER_SHARE
        assert size.connections <= size.senders * sizing.CONNECTIONS
        assert size.connections / sizing.RELAY_SECONDS >= size.per_second


def test_it_uses_the_current_settings() -> None:
    assert DispatcherSettings.model_fields["batch_size"].default == sizing.BATCH
    assert 1 / SenderSettings.model_fields["heartbeat_seconds"].default == sizing.HEARTBEATS_PER_SECOND
