"""Uploads to the page share a bounded space for temporary files."""

import pytest
import yaml

from services.api.page.upload_space import UploadsBusyError, UploadSpace
from services.api.usecases.errors import TooLargeError
from tests.support import compose, kubernetes


def test_uploads_share_the_space() -> None:
    space = UploadSpace(100)
    with space.reserve(60):
        with pytest.raises(UploadsBusyError) as busy, space.reserve(41):
            pass
        assert busy.value.headers["Retry-After"]
        with space.reserve(40):
            pass
    with space.reserve(100):
        pass
    with pytest.raises(TooLargeError), space.reserve(101):
        pass


def test_a_failed_upload_gives_its_space_back() -> None:
    space = UploadSpace(100)
    with pytest.raises(RuntimeError), space.reserve(100):
        raise RuntimeError
    with space.reserve(100):
        pass


def test_the_space_fits_into_the_folder_for_temporary_files() -> None:
    api = compose.load()["services"]["api"]
    [size] = [int(mount.partition("size=")[2].removesuffix("m")) for mount in api["tmpfs"] if mount.startswith("/tmp:")]
    assert int(api["environment"]["VASHSENDER_UPLOAD_SPACE_BYTES"]) < size * 2**20 * 0.9
    [deployment] = [
        one
        for one in yaml.safe_load_all((kubernetes.FOLDER / "base" / "api.yaml").read_text())
        if one["kind"] == "Deployment"
    ]
    pod = deployment["spec"]["template"]["spec"]
    given = {one["name"]: one.get("value", "") for one in pod["containers"][0]["env"]}
    [volume] = [volume for volume in pod["volumes"] if volume["name"] == "tmp"]
    assert volume["emptyDir"]["sizeLimit"] == "1Gi"
    assert int(given["VASHSENDER_UPLOAD_SPACE_BYTES"]) < 2**30 * 0.9
