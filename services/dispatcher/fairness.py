"""Which campaign gets the next release: the window over all campaigns, and a fair order of projects and campaigns."""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any, TypeVar
from uuid import UUID

from shared.settings import DispatcherSettings

E = TypeVar("E", bound=tuple[Any, ...])

LONGEST_WAIT_EVERY = 4
"""Every fourth release of a project goes to the campaign that has waited longest, whatever its priority."""

MOST_KEPT = 10_000
"""Campaigns, and projects, that are remembered although they have nothing to do."""


def window(settings: DispatcherSettings, capacity: int) -> int:
    """Batches that may be out at once: enough to keep the senders busy, few enough that a pause takes effect soon."""
    return max(settings.window_floor, settings.window_per_slot * capacity)


@dataclass(slots=True)
class _Campaign:
    id: UUID
    project_id: UUID
    priority: int
    limited: bool  # it has a rate limit
    out: int = 0  # its batches that take a place of a sender, or wait for one
    served: int = 0  # the number of its last release, counted over all campaigns; 0: none yet
    fresh: bool = True  # whether that was a new batch, not a retry
    ready: bool = False  # it has something to release
    lap: int = 0  # the lap in which it was noted last
    #: Its entry in the heaps: it is out of date if it says something else.
    entry: tuple[int, int] | None = None

    @property
    def rank(self) -> tuple[bool, int, int, int]:
        """The least comes first."""
        return self.out > 0, -self.priority, self.out, self.served


@dataclass(slots=True)
class _Line:
    """The campaigns of one project that have something to release, with a rate limit or without."""

    #: Those with nothing out: by priority, then the longest wait; and by the longest wait alone.
    by_priority: list[tuple[int, int, UUID]] = field(default_factory=list)
    by_wait: list[tuple[int, UUID]] = field(default_factory=list)
    #: Those with batches out: a few, because the window is small.
    busy: set[UUID] = field(default_factory=set)


@dataclass(slots=True)
class _Project:
    id: UUID
    out: int = 0  # places of all its campaigns
    served: int = 0  # the number of its last release
    releases: int = 0
    #: `served` as its entries in the two heaps of idle projects say; None: it has none.
    entries: list[int | None] = field(default_factory=lambda: [None, None])
    lines: tuple[_Line, _Line] = field(default_factory=lambda: (_Line(), _Line()))

    @property
    def rank(self) -> tuple[bool, int, int]:
        return self.out > 0, self.out, self.served


class Fairness:
    """Remembers what is ready to be released, and who was served when. Projects come first, then their campaigns.

    It costs the same however many campaigns are ready. A restart forgets the order, not what is ready: a project or
    campaign waits one release longer at most."""

    def __init__(self) -> None:
        self._campaigns: dict[UUID, _Campaign] = {}
        self._projects: dict[UUID, _Project] = {}
        #: Projects with nothing out and something to release, by the longest wait; without a rate limit, and with one.
        self._idle: tuple[list[tuple[int, UUID]], list[tuple[int, UUID]]] = ([], [])
        #: Projects with batches out.
        self._busy: set[UUID] = set()
        self._number = count(1)
        self._lap = 0

    def note(self, campaign_id: UUID, project_id: UUID, *, priority: int, limited: bool, out: int, ready: bool) -> None:
        """What a round has seen of a campaign. `out`: its batches that take a place, or wait for one."""
        campaign = self._campaigns.get(campaign_id)
        if campaign is None:
            if not ready and not out:
                return
            campaign = self._campaigns[campaign_id] = _Campaign(campaign_id, project_id, priority, limited)
        if (campaign.priority, campaign.limited) != (priority, limited):
            self._line(campaign).busy.discard(campaign_id)
            campaign.priority, campaign.limited, campaign.entry = priority, limited, None
        campaign.ready, campaign.lap = ready, self._lap
        self._set_out(campaign, out)
        self._queue(campaign)

    def forget(self, campaign_id: UUID) -> None:
        """The campaign is closed."""
        if (campaign := self._campaigns.get(campaign_id)) is not None:
            campaign.ready = False
            self._set_out(campaign, 0)
            self._line(campaign).busy.discard(campaign_id)
            del self._campaigns[campaign_id]

    def end_lap(self) -> None:
        """Forgets what was not noted for a lap and is neither ready nor out, if more than MOST_KEPT are remembered: to
        know who was served last is worth no more memory."""
        if len(self._campaigns) > MOST_KEPT:
            for campaign in list(self._campaigns.values()):
                if campaign.lap < self._lap and not campaign.ready and not campaign.out:
                    self.forget(campaign.id)
        if len(self._projects) > MOST_KEPT:
            wanted = {campaign.project_id for campaign in self._campaigns.values()}
            self._projects = {known: project for known, project in self._projects.items() if known in wanted}
        self._lap += 1

    def nothing_ready(self, campaign_id: UUID) -> None:
        """It could not be released: it waits until it is noted again."""
        if (campaign := self._campaigns.get(campaign_id)) is not None:
            campaign.ready = False
            self._queue(campaign)

    def next(self, *, limited_last: bool = False, no_limited: bool = False) -> UUID | None:
        """The campaign to serve; None if there is none. Those with a rate limit come after all others, or not at all.

        First a project with nothing out, then the one with the fewest batches out, then the one that has waited
        longest. Of its campaigns: first one with nothing out, then the highest priority, the fewest batches out, the
        longest wait. Every fourth release of a project goes to the one that has waited longest."""
        lines = (False,) if no_limited else (False, True)
        heads = [head for limited in lines if (head := self._head(limited)) is not None]
        if not heads:
            return None
        if limited_last:
            return heads[0].id
        best = min(heads, key=lambda head: (self._projects[head.project_id].rank, head.rank))
        # Of two projects that were never served, each line may have found another one.
        project = self._projects[best.project_id]
        own = [head for limited in lines if (head := self._first(project, limited)) is not None]
        return min(own, key=lambda head: head.rank).id

    def served(self, campaign_id: UUID, *, fresh: bool) -> None:
        """A batch of it was released, and is out now."""
        campaign = self._campaigns[campaign_id]
        campaign.served, campaign.fresh = next(self._number), fresh
        project = self._project(campaign.project_id)
        project.served, project.releases = campaign.served, project.releases + 1
        self._set_out(campaign, campaign.out + 1)
        self._queue(campaign)

    def has_none_out(self, campaign_id: UUID) -> bool:
        """The campaign has something to release, and nothing out."""
        campaign = self._campaigns.get(campaign_id)
        return campaign is not None and campaign.ready and not campaign.out

    def is_ready(self, campaign_id: UUID) -> bool:
        """The campaign has something to release."""
        campaign = self._campaigns.get(campaign_id)
        return campaign is not None and campaign.ready

    def wants_fresh(self, campaign_id: UUID) -> bool:
        """Whether a new batch comes next: new batches and retries of a campaign alternate."""
        return campaign_id in self._campaigns and not self._campaigns[campaign_id].fresh

    def upcoming(self, number: int) -> set[UUID]:
        """About as many campaigns as will be served in the next `number` releases, to be looked at in one statement."""
        idle = [entry for heap in self._idle for entry in _least(heap, number)]
        projects = ({project_id for _, project_id in idle} | self._busy) & self._projects.keys()
        found: set[UUID] = set()
        each = -(-number // max(len(projects), 1))
        for project_id in projects:
            for line in self._projects[project_id].lines:
                found.update(campaign_id for _, _, campaign_id in _least(line.by_priority, each))
                found.update(campaign_id for _, campaign_id in _least(line.by_wait, 1))
                found |= line.busy
        return found & self._campaigns.keys()

    def _project(self, project_id: UUID) -> _Project:
        return self._projects.setdefault(project_id, _Project(project_id))

    def _line(self, campaign: _Campaign) -> _Line:
        return self._project(campaign.project_id).lines[campaign.limited]

    def _set_out(self, campaign: _Campaign, out: int) -> None:
        project = self._project(campaign.project_id)
        project.out += out - campaign.out
        campaign.out = out
        if project.out > 0:
            self._busy.add(project.id)
        elif project.id in self._busy:
            self._busy.discard(project.id)
            for limited in (False, True):
                self._wait(project, limited)

    def _queue(self, campaign: _Campaign) -> None:
        """Puts a campaign where `_head` looks for it."""
        line = self._line(campaign)
        if not campaign.ready:
            campaign.entry = None
            line.busy.discard(campaign.id)
        elif campaign.out:
            line.busy.add(campaign.id)
        else:
            line.busy.discard(campaign.id)
            entry = (-campaign.priority, campaign.served)
            if campaign.entry != entry:
                campaign.entry = entry
                heapq.heappush(line.by_priority, (*entry, campaign.id))
                heapq.heappush(line.by_wait, (campaign.served, campaign.id))
                self._wait(self._project(campaign.project_id), campaign.limited)

    def _wait(self, project: _Project, limited: bool) -> None:
        if not project.out and project.entries[limited] != project.served:
            project.entries[limited] = project.served
            heapq.heappush(self._idle[limited], (project.served, project.id))

    def _head(self, limited: bool) -> _Campaign | None:
        idle = self._idle[limited]
        while idle:
            served, project_id = idle[0]
            project = self._projects.get(project_id)
            stands = project is not None and not project.out and project.served == served
            if project is not None and stands and (head := self._first(project, limited)) is not None:
                return head
            heapq.heappop(idle)
            if project is not None and project.entries[limited] == served:
                project.entries[limited] = None
        found = [head for project_id in self._busy if (head := self._first(self._projects[project_id], limited))]
        return min(found, key=lambda head: (self._projects[head.project_id].rank, head.rank), default=None)

    def _first(self, project: _Project, limited: bool) -> _Campaign | None:
        line = project.lines[limited]
        while line.by_priority and not self._stands(line.by_priority[0]):
            heapq.heappop(line.by_priority)
        while line.by_wait and not self._waits(line.by_wait[0]):
            heapq.heappop(line.by_wait)
        if line.by_priority:
            longest = project.releases % LONGEST_WAIT_EVERY == LONGEST_WAIT_EVERY - 1
            return self._campaigns[line.by_wait[0][-1] if longest else line.by_priority[0][-1]]
        return min((self._campaigns[campaign_id] for campaign_id in line.busy), key=lambda one: one.rank, default=None)

    def _stands(self, entry: tuple[int, int, UUID]) -> bool:
        campaign = self._campaigns.get(entry[-1])
        return campaign is not None and campaign.ready and not campaign.out and campaign.entry == entry[:2]

    def _waits(self, entry: tuple[int, UUID]) -> bool:
        campaign = self._campaigns.get(entry[-1])
        return (
            campaign is not None
            and campaign.ready
            and not campaign.out
            and campaign.entry is not None
            and campaign.entry[1] == entry[0]
        )


def _least(heap: list[E], number: int) -> Sequence[E]:
    """The least entries of a heap, which stay in it."""
    least = [heapq.heappop(heap) for _ in range(min(number, len(heap)))]
    for entry in least:
        heapq.heappush(heap, entry)
    return least
