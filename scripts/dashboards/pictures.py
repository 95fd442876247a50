"""Draws the dashboards as pictures in docs/images: `python -m scripts.dashboards.pictures`.

A real installation sends campaigns with faults (scene.py) while a real Prometheus scrapes it. Headless Chromium then
draws our JSON with Grafana's own components from npm (draw/). Needs node, npm, chromium, prometheus and RabbitMQ.
"""

import asyncio
import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from playwright.async_api import Page, Route

from cli.output import say, step
from scripts.dashboards.__main__ import files
from scripts.dashboards.scene import SECONDS, played
from scripts.dashboards.variables import chosen, substituted
from tests.support.browser import chromium
from tests.support.prometheus import Prometheus

ROOT = Path(__file__).parents[2]
SOURCES = Path(__file__).parent / "draw"
BUILT = ROOT / "var" / "dashboards"
IMAGES = ROOT / "docs" / "images"
ADDRESS = "http://drawn.test"
PAGE = "<!doctype html><meta charset=utf-8><link rel=stylesheet href=/draw.css><body><script src=/draw.js></script>"
RATE_INTERVAL = "16s"
"""What Grafana would choose for a scrape interval of 4 s; the scene's is 1 s, and curves over 4 s would be restless."""
STEP_SECONDS = 2
SIZE = {"width": 1600, "height": 900}
BUNDLE = (
    "node_modules/.bin/esbuild",
    "draw.jsx",
    "--bundle",
    "--jsx=automatic",
    "--minify",
    "--outfile=draw.js",
    "--loader:.woff2=dataurl",
    "--loader:.ttf=empty",
    "--loader:.svg=dataurl",
    '--define:process.env.NODE_ENV="production"',
    "--log-level=error",
)

Json = dict[str, Any]


def build() -> Path:
    """Installs Grafana's packages and bundles the drawing. Returns the folder, outside of the sources."""
    BUILT.mkdir(parents=True, exist_ok=True)
    for source in SOURCES.iterdir():
        shutil.copy(source, BUILT)
    if not (BUILT / "node_modules" / "@grafana" / "ui").exists():
        subprocess.run(
            ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"], cwd=BUILT, check=True
        )
    subprocess.run(BUNDLE, cwd=BUILT, check=True)
    return BUILT


def drawing(server: Prometheus, dashboard: Json, until: int) -> Json:
    """What draw.jsx needs, except for the colour scheme."""
    variables = chosen(server, dashboard, RATE_INTERVAL)
    start = until - SECONDS
    results: dict[int, list[list[Json]]] = {}
    for panel in dashboard["panels"]:
        results[panel["id"]] = [
            server.query_at(substituted(target["expr"], variables), until)
            if target["instant"]
            else server.query_range(substituted(target["expr"], variables), start, until, STEP_SECONDS)
            for target in panel.get("targets", ())
        ]
    shown = [
        (variable["label"], "All" if variable.get("multi") else variables[variable["name"]])
        for variable in dashboard["templating"]["list"]
        if variable["name"] in variables
    ]
    return {
        "dashboard": dashboard,
        "results": results,
        "variables": shown,
        "from": start,
        "to": until,
        "step": STEP_SECONDS,
    }


async def draw(drawings: Mapping[str, Json], built: Path, images: Path) -> None:
    """A picture of each dashboard, light and dark. Fails on an error of a script."""
    async with chromium() as browser:
        for scheme in ("light", "dark"):
            for name, content in drawings.items():
                with step(f"{name}-{scheme}") as current:
                    page = await browser.new_page(viewport=SIZE)  # type: ignore[arg-type]
                    errors: list[str] = []
                    page.on("pageerror", lambda error: errors.append(str(error)))  # noqa: B023
                    await page.route("**/*", lambda route: answer(route, built))
                    await page.add_init_script(f"window.drawing = {json.dumps({**content, 'scheme': scheme})}")
                    await page.goto(f"{ADDRESS}/")
                    await page.wait_for_selector(".panel")
                    await page.wait_for_timeout(1500)  # canvases and icons
                    assert not errors, errors
                    current.note = await what_is_empty(page)
                    await page.screenshot(path=images / f"dashboard-{name}-{scheme}.png", full_page=True)
                    await page.close()


async def what_is_empty(page: Page) -> str:
    empty = await page.eval_on_selector_all(
        ".panel[data-empty=true]", "panels => panels.map(panel => panel.dataset.title)"
    )
    return f"empty: {', '.join(empty)}" if empty else "every panel has data"


async def answer(route: Route, built: Path) -> None:
    path = route.request.url.removeprefix(ADDRESS)
    if path == "/":
        await route.fulfill(body=PAGE, content_type="text/html")
    elif path in ("/draw.js", "/draw.css"):
        await route.fulfill(path=built / path[1:])
    else:
        icon = built / "node_modules/@grafana/ui/dist/public/img" / path.partition("/img/")[2]
        await (route.fulfill(path=icon) if icon.is_file() else route.fulfill(status=404))


async def main() -> None:
    say("Dashboards in docs/images")
    with step("Grafana from npm"):
        built = await asyncio.to_thread(build)
    folder = Path(tempfile.mkdtemp(prefix="vashsender-dashboards-"))
    try:
        async with played(folder) as server:
            with step("half a minute"):
                await asyncio.sleep((30 - time.time()) % 60)  # a time at the right edge would be cut off
            until = int(time.time())
            dashboards = {path.stem: json.loads(text) for path, text in files().items()}
            drawings = {name: await asyncio.to_thread(drawing, server, one, until) for name, one in dashboards.items()}
        await draw(drawings, built, IMAGES)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    asyncio.run(main())
