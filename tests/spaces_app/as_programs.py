"""The served page as programs see it: its API, what is private, files, many requests at once.

`test_served.py` takes these tests in, for one worker does a file, and the Space is served once.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from concurrent.futures import ThreadPoolExecutor

import actions
import httpx
import pytest

from .common import DEMO

API = {"list_methods", "plan_merge", "explain_manifest"}


def in_thread(coroutine):
    """What it gives; this thread has playwright's event loop."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, coroutine).result()


@pytest.fixture(scope="module")
def client(site):
    from gradio_client import Client

    return Client(site.url, verbose=False)


def test_the_api_is_three_functions(client, site):
    told = client.view_api(return_format="dict", print_info=False)
    assert set(told["named_endpoints"]) == {f"/{name}" for name in API}
    assert told["unnamed_endpoints"] == {}
    listed = client.predict(api_name="/list_methods")
    assert "r_tsvm" in {each["name"] for each in listed}
    assert client.predict(DEMO, api_name="/plan_merge")["ok"]
    assert "is no JSON" in client.predict("{", api_name="/explain_manifest")


def test_private_endpoints_cannot_be_called_by_name(client, site):
    config = httpx.get(f"{site.url}/config").json()
    private = {each["api_name"] for each in config["dependencies"]} - API
    assert private
    with httpx.Client() as client:  # one connection for all
        for name, route in itertools.product(private, ("call", "run", "api")):
            answer = client.post(f"{site.url}/gradio_api/{route}/{name}", json={"data": []})
            assert answer.status_code in (404, 405), (route, name)
    upload = httpx.post(f"{site.url}/gradio_api/upload", files={"files": ("x.txt", b"x")})
    assert (upload.status_code, upload.text) == (404, '{"error":"nothing is uploaded here"}')
    assert "not part of the API" in httpx.post(f"{site.url}/gradio_api/call/{name}", json={"data": []}).text
    assert httpx.get(site.url).status_code == 200


def test_mcp_clients_see_three_tools(site):
    from mcp import ClientSession
    from mcp.client.streamable_http import streamable_http_client

    async def ask() -> tuple[dict[str, str], str]:
        async with (
            streamable_http_client(f"{site.url}/gradio_api/mcp/") as (reading, writing, _),
            ClientSession(reading, writing) as session,
        ):
            await session.initialize()
            tools = {tool.name: tool.description or "" for tool in (await session.list_tools()).tools}
            name = next(each for each in tools if each.endswith("plan_merge"))
            told = await session.call_tool(name, {"recipe": DEMO})
            return tools, told.content[0].text

    tools, told = in_thread(ask())
    assert {next(name for name in API if tool.endswith(name)) for tool in tools} == API
    assert len(tools) == 3
    assert all(len(description) > 80 for description in tools.values())
    assert "token" not in json.dumps(tools).replace("tokens", "")
    assert "carried" in told or "ok" in told


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd", "app.py", "../app.py", "%2e%2e/app.py", "/proc/self/environ", "{visits}", "{visits}/../../x",
        "{cache}",
    ],
)  # fmt: skip
def test_files_outside_a_visit_are_not_served(site, path):
    where = path.format(visits=site.visits, cache=actions.places.base_folder() / "config.json")
    answer = httpx.get(f"{site.url}/gradio_api/file={where}")
    assert answer.status_code in (403, 404)


def test_fifty_requests_at_once_are_answered_and_the_next_visitor_is_served(site):
    async def soak() -> list[int]:
        limits = httpx.Limits(max_connections=60)
        async with httpx.AsyncClient(timeout=120, limits=limits) as client:
            calls = [client.post(f"{site.url}/gradio_api/call/plan_merge", json={"data": [DEMO]}) for _ in range(50)]
            return [answer.status_code for answer in await asyncio.gather(*calls)]

    codes = in_thread(soak())
    assert len(codes) == 50
    assert set(codes) <= {200, 503}  # the queue is full: told, and not waited for
    assert 200 in codes
    assert httpx.get(site.url).status_code == 200
    print(f"start {site.started:.1f} s, peak RSS of 50 requests at once {site.peak_memory / 1e6:.0f} MB")
    assert site.peak_memory < 4e9
