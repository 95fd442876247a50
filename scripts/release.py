"""Builds a release into dist/ and checks it: source archive, wheel, image. Uploads nothing.

`python -m scripts.release [--no-image] [-- ARGUMENT OF THE IMAGE'S BUILD...]`. Only committed files are built. The
wheel is built from the unpacked source archive, which shows that the archive is complete. The image is built by Docker,
Podman or Buildah, the first of them that works.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
DIST = ROOT / "dist"
LOCKED = ROOT / "requirements" / "run.txt"
PACKAGES = ("services", "shared", "cli")
BESIDE = ("deploy", "docs", "examples", "requirements", "CHANGELOG.md", "LICENSE", "README.md")
"""What the source archive has beside the packages: dashboards, alerts, ways to deploy."""
BUILD = "import sys, setuptools.build_meta as backend; print(getattr(backend, sys.argv[1])(sys.argv[2]))"
LINKS = {"cli/examples/": "examples/", "cli/local/files/": "deploy/local/"}
"""Folders of the wheel that are links in the repository."""


class ReleaseError(Exception):
    """What is wrong with the release, in one line."""


@dataclass(frozen=True, slots=True)
class Archives:
    """The two files of a release."""

    source: Path
    wheel: Path


def build(folder: Path) -> Archives:
    """Builds both from the committed files. Raises ReleaseError if something is missing in them."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="vashsender-release-") as work:
        tree = _committed_tree(Path(work) / "tree")
        source = folder / _backend("build_sdist", tree, folder)
        with tarfile.open(source) as opened:
            # Python 3.11.2, which Debian 12 has, knows no filters yet.
            opened.extraction_filter = getattr(tarfile, "data_filter", lambda member, _path: member)
            opened.extractall(work)  # noqa: S202 - it was built a moment ago
        (unpacked,) = [path for path in Path(work).iterdir() if path != tree]
        wheel = folder / _backend("build_wheel", unpacked, folder)
    archives = Archives(source, wheel)
    _check_contents(archives)
    return archives


def install(wheel: Path, environment: Path) -> Path:
    """Installs a wheel with the locked dependencies into a new environment, and returns its `vashsender`."""
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    pip = [str(environment / "bin" / "pip"), "--disable-pip-version-check", "--quiet", "--no-input", "install"]
    subprocess.run([*pip, "--require-hashes", "-r", str(LOCKED)], check=True)
    subprocess.run([*pip, "--no-deps", "--no-index", str(wheel)], check=True)
    return environment / "bin" / "vashsender"


def version() -> str:
    """The version in pyproject.toml."""
    return str(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"])


def main() -> int:
    options = _options()
    try:
        archives = build(DIST)
        with tempfile.TemporaryDirectory(prefix="vashsender-installed-") as work:
            command = install(archives.wheel, Path(work) / "environment")
            told = subprocess.run([command, "--version"], cwd=work, capture_output=True, text=True, check=True)
            if told.stdout.strip() != version():
                raise ReleaseError(f"the wheel says it is {told.stdout.strip()}, pyproject.toml {version()}")
        made = [str(archives.source), str(archives.wheel)]
        if options.image:
            made.append(_image(options.build_arguments))
    except (ReleaseError, subprocess.CalledProcessError) as error:
        sys.stderr.write(f"release: {error}\n")
        return 1
    sys.stdout.write("\n".join(made) + "\n")
    return 0


def _committed_tree(folder: Path) -> Path:
    """Writes the files of the last commit to a new folder."""
    folder.mkdir()
    archive = subprocess.run(["git", "archive", "HEAD"], cwd=ROOT, capture_output=True, check=True)
    subprocess.run(["tar", "-x", "-C", str(folder)], input=archive.stdout, check=True)
    return folder


def _backend(hook: str, tree: Path, folder: Path) -> str:
    """Calls a hook of the build backend (PEP 517) in `tree`, and returns the name of the file it wrote."""
    done = subprocess.run(
        [sys.executable, "-c", BUILD, hook, str(folder.absolute())],
        cwd=tree,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise ReleaseError(f"{hook} failed:\n{done.stderr[-2000:]}")
    return done.stdout.splitlines()[-1]


def _check_contents(archives: Archives) -> None:
    """Every committed file of the packages is in both, and nothing else is in the wheel but its metadata."""
    with zipfile.ZipFile(archives.wheel) as opened:
        wheel = {name for name in opened.namelist() if ".dist-info/" not in name}
    with tarfile.open(archives.source) as opened_source:
        source = {name.partition("/")[2] for name in opened_source.getnames()}
    wanted = set(_committed())
    for name, missing in (("wheel", wanted - wheel), ("source archive", (wanted | set(_listed(BESIDE))) - source)):
        if missing:
            raise ReleaseError(f"the {name} lacks {', '.join(sorted(missing))}")
    if strange := wheel - wanted:
        raise ReleaseError(f"the wheel has what is not committed: {', '.join(sorted(strange))}")


def _committed() -> Iterable[str]:
    """The files that belong into the wheel, by their names in it."""
    into = {target: link for link, target in LINKS.items()}
    for name in _listed([*PACKAGES, *LINKS.values()]):
        if (ROOT / name).is_symlink() or Path(name).name in ("ruff.toml", "README.md"):
            continue
        target = next((target for target in into if name.startswith(target)), "")
        yield into[target] + name.removeprefix(target) if target else name


def _listed(paths: Iterable[str]) -> list[str]:
    """Committed files in these folders."""
    listed = subprocess.run(["git", "ls-files", "-z", *paths], cwd=ROOT, capture_output=True, text=True, check=True)
    return [name for name in listed.stdout.split("\0") if name]


def _image(build_arguments: Sequence[str]) -> str:
    """Builds the image from the last commit, and asks it for its version."""
    builder = _builder()
    tag = f"vashsender:{version()}"
    commit = _output("git", "-C", str(ROOT), "rev-parse", "HEAD")
    arguments = ["--build-arg", f"VERSION={version()}", "--build-arg", f"REVISION={commit}", *build_arguments]
    if builder == "buildah":
        arguments += ["--format", "docker"]  # that of OCI has no HEALTHCHECK
    with tempfile.TemporaryDirectory(prefix="vashsender-image-") as work:
        tree = _committed_tree(Path(work) / "tree")
        _output(builder, "build", "--quiet", "--tag", tag, *arguments, str(tree))
    if (told := _version_in_image(builder, tag)) != version():
        raise ReleaseError(f"the image says it is {told}, pyproject.toml {version()}")
    return f"image {tag}, in the storage of {builder}"


def _builder() -> str:
    """What builds images here. Docker and Podman may be installed and yet have nothing that answers."""
    for name in ("docker", "podman"):
        if shutil.which(name) and subprocess.run([name, "info"], capture_output=True, check=False).returncode == 0:
            return name
    if shutil.which("buildah"):
        return "buildah"
    raise ReleaseError("no Docker, Podman or Buildah works here for the image: install one, or run with --no-image")


def _version_in_image(builder: str, tag: str) -> str:
    if builder != "buildah":
        return _output(builder, "run", "--rm", tag, "--version")
    container = _output("buildah", "from", "--pull-never", f"localhost/{tag}")
    try:
        return _output("buildah", "run", container, "--", "vashsender", "--version")
    finally:
        _output("buildah", "rm", container)


def _output(*command: str) -> str:
    """Standard output of a command. Its errors are shown."""
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m scripts.release")
    parser.add_argument("--no-image", dest="image", action="store_false", help="build the archives only")
    parser.add_argument(
        "build_arguments", nargs="*", help="after --: for the image, such as --secret id=pip,src=pip.conf"
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
