"""`python -m cli.probe [PORT]`: a container's health check. Exits with 0 if the service is ready, else 1.

It imports only a socket, because it runs every few seconds beside each service.
"""

import os
import socket
import sys

TIMEOUT_SECONDS = 8.0
SHOWN_BYTES = 4000


def probe(port: int) -> tuple[bool, str]:
    """Whether `/health/ready` on this port answers 200, and its body, which names the check that failed."""
    try:
        with socket.create_connection(("127.0.0.1", port), TIMEOUT_SECONDS) as connection:
            connection.sendall(b"GET /health/ready HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n")
            answer = b""
            while len(answer) < SHOWN_BYTES and (more := connection.recv(SHOWN_BYTES)):
                answer += more
    except OSError as error:
        return False, f"port {port}: {error}"
    head, _, body = answer.partition(b"\r\n\r\n")
    return head.split(b" ", 2)[1:2] == [b"200"], body.decode(errors="replace").strip()


def main() -> None:
    """Without an argument, asks the service of this container, on its health port."""
    own = os.environ.get("VASHSENDER_HEALTH_PORT", "0")
    port = own if own != "0" else os.environ.get("VASHSENDER_HTTP_PORT", "8700")
    ready, said = probe(int(sys.argv[1] if len(sys.argv) > 1 else port))
    sys.stdout.write(f"{said}\n")
    sys.exit(0 if ready else 1)


if __name__ == "__main__":
    main()
