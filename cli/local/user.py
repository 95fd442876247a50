"""A system-wide installation: root starts it, but everything runs as another user, including the command itself."""

import os
import pwd
import sys
from pathlib import Path

from cli.settings import LocalSettings
from shared.errors import ConfigurationError


def step_down(config: LocalSettings) -> None:
    """If root runs the command and VASHSENDER_USER names a user, gives that user the folders and becomes that user for
    good. Everything the command starts and writes belongs to that user; SUDO_USER still says who called it. Raises
    ConfigurationError."""
    if os.geteuid() != 0 or not config.user:
        return
    try:
        user = pwd.getpwnam(config.user)
    except KeyError:
        raise ConfigurationError(
            f"VASHSENDER_USER: there is no user {config.user}. Create it: useradd --system --user-group "
            f"--home-dir {config.home} --shell /usr/sbin/nologin {config.user}"
        ) from None
    for folder in (config.home, config.logs):
        _hand_over(folder, user)
    os.environ.setdefault("SUDO_USER", "root")
    os.environ |= {"HOME": user.pw_dir, "USER": user.pw_name, "LOGNAME": user.pw_name}
    os.initgroups(user.pw_name, user.pw_gid)
    os.setgid(user.pw_gid)
    os.setuid(user.pw_uid)
    for needed in (os.__file__, __file__, sys.executable):
        if not os.access(needed, os.R_OK):
            raise ConfigurationError(f"VASHSENDER_USER: {user.pw_name} cannot read {needed}")
    if not os.access(Path.cwd(), os.R_OK | os.X_OK):
        os.chdir(config.home)


def _hand_over(folder: Path, user: pwd.struct_passwd) -> None:
    if not folder.exists():
        folder.mkdir(mode=0o700, parents=True)
        os.chown(folder, user.pw_uid, user.pw_gid)
    elif folder.stat().st_uid != user.pw_uid:
        raise ConfigurationError(
            f"VASHSENDER_USER: {folder} does not belong to {user.pw_name}: chown -R {user.pw_name}: {folder}"
        )
