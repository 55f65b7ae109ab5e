"""A server of `merc app` in a thread."""

import socket
import threading
import time
from contextlib import contextmanager

from merc.app import make_app


@contextmanager
def served(runs, settings):
    """The address of a server, while inside; its runs are deleted at the end."""
    import uvicorn  # of gradio, which not everybody has

    app = make_app(settings, runs)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        try:
            while not server.started:
                time.sleep(0.01)
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(timeout=30)
            runs.close(keep=False)
