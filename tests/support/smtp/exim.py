"""A real Exim: the program from the unpacked package, with files and a port that no other Exim uses.

Debian's Exim wants the account Debian-exim, and does not run as root. So it runs under an account that every Debian
has, or the user's, and nss_wrapper shows it that one as Debian-exim.
"""

import os
import pwd
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.smtp.debian import environment, exim_tree, nss_wrapper_tree
from tests.support.smtp.onward import BOUNCES, REMOTE, Onward
from tests.support.smtp.sink import public_folder, unused_port, wait_for_port

ACCOUNT_BESIDE_ROOT = "mail"
VARIABLES = ("LD_LIBRARY_PATH", "LD_PRELOAD", "NSS_WRAPPER_PASSWD", "NSS_WRAPPER_GROUP")

CONFIG = """
primary_hostname = exim.example.org
exim_path = {folder}/exim
spool_directory = {folder}/spool
log_file_path = {folder}/spool/%slog
pid_file_path = {folder}/spool/pid
keep_environment = {variables}
deliver_drop_privilege = true
local_interfaces = 127.0.0.1
daemon_smtp_ports = {port}
tls_advertise_hosts =
host_lookup =
smtp_accept_max = 100
smtp_accept_queue_per_connection = 0
smtp_accept_max_per_connection = 10000
# Our emails have `Precedence: bulk`, of which Exim sends no warnings.
delay_warning = 1s
delay_warning_condition = yes
domainlist remote = {remote}
acl_smtp_rcpt = rcpt

begin acl
rcpt:
  accept domains = {bounces} : +remote
  deny message = relaying denied

begin routers
bounces:
  driver = manualroute
  domains = {bounces}
  transport = door
  route_list = * 127.0.0.1
  self = send
remote:
  driver = manualroute
  domains = +remote
  transport = remote
  route_list = * 127.0.0.1
  self = send

begin transports
door:
  driver = smtp
  protocol = {door}
  port = {door_port}
  max_rcpt = 1
  allow_localhost
remote:
  driver = smtp
  port = {remote_port}
  max_rcpt = 1
  allow_localhost

begin retry
* * F,1h,1s
"""


@dataclass(frozen=True)
class Exim:
    """A running one."""

    port: int
    log: Path


@contextmanager
def exim(onward: Onward) -> Iterator[Exim]:
    """An instance that runs as long as the block."""
    with public_folder() as folder:
        port, account = unused_port(), _account()
        values = {"port": port, "door": onward.door, "door_port": onward.door_port, "remote_port": onward.remote_port}
        names = {"bounces": BOUNCES, "remote": " : ".join(REMOTE), "variables": " : ".join(VARIABLES)}
        _lay_out(folder, account)
        (folder / "exim.conf").write_text(CONFIG.format(folder=folder, **values, **names))
        command = [str(folder / "exim"), "-C", str(folder / "exim.conf"), "-bdf", "-q1s"]
        as_account: dict[str, Any] = {}
        if os.geteuid() == 0:
            as_account = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
        with (folder / "out").open("w") as out:
            process = subprocess.Popen(
                command, env=_environment(folder), stdout=out, stderr=out, start_new_session=True, **as_account
            )
        try:
            wait_for_port(port, process)
            yield Exim(port, folder / "spool/mainlog")
        finally:
            os.killpg(process.pid, signal.SIGKILL)  # with the runners of its queue
            process.wait()


def _account() -> pwd.struct_passwd:
    return pwd.getpwnam(ACCOUNT_BESIDE_ROOT) if os.geteuid() == 0 else pwd.getpwuid(os.geteuid())


def _lay_out(folder: Path, account: pwd.struct_passwd) -> None:
    # The account may be unable to enter the folder of the project.
    for tree in (exim_tree(), nss_wrapper_tree()):
        shutil.copytree(tree, folder / "root", symlinks=True, dirs_exist_ok=True)
    shutil.copyfile(folder / "root/usr/sbin/exim4", folder / "exim")  # the package's is setuid
    (folder / "exim").chmod(0o755)
    (folder / "spool").mkdir()
    os.chown(folder / "spool", account.pw_uid, account.pw_gid)
    accounts = f"root:x:0:0::/:/bin/sh\nDebian-exim:x:{account.pw_uid}:{account.pw_gid}::/:/bin/sh\n"
    (folder / "passwd").write_text(accounts)
    (folder / "group").write_text(f"root:x:0:\nDebian-exim:x:{account.pw_gid}:\nmail:x:{account.pw_gid}:\n")


def _environment(folder: Path) -> dict[str, str]:
    (library,) = (folder / "root").glob("usr/lib/*/libnss_wrapper.so")
    return environment(folder / "root") | {
        "LD_PRELOAD": str(library),
        "NSS_WRAPPER_PASSWD": str(folder / "passwd"),
        "NSS_WRAPPER_GROUP": str(folder / "group"),
    }
