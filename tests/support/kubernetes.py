"""`deploy/kubernetes`: its files, what Kustomize renders, and validation against the models of its resources.

Go builds Kustomize from its source, and the models come from npm. Both are cached under `var/cache`.
"""

import base64
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from cli import access_files
from cli.local import packages

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "kubernetes"
CACHE = ROOT / "var" / "cache"
MODELS = Path(__file__).with_name("kubernetes_models")
#: The newest version that Debian 12's Go can build.
KUSTOMIZE = "sigs.k8s.io/kustomize/kustomize/v5@v5.0.3"

OVERLAYS = ("development", "production", "everything")
RELAYS = "smtp://me%40example.com:password@smtp.example.com:587\n"

Resource = Mapping[str, Any]


def documents(path: Path) -> list[dict[str, Any]]:
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


def sources() -> dict[Path, list[dict[str, Any]]]:
    """The documents of every file, by its path in FOLDER."""
    return {path.relative_to(FOLDER): documents(path) for path in sorted(FOLDER.rglob("*.yaml"))}


def values_of(value: Any, key: str) -> Iterator[Any]:
    """Every value of `key` at any depth."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            if name == key:
                yield inner
            yield from values_of(inner, key)
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for inner in value:
            yield from values_of(inner, key)


@dataclass(frozen=True)
class Rendered:
    """The resources of one overlay."""

    resources: Sequence[Resource]

    def of(self, *kinds: str) -> list[Resource]:
        return [resource for resource in self.resources if resource["kind"] in kinds]

    def one(self, kind: str, name: str) -> Resource:
        """A resource by its name, with or without the hash that Kustomize adds."""
        found = [one for one in self.of(kind) if one["metadata"]["name"] in (name, _with_hash(one, name))]
        assert len(found) == 1, f"{kind}/{name}: {[one['metadata']['name'] for one in self.of(kind)]}"
        return found[0]

    @property
    def pods(self) -> Mapping[str, Resource]:
        """The pod template of everything that creates pods, by its name."""
        makers = self.of("Deployment", "StatefulSet", "Job")
        return {maker["metadata"]["name"]: maker["spec"]["template"] for maker in makers}

    def environment(self, name: str, container: str = "containers") -> dict[str, str]:
        """The environment of a pod's first container. A name that only the cluster knows is made up."""
        spec = self.pods[name]["spec"][container][0]
        found: dict[str, str] = {}
        for source in spec.get("envFrom", ()):
            found |= self.one("ConfigMap", source["configMapRef"]["name"])["data"]
        for entry in spec.get("env", ()):
            found[entry["name"]] = entry.get("value", f"{name}-0")
        return found

    def secret_files(self, name: str) -> dict[str, str]:
        """The files of a pod's own Secret."""
        volume = next(one for one in self.pods[name]["spec"]["volumes"] if one["name"] == "secrets")
        data = self.one("Secret", volume["secret"]["secretName"])["data"]
        return {key: base64.b64decode(value).decode() for key, value in data.items()}

    def is_mounted(self, name: str, path: str, container: str = "containers") -> bool:
        """Whether a file or a folder is mounted at `path` in the first container of a pod."""
        spec = self.pods[name]["spec"]
        mounts = {mount["mountPath"]: mount["name"] for mount in spec[container][0]["volumeMounts"]}
        folder, _, key = path.rpartition("/")
        if path in mounts or folder not in mounts:
            return path in mounts
        volume = next(one for one in spec["volumes"] if one["name"] == mounts[folder])
        if "secret" in volume:
            return key in self.one("Secret", volume["secret"]["secretName"])["data"]
        return key in self.one("ConfigMap", volume["configMap"]["name"])["data"]


def _with_hash(resource: Resource, name: str) -> str:
    own: str = resource["metadata"]["name"]
    return own if own.rpartition("-")[0] == name and len(own.rpartition("-")[2]) == 10 else ""


def overlays(folder: Path) -> Mapping[str, Rendered]:
    """Renders both overlays in a copy of deploy/kubernetes, and `everything`: production with every component."""
    shutil.copytree(FOLDER, folder, ignore=shutil.ignore_patterns("secrets"))
    for name in ("development", "production"):
        secrets = folder / "overlays" / name / "secrets"
        access_files.write(secrets, access_files.Servers("rabbitmq", "postgres"))
        (secrets / "relays").write_text(RELAYS)
    everything = shutil.copytree(folder / "overlays" / "production", folder / "overlays" / "everything")
    (everything / "ca.pem").write_text("a certificate\n")
    (everything / "key.pem").write_text("a key\n")
    file = everything / "kustomization.yaml"
    whole = yaml.safe_load(file.read_text())
    whole["components"] = [f"../../components/{path.name}" for path in sorted((folder / "components").iterdir())]
    whole["configMapGenerator"].append({"name": "vashsender-ca", "files": ["ca.pem"]})
    whole["secretGenerator"].append({"name": "vashsender-dkim", "files": ["example.com.s1.pem=key.pem"]})
    broker = ["definitions.json=secrets/rabbitmq_definitions.json", "cookie=secrets/erlang_cookie"]
    whole["secretGenerator"].append({"name": "rabbitmq", "files": broker})
    file.write_text(yaml.safe_dump(whole))
    return {name: render(folder / "overlays" / name) for name in OVERLAYS}


def render(overlay: Path) -> Rendered:
    """The result of `kustomize build` for a folder."""
    done = subprocess.run([kustomize(), "build", overlay], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return Rendered([document for document in yaml.safe_load_all(done.stdout) if document])


def problems(resources: Iterable[Resource]) -> list[str]:
    """Violations of the models of Kubernetes, KEDA and the Prometheus operator."""
    done = subprocess.run(
        ["node", "validate.mjs"],
        cwd=models(),
        input=json.dumps([_unfolded(resource) for resource in resources]),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: list[str] = json.loads(done.stdout)
    return found


def _unfolded(resource: Resource) -> Resource:
    """Joins the lines of base64: Kustomize folds it, which Kubernetes accepts (RFC 2045) and the model does not."""
    if resource["kind"] != "Secret":
        return resource
    return {**resource, "data": {key: "".join(value.split()) for key, value in resource["data"].items()}}


def kustomize() -> Path:
    version = KUSTOMIZE.rpartition("@")[2]

    def build(folder: Path) -> None:
        if shutil.which("go") is None:
            packages.ensure(["golang-go"])
        environment = {**os.environ, "GOBIN": str(folder), "GOTOOLCHAIN": "local"}
        subprocess.run(["go", "install", KUSTOMIZE], env=environment, check=True)

    return _cached(f"kustomize-{version}", build) / "kustomize"


def models() -> Path:
    """A folder with the models and validate.mjs."""

    def install(folder: Path) -> None:
        if shutil.which("npm") is None:
            packages.ensure(["npm"])
        shutil.copytree(MODELS, folder, dirs_exist_ok=True)
        quiet = ("--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error")
        subprocess.run(["npm", "ci", *quiet], cwd=folder, stdout=subprocess.DEVNULL, check=True)

    content = b"".join(path.read_bytes() for path in sorted(MODELS.iterdir()))
    return _cached(f"kubernetes-models-{hashlib.sha256(content).hexdigest()[:12]}", install)


def _cached(name: str, make: Callable[[Path], None]) -> Path:
    """A folder in CACHE, made at its first use."""
    CACHE.mkdir(parents=True, exist_ok=True)
    folder, draft = CACHE / name, CACHE / f"{name}.draft"
    with (CACHE / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            shutil.rmtree(draft, ignore_errors=True)
            draft.mkdir()
            make(draft)
            draft.rename(folder)
    return folder
