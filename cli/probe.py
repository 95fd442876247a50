"""`python -m cli.probe [URL]`: whether a service is ready, for a container's health check. Exit code 0 or 1.

Only the standard library is imported: this runs every few seconds beside each service.
"""

import os
import sys
import urllib.error
import urllib.request

TIMEOUT_SECONDS = 4.0
SHOWN_BYTES = 2000


def probe(url: str) -> tuple[bool, str]:
    """Whether `url` answers 200, and what it said: on `/health/ready` the checks, one of which is not ok."""
    try:
        # No proxy of the environment's stands between a process and its own port.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(url, timeout=TIMEOUT_SECONDS) as answer:
            return True, answer.read(SHOWN_BYTES).decode()
    except urllib.error.HTTPError as error:
        return False, error.read(SHOWN_BYTES).decode(errors="replace")
    except OSError as error:
        return False, f"{url}: {error}"


def main() -> None:
    """By default the service of this container: `/health/ready` on VASHSENDER_HTTP_PORT."""
    own = f"http://127.0.0.1:{os.environ.get('VASHSENDER_HTTP_PORT', '8700')}/health/ready"
    ready, said = probe(sys.argv[1] if len(sys.argv) > 1 else own)
    sys.stdout.write(f"{said.strip()}\n")
    sys.exit(0 if ready else 1)


if __name__ == "__main__":
    main()
