"""The command builds only the verbs of the module that a call needs, and all of them for help and mistakes."""

import pytest
from typer.main import get_command

import cli.main
from cli.main import VERBS, app_for


def verbs_for(*arguments: str) -> set[str]:
    group = get_command(app_for(arguments))
    return set(getattr(group, "commands"))  # noqa: B009 - click's type has none


def test_the_table_names_every_verb() -> None:
    assert verbs_for("--help") == {name for verbs in VERBS for name in verbs.typed}


def test_a_verb_comes_with_those_of_its_module() -> None:
    for verbs in VERBS:
        for name in verbs.typed:
            assert verbs_for(name) == set(verbs.typed)


def test_all_are_there_for_an_unknown_verb_and_for_a_shell_that_completes(monkeypatch: pytest.MonkeyPatch) -> None:
    everything = verbs_for("--help")
    assert verbs_for("statsu") == verbs_for() == everything
    monkeypatch.setenv(cli.main.COMPLETES, "complete_bash")
    assert verbs_for("status") == everything
