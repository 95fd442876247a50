"""What all event streams of a project need: a place among them, and a key that is still valid."""

import time
from collections.abc import AsyncIterator

from services.api.web.context import Project, ProjectDep
from shared.ledger import keys, projects
from shared.ledger.database import is_unavailable

KEY_SECONDS = 5.0
"""How often a stream asks whether its key is still valid."""


async def stream_place(project: ProjectDep) -> AsyncIterator[None]:
    """A dependency of streams: answers 429 before the stream begins, and holds the place until it ends."""
    async with project.read() as connection:
        owner = await projects.find(connection, project_id=project.id)
    assert owner is not None, "its key was valid"
    with project.api.streams.place(owner, project.tenant.limits):
        yield


class KeyWatch:
    """Ends a stream whose key was revoked, has expired, or is of a project that was closed meanwhile."""

    def __init__(self, project: Project) -> None:
        self._project = project
        self._looked_at = time.monotonic()

    async def is_valid(self) -> bool:
        """Asks the ledger from time to time. While that is away, the key counts as valid."""
        now = time.monotonic()
        if now - self._looked_at < KEY_SECONDS:
            return True
        try:
            async with self._project.read() as connection:
                found = await keys.find(connection, key_id=self._project.key.id)
        except Exception as error:
            if not is_unavailable(error):
                raise
            return True
        self._looked_at = now
        return found is not None
