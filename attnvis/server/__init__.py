"""Photos uploaded from a browser on this machine in, explorers out."""

from attnvis.server.jobs import JobQueue, Upload
from attnvis.server.web import Limits, PhotoServer

__all__ = ["JobQueue", "Limits", "PhotoServer", "Upload"]
