"""The audit, as it is shown."""

from typing import Literal
from uuid import UUID

from pydantic import Field

from services.api.shapes.common import Moment, Shown


class AuditOut(Shown):
    id: int
    at: Moment
    project_id: UUID | None
    via: Literal["api", "page", "command"]
    actor: str = Field(description="The id of a key; of a command, the user of the operating system.")
    actor_name: str = Field(description="The name of the key; of a command, the machine.")
    action: str = Field(examples=["POST /v1/campaigns/{campaign_id}/send"])
    target: str = Field(examples=["campaign_id=0190b5f0-5f3e-7c1e-8f3a-2d5c7f1e9a10"])
    address: str = Field(description="Where the request came from; empty for a command.")
    result: str = Field(examples=["done", "refused: wrong-state"])
