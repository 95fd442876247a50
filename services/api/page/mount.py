"""Adds the page to the app."""

from fastapi import FastAPI

from services.api.page import (
    access,
    actions,
    assets,
    audit,
    campaign,
    campaign_list,
    create,
    keys,
    message,
    operations,
    projects,
    recipients,
    sign_in,
    suppressions,
    webhooks,
)
from services.api.page.operations import QueueLook
from services.api.page.upload_space import UploadSpace

ROUTERS = (
    assets.router,
    sign_in.visitors,
    sign_in.members,
    campaign_list.router,
    create.router,
    create.uploads,
    campaign.router,
    recipients.router,
    message.router,
    actions.router,
    operations.router,
    suppressions.router,
    webhooks.router,
    access.router,
    keys.router,
    projects.router,
    audit.router,
)


def mount(app: FastAPI) -> None:
    """Adds the page at `/`."""
    app.state.queue_look = QueueLook()
    app.state.upload_space = UploadSpace(app.state.api.settings.upload_space_bytes)
    for router in ROUTERS:
        app.router.routes.extend(router.routes)  # as in rest.mount
