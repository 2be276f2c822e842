"""Every command, in the order in which help shows them.  A new one: its file, its yaml, its line here."""

from attnvis.cli.commands import (
    backbones,
    cache,
    calibrate,
    evaluate,
    explore,
    export,
    redraw,
    run,
    serve,
    status,
    sweep,
    video,
    why,
)

__all__ = ["COMMANDS"]

COMMANDS = {
    command.name: command
    for command in (
        run.COMMAND,
        sweep.COMMAND,
        evaluate.COMMAND,
        explore.COMMAND,
        why.COMMAND,
        serve.COMMAND,
        redraw.COMMAND,
        export.COMMAND,
        status.COMMAND,
        cache.COMMAND,
        backbones.COMMAND,
        calibrate.COMMAND,
        video.COMMAND,
    )
}
