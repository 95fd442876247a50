"""A real Postfix: a separate instance from the unpacked package, with its own port, that delivers into a Maildir.

Postfix drops privileges, so it must be started by root, or under fakeroot, as here: then it runs for every user. The
accounts it believes to run under are ones that every Debian has.
"""

import os
import pwd
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.smtp.debian import environment, postfix_tree
from tests.support.smtp.fakeroot import VARIABLES, fakeroot
from tests.support.smtp.onward import BOUNCES, REMOTE, Onward
from tests.support.smtp.sink import public_folder, unused_port, wait_for_port

OWNER = "mail"
POSTDROP_GROUP = "uucp"
DELIVERY_USER = "nobody"
UNKNOWN = "no.such.person@example.net"
QUEUES = (
    *("active", "bounce", "corrupt", "defer", "deferred", "flush"),
    *("hold", "incoming", "private", "saved", "trace"),
)

MASTER_CF = """
127.0.0.1:{port} inet n - n - - smtpd
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
proxymap unix - - n - - proxymap
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
error unix - - n - - error
retry unix - - n - - error
virtual unix - n n - - virtual
smtp unix - - n - - smtp
lmtp unix - - n - - lmtp
flush unix n - n 1000? 0 flush
anvil unix - - n - 1 anvil
postlog unix-dgram n - n - 1 postlogd
"""


@dataclass(frozen=True)
class Postfix:
    """`maildir` gets the emails to all addresses at example.net except `UNKNOWN`."""

    port: int
    maildir: Path
    log: Path

    def delivered(self) -> dict[str, bytes]:
        """The messages that have arrived so far, by file name."""
        return {file.name: file.read_bytes() for file in (self.maildir / "new").glob("*")}


@contextmanager
def postfix(certificate: Path, key: Path, onward: Onward | None = None) -> Iterator[Postfix]:
    """An instance that runs as long as the block and offers STARTTLS with the certificate."""
    with public_folder() as folder, fakeroot() as as_root:
        _lay_out(folder, as_root)
        main_cf = _main_cf(folder, postfix_tree(), certificate, key) + (_hands_on(onward) if onward else "")
        yield from _running(folder, main_cf, as_root)


def _running(folder: Path, main_cf: str, as_root: dict[str, str]) -> Iterator[Postfix]:
    tree = postfix_tree()
    port = unused_port()
    (folder / "etc/main.cf").write_text(main_cf)
    (folder / "etc/master.cf").write_text(MASTER_CF.format(port=port))
    (folder / "etc/recipients").write_text(f"{UNKNOWN} 550 5.1.1 no such person\n")
    command = [str(tree / "usr/lib/postfix/sbin/master"), "-c", str(folder / "etc"), "-d"]
    with (folder / "out").open("w") as out:
        process = subprocess.Popen(command, env=environment(tree) | as_root, stdout=out, stderr=out)
    try:
        wait_for_port(port, process)
        yield Postfix(port, folder / "mail/inbox", folder / "log/mail.log")
    finally:
        process.terminate()
        process.wait()


def _hands_on(onward: Onward) -> str:
    """As docs/feedback.md says, and with short times between the tries."""
    next_hop = {"lmtp": "lmtp:inet:127.0.0.1", "smtp": "smtp:[127.0.0.1]"}[onward.door]
    return f"""
relay_domains = {BOUNCES} {" ".join(REMOTE)}
default_transport = smtp:[127.0.0.1]:{onward.remote_port}
relay_transport = $default_transport
transport_maps = inline:{{{BOUNCES}={next_hop}:{onward.door_port}}}
lmtp_destination_recipient_limit = 1
smtp_destination_recipient_limit = 1
minimal_backoff_time = 1s
maximal_backoff_time = 1s
queue_run_delay = 1s
delay_warning_time = 1s
"""


def _lay_out(folder: Path, as_root: dict[str, str]) -> None:
    for name in ("etc", "data", "log", "mail", "queue/pid", "queue/public", "queue/maildrop"):
        (folder / name).mkdir(parents=True)
    for name in QUEUES:
        (folder / "queue" / name).mkdir(mode=0o700)
    owners = {
        OWNER: ["data", *(f"queue/{name}" for name in QUEUES)],
        f"{OWNER}:{POSTDROP_GROUP}": ["queue/public", "queue/maildrop"],
        DELIVERY_USER: ["mail"],
    }
    for owner, names in owners.items():
        subprocess.run(["chown", owner, *names], cwd=folder, env=os.environ | as_root, check=True)
    for name, mode in (("public", 0o710), ("maildrop", 0o730)):
        (folder / "queue" / name).chmod(mode)


def _main_cf(folder: Path, tree: Path, certificate: Path, key: Path) -> str:
    delivery = pwd.getpwnam(DELIVERY_USER)
    readable_key = folder / "etc/key.pem"
    shutil.copy(key, readable_key)
    readable_key.chmod(0o600)
    variables = " ".join(VARIABLES)
    return f"""
compatibility_level = 3.6
queue_directory = {folder}/queue
data_directory = {folder}/data
command_directory = {tree}/usr/sbin
daemon_directory = {tree}/usr/lib/postfix/sbin
shlib_directory = {tree}/usr/lib/postfix
meta_directory = {folder}/etc
mail_owner = {OWNER}
setgid_group = {POSTDROP_GROUP}
default_privs = {DELIVERY_USER}
import_environment = MAIL_CONFIG MAIL_LOGTAG TZ LANG=C LD_LIBRARY_PATH POSTLOG_SERVICE POSTLOG_HOSTNAME {variables}
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
myhostname = relay.example.org
mydestination =
alias_maps =
alias_database =
smtputf8_enable = yes
virtual_mailbox_domains = example.net
virtual_mailbox_base = {folder}/mail
virtual_mailbox_maps = static:inbox/
virtual_uid_maps = static:{delivery.pw_uid}
virtual_gid_maps = static:{delivery.pw_gid}
virtual_minimum_uid = 1
smtpd_client_connection_rate_limit = 0
smtpd_recipient_restrictions = check_recipient_access texthash:{folder}/etc/recipients, reject_unauth_destination
smtpd_tls_security_level = may
smtpd_tls_cert_file = {certificate}
smtpd_tls_key_file = {readable_key}
maillog_file = {folder}/log/mail.log
maillog_file_prefixes = {folder}
"""
