"""Only shared/ledger writes a status: of a campaign, a batch or a recipient, and only through the guarded moves."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("services", "shared", "cli")
WRITERS = {"shared/ledger/campaigns.py", "shared/ledger/batches.py", "shared/ledger/recipients.py"}
"""The modules that take their guards from shared/ledger/states.py."""

MODELS = {"Campaign", "Batch", "Recipient"}
COLUMNS = {"status", "state"}
SQL = re.compile(
    r"""\bupdate\s+"?(campaign|batch|recipient)\b"?[^;]*?\bset\b((?!\bwhere\b)[^;])*?\b(status|state)\b"?\s*=
    | \binsert\s+into\s+"?(campaign|batch|recipient)\b"?\s*\([^)]*\b(status|state)\b""",
    re.IGNORECASE | re.DOTALL | re.VERBOSE,
)


def writes(source: str) -> list[int]:
    """The lines of a module where it writes a status or state of one of the three tables."""
    tree = ast.parse(source)
    found = {node.lineno for node in ast.walk(tree) if isinstance(node, ast.expr) and _is_sql(node)}
    for scope in ast.walk(tree):
        if isinstance(scope, ast.FunctionDef | ast.AsyncFunctionDef | ast.Module):
            found |= set(_in_scope(scope))
    return sorted(found)


def _is_sql(node: ast.expr) -> bool:
    """A string, or the fixed parts of an f-string, in which SQL sets the column."""
    if isinstance(node, ast.JoinedStr):
        return bool(
            SQL.search("".join(str(part.value) if isinstance(part, ast.Constant) else "x" for part in node.values))
        )
    return isinstance(node, ast.Constant) and isinstance(node.value, str) and bool(SQL.search(node.value))


def _in_scope(scope: ast.AST) -> Iterator[int]:
    """Insert and update statements that name the column as a keyword or as a key, in place or by a variable."""
    named = {}
    for node in _nodes(scope):
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None and _keys(node.value) & COLUMNS:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            named.update({target.id: node.lineno for target in targets if isinstance(target, ast.Name)})
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Subscript):
            target = node.targets[0]
            if isinstance(target.value, ast.Name) and _constant(target.slice) in COLUMNS:
                named[target.value.id] = node.lineno
    for node in _nodes(scope):
        if not isinstance(node, ast.Call):
            continue
        if _is_statement(node):
            given: list[ast.expr] = [*node.args, *(keyword.value for keyword in node.keywords if keyword.arg is None)]
            keywords = {keyword.arg for keyword in node.keywords}
        elif isinstance(node.func, ast.Attribute) and node.func.attr == "execute" and node.args[1:]:
            if not _is_statement(node.args[0]):
                continue
            given, keywords = node.args[1:], set()
        else:
            continue
        if keywords & COLUMNS or any(_keys(value) & COLUMNS for value in given):
            yield node.lineno
        yield from (named[value.id] for value in given if isinstance(value, ast.Name) and value.id in named)


def _nodes(scope: ast.AST) -> Iterator[ast.AST]:
    """The nodes of a function or module, without those of the functions in it."""
    for node in ast.iter_child_nodes(scope):
        yield node
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _nodes(node)


def _is_statement(node: ast.AST) -> bool:
    """A chain of calls that begins with an insert or an update of one of the three tables."""
    while isinstance(node, ast.Call | ast.Attribute):
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            models = {getattr(argument, "id", "") for argument in node.args} & MODELS
            if models and ("insert" in name or "update" in name or name == "upsert"):
                return True
            node = node.func
        else:
            node = node.value
    return False


def _keys(node: ast.AST) -> set[str]:
    """The keys of the dictionaries in an expression."""
    found = set()
    for inner in ast.walk(node):
        if isinstance(inner, ast.Dict):
            found |= {_constant(key) for key in inner.keys if key is not None} | {
                key.attr for key in inner.keys if isinstance(key, ast.Attribute)
            }
        elif isinstance(inner, ast.Call) and getattr(inner.func, "id", "") == "dict":
            found |= {keyword.arg for keyword in inner.keywords if keyword.arg is not None}
    return found


def _constant(node: ast.AST) -> str:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def test_no_other_module_writes_a_status() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}"
        for folder in FOLDERS
        for path in sorted((ROOT / folder).rglob("*.py"))
        if path.relative_to(ROOT).as_posix() not in WRITERS and "migrations" not in path.parts
        for line in writes(path.read_text())
    ]
    assert not found, "use shared.ledger.campaigns, batches or recipients instead:\n" + "\n".join(found)


def test_each_writer_writes() -> None:
    """The list has no module that no longer belongs there."""
    assert all(writes((ROOT / path).read_text()) for path in WRITERS)


@pytest.mark.parametrize(
    "source",
    [
        "update(Campaign).where(col(Campaign.id) == x).values(status=new)",
        "connection.execute(update(Batch).values({'state': 'done'}).where(y))",
        "connection.execute(update(Batch).values({Batch.state: 'done'}))",
        "insert(Recipient).values(**{'status': 'sent'})",
        "insert(Batch).values(dict(state='done'))",
        "values: dict[str, Any] = {'status': new}\nconnection.execute(update(Campaign).values(**values))",
        "values = {}\nvalues['status'] = new\nconnection.execute(update(Campaign).values(**values))",
        "def f():\n    rows = [{'status': 'sent'}]\n    connection.execute(insert(Recipient), rows)",
        "connection.execute(sqlite_insert(Recipient).on_conflict_do_nothing(), [{'status': 'pending'} for _ in rows])",
        "rows.insert_missing(connection, Recipient).values(status='sent')",
        "rows.upsert(connection, Recipient, {'status': 'sent'}, key=('id',))",
        "text('UPDATE recipient SET attempts = 1, status = :status WHERE id = 1')",
        "text('update \"campaign\" set status=\\'paused\\'')",
        "sql = 'INSERT INTO batch (id, state) VALUES (1, 2)'",
        "f'UPDATE batch SET state = {new} WHERE id = 1'",
    ],
)
def test_a_write_is_found(source: str) -> None:
    assert writes(source)


@pytest.mark.parametrize(
    "source",
    [
        "update(Campaign).where(col(Campaign.status) == 'sending').values(cursor=1)",
        "update(Import).where(x).values(state='done')",
        "campaigns.move(connection, campaign_id, CampaignStatus.PAUSED, reason=reason)",
        "shown = {'status': row.status}\nupdate(Campaign).values(reason='x')",
        "def f():\n    v = {'status': row.status}\ndef g(v):\n    update(Campaign).values(**v)",
        "log.info('campaign.closed', status=status)",
        "text('SELECT status FROM recipient WHERE state = 1')",
        "text('UPDATE batch SET size = size WHERE state = 1')",
    ],
)
def test_what_writes_no_status_is_not_found(source: str) -> None:
    assert not writes(source)
