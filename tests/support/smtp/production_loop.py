"""Tests on the event loop of production. The others run on asyncio's own, so both are covered."""

from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any, ParamSpec

import uvloop

P = ParamSpec("P")


def on_production_loop(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Taking over an established transport, TLS above all, is where loops differ."""

    @wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        uvloop.run(test(*args, **kwargs))

    return run
