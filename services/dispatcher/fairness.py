"""Which campaign gets the next release: the window over all campaigns, and a fair order between them."""

from collections.abc import Sequence
from itertools import count
from uuid import UUID

from services.dispatcher.survey import OpenCampaign, Survey
from shared.settings import DispatcherSettings


def window(settings: DispatcherSettings, capacity: int) -> int:
    """Batches that may be out at once: enough to keep the senders busy, few enough that a pause takes effect soon."""
    return max(settings.window_floor, settings.window_per_slot * capacity)


def candidates(survey: Survey) -> list[OpenCampaign]:
    """The campaigns that have something to release now."""
    return [
        campaign
        for campaign in survey.campaigns
        if campaign.may_send and (campaign.due or campaign.uncut) and survey.has_room(campaign)
    ]


class Fairness:
    """Remembers when each campaign was served, so that equals alternate.

    A restart forgets it, which delays a campaign by one release at most."""

    def __init__(self) -> None:
        #: The number of the last release of each campaign, counted over all of them.
        self._served: dict[UUID, int] = {}
        #: Whether that was a new batch, not a retry.
        self._fresh: dict[UUID, bool] = {}
        self._number = count(1)

    def next(self, waiting: Sequence[OpenCampaign], survey: Survey) -> OpenCampaign:
        """The campaign to serve: first one with nothing out, so that none starves; then by the highest priority, the
        fewest batches out, the longest wait.

        Campaigns with a rate limit get at most half of the places while others wait."""
        limited_out = sum(
            campaign.out - campaign.beside for campaign in survey.campaigns if campaign.emails_per_second is not None
        )
        unlimited = [campaign for campaign in waiting if campaign.emails_per_second is None]
        eligible = unlimited if unlimited and limited_out >= max(survey.capacity // 2, 1) else waiting

        def rank(campaign: OpenCampaign) -> tuple[bool, int, int, int]:
            return campaign.out > 0, -campaign.priority, campaign.out, self._served.get(campaign.id, 0)

        return min(eligible, key=rank)

    def wants_fresh(self, campaign: OpenCampaign) -> bool:
        """Whether a new batch comes next: new batches and retries of a campaign alternate."""
        return not self._fresh.get(campaign.id, True)

    def served(self, campaign: OpenCampaign, *, fresh: bool) -> None:
        campaign.out += 1
        self._served[campaign.id] = next(self._number)
        self._fresh[campaign.id] = fresh

    def forget(self, known: Sequence[OpenCampaign]) -> None:
        """Forgets the campaigns that are no longer open."""
        kept = {campaign.id for campaign in known}
        for memory in (self._served, self._fresh):
            for campaign_id in memory.keys() - kept:
                del memory[campaign_id]
