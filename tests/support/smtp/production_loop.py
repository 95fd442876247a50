"""Runs a test on the event loop of production. Other tests run on asyncio's loop, so both are covered."""

from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any, ParamSpec

import uvloop

P = ParamSpec("P")


def on_production_loop(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Event loops differ in how an established transport is taken over, above all with TLS."""

    @wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        uvloop.run(test(*args, **kwargs))

    return run
