"""Fails when the models have changed and no migration says so."""

import tempfile
from pathlib import Path

from shared.ledger import migrate


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite+aiosqlite:///{Path(folder) / 'ledger.db'}"
        migrate.upgrade(url)
        migrate.check(url)


if __name__ == "__main__":
    main()
