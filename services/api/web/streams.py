"""A place among the event streams of the project, for as long as a stream lasts."""

from collections.abc import AsyncIterator

from services.api.web.context import ProjectDep
from shared.ledger import projects


async def stream_place(project: ProjectDep) -> AsyncIterator[None]:
    """A dependency of streams: answers 429 before the stream begins, and holds the place until it ends."""
    async with project.read() as connection:
        owner = await projects.find(connection, project_id=project.id)
    assert owner is not None, "its key was valid"
    with project.api.streams.place(owner, project.tenant.limits):
        yield
