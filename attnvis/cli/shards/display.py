"""How far a run in shards is, said on one line of a terminal, as a line a minute elsewhere, and at W&B."""

import sys
import time
from typing import TYPE_CHECKING

from attnvis.cli.messages import note

if TYPE_CHECKING:
    from attnvis.pipeline.shards.merge import ShardTracker
    from attnvis.pipeline.shards.progress import Board

__all__ = ["Display"]

WITHOUT_A_TERMINAL = 60.0  # seconds between two lines
TO_WANDB = 30.0


class Display:
    """Says how far a run is: on one line of a terminal, as a line a minute elsewhere, and at W&B."""

    def __init__(self, board: "Board", tracker: "ShardTracker") -> None:
        self.board, self.tracker = board, tracker
        self.is_terminal = sys.stderr.isatty()
        self.shown = self.said = self.sent = time.monotonic()

    def show(self, last: bool = False) -> None:
        """At most once a second; last: for good, and the line of the terminal is wiped."""
        now = time.monotonic()
        if now - self.shown < 1 and not last:
            return
        self.shown = now
        progress = self.board.read()
        if self.is_terminal:
            print(f"\r\033[K{progress}", end="" if not last else "\r\033[K", file=sys.stderr, flush=True)
        elif now - self.said > WITHOUT_A_TERMINAL:
            self.said = now
            note(str(progress))
        if now - self.sent > TO_WANDB or last:
            self.sent = now
            self.tracker.log_numbers(progress.numbers)

    def say(self, text: str) -> None:
        """A line above the one that shows how far it is."""
        if self.is_terminal:
            print("\r\033[K", end="", file=sys.stderr)
        note(text)
