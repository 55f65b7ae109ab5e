"""The server of the page."""

from __future__ import annotations

import errno
import logging
import os
import socket
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from merc.app.runs import AppError, Runs, as_bytes

if TYPE_CHECKING:
    from fastapi import FastAPI

MODELS = ("default", "text-meld")
"""The models that come with merc."""

_LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class AppSettings:
    """What a server of the page is given.

    Args:
        models: Names of models that come with merc, and folders of others; visitors choose among these.
        host: Where it listens. Anything but ``127.0.0.1`` lets other machines in.
        port: Likewise; 0 takes a free one.
        max_size: The largest upload, such as ``2GB``.
        max_total: All uploads and results of all visitors together: beyond it nothing new is taken.
        work: Keeps recordings and results. Default: a temporary folder, deleted at the end.
        jobs: How many recordings are annotated at a time; others wait.
    """

    models: Sequence[str] = MODELS
    host: str = "127.0.0.1"
    port: int = 7860
    max_size: str = "2GB"
    max_total: str = "50GB"
    work: Path | None = None
    jobs: int = 1

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        as_bytes(self.max_size)
        as_bytes(self.max_total)
        if not self.models:
            raise AppError("There is no model to choose: expected --model with one or more.")
        if not 0 <= self.port < 2**16:
            raise AppError(f"port is {self.port}: expected 0 to 65535, where 0 takes a free one.")
        if self.jobs < 1:
            raise AppError(f"jobs is {self.jobs}: expected 1 or more recordings at a time.")
        for model in self.models:
            if model not in MODELS and not Path(model).is_dir():
                raise AppError(
                    f"There is no model {model}: expected {', '.join(MODELS)}, a folder of `merc export`, or one of "
                    "`merc run`."
                )


def make_app(settings: AppSettings, runs: Runs) -> FastAPI:
    """The page and its results, as an application for any ASGI server.

    Args:
        settings: The settings.
        runs: Holds the runs; its folder of uploads is the one that the page uses.

    Raises:
        ImportError: gradio is missing.
    """
    # Read by gradio: it asks its makers' server for its version and tells it of its use, unless told otherwise.
    os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_TEMP_DIR": str(runs.uploads)}
    try:
        import gradio
    except ImportError as error:
        raise ImportError("The page needs gradio: pip install 'merc[app]'.") from error
    from fastapi import FastAPI, HTTPException
    from fastapi.responses import FileResponse
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    from merc.app.guard import Guard
    from merc.app.page import STYLE, make_page, theme

    app = FastAPI(openapi_url=None)

    @app.get("/results/{token}/{name}")
    async def result(token: str, name: str) -> FileResponse:
        try:
            path = await runs.find(token, name)
        except OSError as error:  # of the file with all results, which is made when it is asked for
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise HTTPException(507, "There is no room left for this file on the server.") from error
            logging.getLogger("uvicorn.error").exception("A file of the results cannot be given.")
            raise HTTPException(
                500, "The server cannot give this file: its owner finds the reason in its log."
            ) from error
        if path is None:
            raise HTTPException(404, "There is no such result.")
        shown = name in ("annotation.html", "annotated.mp4")
        headers = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"}
        if name == "annotation.html":  # as in the frame of the page: it may not act for the visitor
            headers["Content-Security-Policy"] = "sandbox allow-scripts"
        return FileResponse(
            path, filename=name, content_disposition_type="inline" if shown else "attachment", headers=headers
        )

    gradio.mount_gradio_app(
        app,
        make_page(runs, settings.max_size),
        path="/",
        server_name=settings.host,
        footer_links=[],
        run_history=False,
        pwa=False,
        ssr_mode=False,
        mcp_server=False,
        enable_monitoring=False,
        show_error=True,
        max_file_size=as_bytes(settings.max_size),
        theme=theme(),
        css=STYLE,
    )
    app.add_middleware(
        Guard,
        is_upload=runs.is_upload,
        max_size=as_bytes(settings.max_size),
        max_size_told=settings.max_size,
        room=runs.room,
    )
    if settings.host in _LOOPBACK:  # a page elsewhere whose name points here is not let in
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost", "[::1]"])
    return app


def serve(settings: AppSettings) -> None:
    """Serve the page until Ctrl-C.

    Args:
        settings: The settings.

    Raises:
        ImportError: gradio is missing.
        AppError: Nobody can listen at this host and port.
    """
    folder = Path(tempfile.mkdtemp(prefix="merc-app-")) if settings.work is None else settings.work
    models = {name: name if name in MODELS else str(Path(name).resolve()) for name in settings.models}
    runs = Runs(folder, models, settings.jobs, as_bytes(settings.max_total))
    try:
        app = make_app(settings, runs)
        import uvicorn

        class Server(uvicorn.Server):
            async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
                logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # pages that are open are no error
                await super().shutdown(sockets)

        with _listening(settings.host, settings.port) as listener:
            port = listener.getsockname()[1]
            at = f"[{settings.host}]" if ":" in settings.host else settings.host
            print(f"http://{at}:{port}", flush=True)
            if settings.host not in _LOOPBACK:
                print(
                    f"Warning: {settings.host} lets other machines in, and there is no password: everybody who reaches "
                    "this port can annotate.",
                    flush=True,
                )
            ends = "deletes all uploads and results" if settings.work is None else f"keeps the results in {folder}"
            print(f"Ctrl-C stops the server and {ends}.", flush=True)
            config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1)
            Server(config).run(sockets=[listener])
    finally:
        runs.close(keep=settings.work is not None)


def _listening(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen()  # a browser that comes before all is ready waits, and is not refused
    except OSError as error:
        listener.close()
        raise AppError(f"Nobody can listen at {host}, port {port} ({error.strerror}): pass another --port.") from error
    return listener
