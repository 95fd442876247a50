"""docs/operations.md covers every ability of the old operators' guide under its headings, names only existing commands,
and matches the Russian edition."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from cli.effective import fields, variable
from cli.main import app_for

DOCS = Path(__file__).parents[2] / "docs"
ENGLISH, RUSSIAN = DOCS / "operations.md", DOCS / "operations.ru.md"
COMMAND_ONLY = {"VASHSENDER_AMQP_ADMIN_URL", "VASHSENDER_API_KEY", "VASHSENDER_URL"}

SCRIPT = "start_celery_production.sh"
GUIDE = {
    "Обзор улучшений": (
        "hard and soft limits of every task",
        "hanging campaigns found and repaired",
        "periodic clean-up and monitoring",
        "detailed logs of errors, retries",
        "a script that manages everything",
    ),
    "Запуск в продакшене: Использование скрипта": (
        f"{SCRIPT} start",
        f"{SCRIPT} stop",
        f"{SCRIPT} restart",
        f"{SCRIPT} status",
        f"{SCRIPT} monitor",
    ),
    "Запуск в продакшене: Ручной запуск": (
        "celery -A core worker",
        "--concurrency=4",
        "--queues=campaigns,email,default",
        "--loglevel=info",
        "celery -A core beat",
    ),
    "Мониторинг и диагностика: Проверка зависших кампаний": (
        "manage.py health_check",
        "manage.py health_check --fix",
        "manage.py health_check --timeout=15 --fix",
    ),
    "Мониторинг и диагностика: Просмотр логов": (
        "tail -f celery_worker.log",
        "tail -f celery_beat.log",
        "tail -f celery.log",
    ),
    "Мониторинг и диагностика: Проверка статуса задач": (
        "celery -A core inspect active",
        "celery -A core inspect stats",
        "celery -A core purge",
    ),
    "Настройки таймаутов: Текущие настройки": (
        "send_campaign: 30 minutes, 25 soft",
        "send_email_batch: 10 minutes, 8 soft",
        "send_single_email: 5 minutes, 4 soft",
    ),
    "Настройки таймаутов: Изменение таймаутов": (
        "time_limit, soft_time_limit edited in apps/campaigns/tasks.py",
        "max_retries=3",
        "default_retry_delay=60",
        "queue='campaigns'",
    ),
    "Автоматический мониторинг": (
        "hanging campaigns are looked for every 5 minutes",
        "SMTP connections are cleaned every 10 minutes",
        "processes that died are started again, if monitor runs",
    ),
    'Решение проблем: Кампания "зависла" в статусе "Отправляется"': (
        'grep "campaign_id" in the worker\'s log',
        "manage.py health_check --fix",
        f"{SCRIPT} status",
    ),
    "Решение проблем: Письма не отправляются": (
        "SMTP settings in core/settings/production.py",
        'grep "SMTP" in the worker\'s log',
        f"{SCRIPT} restart",
    ),
    "Решение проблем: Высокая нагрузка": (
        "celery worker --concurrency=8",
        "queues in core/celery.py",
        "htop, iostat",
    ),
    "Логирование": ("/var/log/vashsender/", "celery_worker.log", "celery_beat.log", "celery.log"),
    "Безопасность": (
        "access to logs and pid files restricted",
        "a separate user",
        "a firewall for Redis",
        "logs rotated regularly",
    ),
    "Производительность": (
        "low load: concurrency 2-4, 1000 tasks per child, prefetch 1",
        "medium load: concurrency 4-8, 500 tasks per child, prefetch 1",
        "high load: concurrency 8-16, 250 tasks per child, prefetch 1",
        "several worker processes",
    ),
    "Обновление": (f"{SCRIPT} stop", "the code updated", f"{SCRIPT} start", f"{SCRIPT} status"),
}
"""The headings of the guide (chapter: section), in order, with the abilities under each."""


def headings(page: str) -> list[tuple[int, str]]:
    """Level and text of each heading outside code."""
    return [(len(marks), text) for marks, text in re.findall(r"^(#+) (.+)$", page, re.MULTILINE)]


def tables(page: str) -> dict[str, list[tuple[str, ...]]]:
    """The rows of the tables under each heading, without backticks."""
    found: dict[str, list[tuple[str, ...]]] = {}
    current = ""
    for line in page.splitlines():
        if heading := re.match(r"#+ (.+)", line):
            current = heading[1]
        elif line.startswith("|") and not line.startswith("|--"):
            cells = re.split(r"(?<!\\) \| ", line.strip().strip("|").strip())
            found.setdefault(current, []).append(tuple(cell.replace("`", "").strip() for cell in cells))
    return found


def commands(page: str) -> list[str]:
    """Every `vashsender ...` in code."""
    spans = re.findall(r"`([^`\n]+)`", page) + re.findall(r"^ {4}(.+)$", page, re.MULTILINE)
    return [span.partition("  #")[0].strip() for span in spans if re.match(r"(?:\w+=\S+ )*vashsender ", span)]


def leaves(group: typer.models.CommandFunctionType | object, prefix: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    yield prefix
    for name, command in getattr(group, "commands", {}).items():
        yield from leaves(command, (*prefix, name))


def test_every_ability_of_the_guide_is_in_the_table() -> None:
    found = tables(ENGLISH.read_text())
    assert [heading for heading in found if heading in GUIDE] == list(GUIDE)
    for heading, abilities in GUIDE.items():
        rows = found[heading][1:]
        assert [row[0].removesuffix(' ("careful!")') for row in rows] == list(abilities), heading
        assert all(row[1] for row in rows)


@pytest.mark.parametrize("path", [ENGLISH, RUSSIAN], ids=["en", "ru"])
def test_every_command_in_it_exists(path: Path) -> None:
    root = typer.main.get_command(app_for(()))
    there = {words for words in leaves(root) if words}
    named = commands(path.read_text())
    assert len(named) > 60
    for line in named:
        words = line[line.index("vashsender ") :].split()[1:]
        options = [word.strip("[]").partition("=")[0] for word in words if word.strip("[").startswith("-")]
        verbs = [verb for verb in alternatives(words) if verb in there]
        verbs = [verb for verb in verbs if len(verb) == max(map(len, verbs))]
        assert verbs, f"{line!r}: there is no such verb"
        for verb in verbs:
            known = {option for param in find(root, verb).params for option in (*param.opts, *param.secondary_opts)}
            assert set(options) <= {*known, "--help"}, f"{line!r}: {verb} has no such option"


def alternatives(words: list[str]) -> Iterator[tuple[str, ...]]:
    """The verbs that a line means: `a b | c` and `a b|c` mean `a b` and `a c`."""
    first = words[0]
    yield (first,)
    for word in words[1:]:
        if word.startswith(("-", "[")):
            return
        yield from ((first, choice) for choice in word.split("|"))


def find(root: object, verb: tuple[str, ...]) -> typer.core.TyperCommand:
    for word in verb:
        root = root.commands[word]  # type: ignore[attr-defined]
    return root  # type: ignore[return-value]


def test_every_setting_in_it_exists() -> None:
    there = {variable(name) for _, name, _ in fields()} | COMMAND_ONLY
    assert set(re.findall(r"VASHSENDER_\w+", ENGLISH.read_text())) <= there


def test_the_russian_edition_has_the_same_shape() -> None:
    english, russian = ENGLISH.read_text(), RUSSIAN.read_text()
    assert [level for level, _ in headings(russian)] == [level for level, _ in headings(english)]
    assert [text for _, text in headings(russian) if text in GUIDE] == list(GUIDE)
    assert [len(rows) for rows in tables(russian).values()] == [len(rows) for rows in tables(english).values()]
    assert len(re.findall(r"^!\[", russian, re.MULTILINE)) == len(re.findall(r"^!\[", english, re.MULTILINE))


def test_the_russian_edition_names_the_same_commands_settings_and_files() -> None:
    english, russian = ENGLISH.read_text(), RUSSIAN.read_text()
    assert commands(russian) == commands(english)
    for pattern in (r"VASHSENDER_\w+(?:=[^`\s]+)?", r"(?<=\]\()[^)]+", r"`([^`\n]*[A-Za-z][^`\n]*)`"):
        assert sorted(set(re.findall(pattern, russian)) - {"operations.md"}) == sorted(
            set(re.findall(pattern, english)) - {"operations.ru.md"}
        )
