"""Erasures: as they are asked for, and as they are shown."""

from typing import Literal

from pydantic import BaseModel, Field

from services.api.shapes.common import Body


class ErasureIn(Body):
    email: str = Field(max_length=1000, examples=["ann@example.com"])
    all_projects: bool = Field(False, description="Erase the person from every project. For operators.")


class ErasureOut(BaseModel):
    state: Literal["running", "done"] = Field(description="`running`: repeat the request to see how far it is.")
    recipients: int = Field(description="Recipients of campaigns that were erased so far.")
    projects: int
    projects_done: int
