"""Whose turn it is: the release window over all campaigns, and fair turns between them."""

from collections.abc import Sequence
from itertools import count
from uuid import UUID

from services.dispatcher.survey import AHEAD_SECONDS, Limit, Standing, Survey, scopes
from shared.settings import DispatcherSettings


def window(settings: DispatcherSettings, slots: int) -> int:
    """Batches that may be out at once: enough to keep the senders busy, few enough that a pause bites."""
    return max(settings.window_floor, settings.window_per_slot * slots)


def candidates(survey: Survey) -> list[Standing]:
    """The campaigns of which something may be released now."""
    return [
        campaign
        for campaign in survey.campaigns
        if campaign.may_send
        and (campaign.due or campaign.uncut)
        and all(_is_free(survey.limits[scope]) for scope in scopes(campaign) if scope in survey.limits)
    ]


def _is_free(limit: Limit) -> bool:
    return max(limit.free_in, limit.pushed_back) <= AHEAD_SECONDS


class Fairness:
    """Remembers who was served last, so that equals take turns. What is forgotten by a restart costs nobody more than
    one turn."""

    def __init__(self) -> None:
        self._served: dict[UUID, int] = {}
        self._fresh: dict[UUID, bool] = {}
        self._number = count(1)

    def next(self, waiting: Sequence[Standing], survey: Survey) -> Standing:
        """Who has nothing out comes first, so that none starves; then the higher priority, then who has the least out,
        then who waited longest. Of the tickets that nobody has taken yet, those of limited campaigns, of which a sender
        works on many at once, leave half to the others."""
        limited_out = sum(
            campaign.out - campaign.beside for campaign in survey.campaigns if campaign.emails_per_second is not None
        )
        unlimited = [campaign for campaign in waiting if campaign.emails_per_second is None]
        eligible = unlimited if unlimited and limited_out >= max(survey.slots // 2, 1) else waiting

        def rank(campaign: Standing) -> tuple[bool, int, int, int]:
            return campaign.out > 0, -campaign.priority, campaign.out, self._served.get(campaign.id, 0)

        return min(eligible, key=rank)

    def wants_fresh(self, campaign: Standing) -> bool:
        """Retries and fresh mail of one campaign alternate: neither starves the other."""
        return not self._fresh.get(campaign.id, True)

    def served(self, campaign: Standing, *, fresh: bool) -> None:
        campaign.out += 1
        self._served[campaign.id] = next(self._number)
        self._fresh[campaign.id] = fresh

    def forget(self, known: Sequence[Standing]) -> None:
        """Keeps only the campaigns that are not closed."""
        kept = {campaign.id for campaign in known}
        for memory in (self._served, self._fresh):
            for campaign_id in memory.keys() - kept:
                del memory[campaign_id]
