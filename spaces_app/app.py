"""The Space: try a merge in the browser, by `python app.py` or `make space`.

Address and port are those of GRADIO_SERVER_NAME and GRADIO_SERVER_PORT.
"""

from __future__ import annotations

import atexit
import os
import re
import shutil
import tempfile
from typing import Any

if "GRADIO_TEMP_DIR" not in os.environ:  # before gradio is imported: files of visits lie there, and go with the process
    os.environ["GRADIO_TEMP_DIR"] = tempfile.mkdtemp(prefix="merge3h-space-")
    atexit.register(shutil.rmtree, os.environ["GRADIO_TEMP_DIR"], ignore_errors=True)
# before torch is imported: on cores that others use too, threads that spin while they wait take up to ten times as long
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

import tensors  # noqa: F401, I001 - imports spaces, which must come before torch
import actions
import machines
import gradio as gr
from fastapi.middleware import Middleware
from fastapi.responses import JSONResponse
from layout import layout
from theme import CSS, theme
from wiring import wire

#: The whole API, for programs and for MCP clients.
API = (machines.list_methods, machines.plan_merge, machines.explain_manifest)


class OnlyTheApi:
    """Refuses uploads, and calls by name to anything but the API; the page calls by number, through its queue."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """An ASGI application."""
        found = re.match(r".*/(?:call|run|api)/(?:v2/)?([^/]+)", scope.get("path", ""))
        if scope["type"] == "http" and scope.get("path", "").rstrip("/").endswith("/upload"):
            await JSONResponse({"error": "nothing is uploaded here"}, 404)(scope, receive, send)
        elif scope["type"] == "http" and found and found[1] not in {"predict", *(each.__name__ for each in API)}:
            message = {"error": f"not part of the API, which is {', '.join(each.__name__ for each in API)}"}
            await JSONResponse(message, 404)(scope, receive, send)
        else:
            await self.app(scope, receive, send)


def build() -> gr.Blocks:
    """The page, with its events and its API."""
    with gr.Blocks(title="Merge 3H", analytics_enabled=False, delete_cache=(600, 3600)) as blocks:
        wire(layout(), blocks)
        for function in API:
            gr.api(function, api_name=function.__name__, concurrency_limit=4)
    for event in blocks.fns.values():
        if event.api_name not in {function.__name__ for function in API}:
            event.api_visibility = "private"
    return blocks.queue(max_size=20)


def launch(blocks: gr.Blocks, **options: object) -> tuple[object, str, str]:
    """Serve the page, once what a first merge and answer need is loaded: nothing then competes with the first page."""
    actions.load()
    actions.warm()
    return blocks.launch(
        theme=theme(), css=CSS, mcp_server=True, max_file_size="1mb", run_history=False, ssr_mode=False,
        footer_links=["api", "settings"], app_kwargs={"middleware": [Middleware(OnlyTheApi)]}, **options,
    )  # fmt: skip


if __name__ == "__main__":
    launch(build())
