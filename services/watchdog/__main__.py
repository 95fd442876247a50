"""`python -m services.watchdog`; with `--once`, one full sweep by hand."""

import argparse

from services.watchdog import once
from services.watchdog.main import serve
from shared.process import main
from shared.settings import WatchdogSettings

if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m services.watchdog", description=__doc__)
    parser.add_argument("--once", action="store_true", help="sweep the ledger once, report what was done, and exit")
    parser.add_argument("--json", action="store_true", help="with --once: JSON lines")
    arguments = parser.parse_args()
    if arguments.once:
        once.main(as_json=arguments.json)
    else:
        main("watchdog", WatchdogSettings, serve)
