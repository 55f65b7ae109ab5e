"""A local web page: drop a film, watch its annotation grow, look at the timeline and download everything."""

from merc.app.runs import AppError, Run, Runs, Step, as_bytes
from merc.app.server import AppSettings, make_app, serve

__all__ = ["AppError", "AppSettings", "Run", "Runs", "Step", "as_bytes", "make_app", "serve"]
