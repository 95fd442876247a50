"""What a sender holds changes only through methods of the class that owns it: a reader finds every change there."""

import ast
from pathlib import Path

import pytest

from services.sender.held_batch import HeldBatch, Lease
from services.sender.unrecorded import Unrecorded
from services.sender.worklist import Worklist

SENDER = Path("services/sender")
OWNED = frozenset(name for part in (HeldBatch, Lease, Worklist, Unrecorded) for name in part.__slots__)


@pytest.mark.parametrize("path", sorted(SENDER.rglob("*.py")), ids=str)
def test_a_module_changes_only_its_own_objects(path: Path) -> None:
    assert intrusions(path.read_text()) == []


@pytest.mark.parametrize(
    "statement",
    [
        "held.claim = claim",
        "held.date: str = ''",
        "held._done += 1",
        "held.claim, other = claims",
        "(held.claim, other), third = claims",
        "for held.claim in claims: pass",
        "with claim() as held.claim: pass",
        "del held.worklist",
        "held._in_flight.add(email)",
        "held.worklist._rows.clear()",
        "setattr(held, name, value)",
        "object.__setattr__(held, name, value)",
    ],
)
def test_the_check_finds_a_change_from_outside(statement: str) -> None:
    assert intrusions(f"def work(held): {statement}" if ":" not in statement else statement)


def test_the_check_allows_an_object_to_change_itself() -> None:
    assert intrusions("self._done += 1; self._in_flight.add(email); held.stop_for(cause, why)") == []


def intrusions(source: str) -> list[str]:
    """The expressions by which `source` changes an attribute of a held batch, or reaches into its private ones."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) not in ("self", "cls"):
            is_changed = not isinstance(node.ctx, ast.Load) or node.attr.startswith("_")
            if (node.attr in OWNED and is_changed) or node.attr in ("__setattr__", "__delattr__"):
                found.append(ast.unparse(node))
        elif isinstance(node, ast.Name) and node.id in ("setattr", "delattr"):
            found.append(node.id)
    return found
