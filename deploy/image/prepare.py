"""Prepares a base image for services: removes everything that installs or raises privileges, and adds a separate user
with one folder that this user may write to."""

import os
import shutil
import stat
import sysconfig
from pathlib import Path

USER = 10001
HOME = Path("/var/lib/vashsender")
INSTALLERS = ("pip", "setuptools", "wheel", "pkg_resources", "_distutils_hack", "ensurepip", "distutils-precedence.pth")


def remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


paths = sysconfig.get_paths()
for folder in {Path(paths["stdlib"]), Path(paths["purelib"]), Path("/usr/lib/python3/dist-packages")}:
    for name in INSTALLERS:
        remove(folder / name)
        for record in folder.glob(f"{name}-*.*-info"):
            remove(record)
remove(Path("/usr/share/python-wheels"))
for command in Path(paths["scripts"]).glob("pip*"):
    remove(command)
for folder in {Path(name).resolve() for name in ("/bin", "/sbin", "/usr/bin", "/usr/sbin", "/usr/local/bin")}:
    for program in folder.iterdir():
        mode = program.lstat().st_mode
        if stat.S_ISREG(mode) and mode & (stat.S_ISUID | stat.S_ISGID):
            program.chmod(stat.S_IMODE(mode) & 0o777)

with Path("/etc/passwd").open("a") as users, Path("/etc/group").open("a") as groups:
    users.write(f"vashsender:x:{USER}:{USER}::{HOME}:/usr/sbin/nologin\n")
    groups.write(f"vashsender:x:{USER}:\n")
HOME.mkdir(mode=0o750)
os.chown(HOME, USER, USER)
