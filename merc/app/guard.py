"""What stands before gradio: it has many routes, and the page needs few of them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any

from starlette.responses import PlainTextResponse

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

_NEEDED = re.compile(
    r"/|/config|/theme\.css|/favicon\.ico|/manifest\.json|/(?:assets|static|results)/.+"
    r"|/gradio_api/(?:info|app_id|startup-events|upload|upload_progress|queue/join|queue/data|heartbeat/\w+)"
)
_QUESTION = 2**16  # bytes: the largest request that is not an upload
_FORM = 2**16  # bytes: what an upload has besides the file
# The page needs eval for its own templates; nothing can be loaded from, or sent to, another server.
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; media-src 'self' blob:; object-src 'none'; base-uri 'self'; "
    "form-action 'self'; frame-ancestors 'self'"
)
_HEADERS = [
    (b"content-security-policy", _POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
]


class Guard:
    """Lets requests through that the page needs, and none that name a file or an address of the visitor's choice.

    gradio serves files by their path, fetches addresses that a request names, and copies files that are named in the
    place of an upload. None of that comes through: routes that the page does not use are not found, and a request may
    name uploaded files only.

    Args:
        app: What is guarded.
        is_upload: Whether a path is that of an uploaded file.
        max_size: Bytes of the largest upload.
        max_size_told: The same for readers.
        room: Takes room for so many bytes while inside, if there is any.
    """

    def __init__(
        self,
        app: ASGIApp,
        is_upload: Callable[[str], bool],
        max_size: int,
        max_size_told: str,
        room: Callable[[int], AbstractAsyncContextManager[bool]],
    ) -> None:
        self.app = app
        self.is_upload = is_upload
        self.max_size = max_size
        self.max_size_told = max_size_told
        self.room = room

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or pass it on."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start" and not scope["path"].startswith("/results/"):
                message = {**message, "headers": [*message["headers"], *_HEADERS]}
            await send(message)

        refusal = self._refusal(scope)
        if refusal is None and _is_an_upload(scope):
            async with self.room(int(_length(scope))) as granted:
                full = PlainTextResponse("There is no room left for this file on the server.", 507)
                await (self.app if granted else full)(scope, receive, send_with_headers)
            return
        if refusal is None and scope["method"] == "POST":
            body = await _body(receive)
            refusal = self._refusal_of_body(body)
            receive = _replayed(body, receive)
        await (refusal or self.app)(scope, receive, send_with_headers)

    def _refusal(self, scope: Scope) -> PlainTextResponse | None:
        if not _NEEDED.fullmatch(scope["path"]):
            return PlainTextResponse("There is no such page.", 404)
        if _is_an_upload(scope):
            length = _length(scope)
            if not length.isdigit():
                return PlainTextResponse("An upload must tell its length.", 411)
            if int(length) > self.max_size + _FORM:
                return PlainTextResponse(f"The file is too large: expected at most {self.max_size_told}.", 413)
        return None

    def _refusal_of_body(self, body: bytes | None) -> PlainTextResponse | None:
        if body is None:
            return PlainTextResponse("The request is too large.", 413)
        try:
            named = list(_paths(json.loads(body or b"null")))
        except (ValueError, RecursionError):
            return PlainTextResponse("The request is no JSON.", 400)
        if not all(isinstance(path, str) and self.is_upload(path) for path in named):
            return PlainTextResponse("A request may name uploaded files only.", 403)
        return None


def _is_an_upload(scope: Scope) -> bool:
    return bool(scope["method"] == "POST" and scope["path"] == "/gradio_api/upload")


def _length(scope: Scope) -> bytes:
    """The bytes of a request, as it says; empty if it does not."""
    return bytes(dict(scope["headers"]).get(b"content-length", b""))


def _paths(value: Any) -> list[Any]:  # noqa: ANN401 - JSON
    """Everything in a request that stands for a file."""
    if isinstance(value, list):
        return [path for part in value for path in _paths(part)]
    if isinstance(value, dict):
        return [*([value["path"]] if "path" in value else []), *_paths(list(value.values()))]
    return []


async def _body(receive: Receive) -> bytes | None:
    """The whole request; ``None`` if it is too large."""
    body: bytes = b""
    while True:
        message = await receive()
        body += bytes(message.get("body", b""))
        if len(body) > _QUESTION:
            return None
        if not message.get("more_body", False):
            return body


def _replayed(body: bytes | None, receive: Receive) -> Receive:
    """Gives a request again that was read, and then what comes after it."""
    parts = [body or b""]

    async def again() -> Message:
        return {"type": "http.request", "body": parts.pop()} if parts else await receive()

    return again
