"""The main.py of every service reads alike, so that a reader finds in each the events that wake it."""

import ast
from itertools import pairwise
from pathlib import Path

import pytest

SERVICES = Path("services")
MOST_LINES = 65
ORDER = ("a part", "process.bus.subscribe", "process.ticks", "process.health", "prewarm", "process.run")

mains = pytest.mark.parametrize("service", ["api", "dispatcher", "feedback", "sender", "watchdog", "webhooks"])


@mains
def test_a_main_fits_on_one_screen(service: str) -> None:
    assert len(source(service).splitlines()) < MOST_LINES


@mains
def test_serve_builds_subscribes_registers_and_runs_in_this_order(service: str) -> None:
    serve = serve_of(service)
    assert [argument.arg for argument in serve.args.args] == ["process"]
    places = [kind(ast.unparse(statement)) for statement in flat(serve.body[1:])]
    assert all(before <= after for before, after in pairwise(places)), places
    assert places[-1] == len(ORDER) - 1


@mains
def test_serve_defines_no_function_inside(service: str) -> None:
    """Behaviour belongs to the parts; main.py only wires them."""
    functions = ast.FunctionDef | ast.AsyncFunctionDef
    assert [node.name for node in ast.walk(serve_of(service)) if isinstance(node, functions)] == ["serve"]


def test_events_are_subscribed_to_in_main_only() -> None:
    subscribing = {path for path in SERVICES.rglob("*.py") if "bus.subscribe(" in path.read_text()}
    assert {path.name for path in subscribing} == {"main.py"}


def source(service: str) -> str:
    return (SERVICES / service / "main.py").read_text()


def serve_of(service: str) -> ast.AsyncFunctionDef:
    found = [node for node in ast.parse(source(service)).body if isinstance(node, ast.AsyncFunctionDef)]
    assert [node.name for node in found] == ["serve"]
    return found[0]


def flat(statements: list[ast.stmt]) -> list[ast.stmt]:
    """Looks inside a `with` that spans the rest of `serve`."""
    last = statements[-1]
    return [*statements[:-1], *flat(last.body)] if isinstance(last, ast.With) else statements


def kind(statement: str) -> int:
    """The statement's place in ORDER."""
    first = statement.split("(")[0]
    return next((number for number, start in enumerate(ORDER) if start in first), 0)
