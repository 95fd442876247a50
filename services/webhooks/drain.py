"""The end of the service webhooks: both ways out stop at the same time."""

import asyncio

from services.webhooks.courier import Courier
from services.webhooks.publisher import Publisher


async def drain(courier: Courier, publisher: Publisher) -> None:
    await asyncio.gather(courier.drain(), publisher.drain())
