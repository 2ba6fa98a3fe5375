"""`cloudq worker`."""

from __future__ import annotations

import logging
import os
import shlex
import signal
import sys
from pathlib import Path

import click

from cloudq.app import CloudQ
from cloudq.cli.loading import APP
from cloudq.clock import SystemClock
from cloudq.config import origin
from cloudq.errors import ConfigError, nearest
from cloudq.infra import stale


@click.command()
@click.argument("app", type=APP)
@click.option("--queue", "-q", "queue_names", multiple=True, help="Work on this queue; may be given often. Default: all.")
@click.option("--concurrency", "-c", type=click.IntRange(1), help="Tasks at once, per process. Default: 10, or the settings.")
@click.option("--processes", "-p", type=click.IntRange(1), help="Worker processes. Default: 1, or the settings.")
@click.option(
    "--health-port", type=click.IntRange(1, 65_000), help="Answer /livez and /readyz here. Default: not, or the settings."
)
@click.option("--burst", is_flag=True, help="End when the queues are empty. What is delayed stays.")
@click.option("--reload", "reloading", is_flag=True, help="Start anew when a Python file here changes: for development.")
@click.option(
    "--log-level",
    default="INFO",
    show_default=True,
    type=click.Choice(["DEBUG", "INFO", "WARNING", "ERROR"], case_sensitive=False),
    help="Level of the log on standard error.",
)
def worker(
    app: CloudQ,
    queue_names: tuple[str, ...],
    concurrency: int | None,
    processes: int | None,
    health_port: int | None,
    *,
    burst: bool,
    reloading: bool,
    log_level: str,
) -> None:
    """Run tasks until SIGTERM or Ctrl-C; a second one ends at once.

    The first signal drains: nothing new is started, running tasks have the grace (worker.grace), the rest is given back.
    """
    if sys.platform == "win32":
        raise click.UsageError("a worker needs signals and pipes as Linux and macOS have them; enqueue from Windows instead.")
    from cloudq.worker.process import SUPERVISED, WORKER_INDEX, plan, serve
    from cloudq.worker.supervisor import Supervisor

    logging.basicConfig(level=log_level.upper(), format="%(asctime)s %(process)d %(levelname)-7s %(message)s")
    work = plan(app, queue_names, concurrency, burst=burst)
    unused = set(app.settings.queues) - set(app.declared.queues())
    for name in sorted(unused) if app.declared.queues() else ():
        click.echo(
            f"no task is declared on the queue {name!r} of the settings.{nearest(name, app.declared.queues())}", err=True
        )
    count = processes or app.settings.worker.processes
    port = health_port or app.settings.worker.health_port
    if not SUPERVISED:
        urls = ", ".join(sorted({app.url_of(queue) for queue in work.queues}))
        click.echo(
            f"cloudq worker on {urls}: queues {', '.join(work.queues)}; {count} process(es) x {work.concurrency} = "
            f"{count * work.concurrency} tasks at once; grace {work.grace:g} s{f'; health at port {port}' if port else ''}; "
            f"settings: {origin()}",
            err=True,
        )
        served = [name for name in work.queues if app.settings.queue(name).serverless is not None]
        if served:
            click.echo(f"warning: declared for a function, and worked on here too: {', '.join(served)}", err=True)
        for told in stale(app, os.environ, Path.cwd()):
            click.echo(f"warning: {told}", err=True)
    if reloading:
        _reload(work.grace)
        return
    if count == 1:
        # A child of a supervisor has a port of its own, behind the one that the supervisor answers at.
        serve(app, work, port + 1 + int(os.environ.get(WORKER_INDEX, "0")) if port and SUPERVISED else port)
        return
    command = [sys.executable, "-m", "cloudq", *_without_processes(sys.argv[1:]), "--processes", "1"]
    sys.exit(Supervisor(command, count, SystemClock(), port).run())


def _reload(grace: float) -> None:
    """Run the same command below this one, and again at each change."""
    try:
        import watchfiles
    except ModuleNotFoundError as error:
        raise ConfigError("--reload needs watchfiles: pip install 'cloudq-tasks[reload]'") from error
    # A shell that starts a job in the background has it ignore Ctrl-C: a signal that is sent on purpose must end it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    command = shlex.join([sys.executable, "-m", "cloudq", *(text for text in sys.argv[1:] if text != "--reload")])
    watchfiles.run_process(
        Path.cwd(),
        target=command,
        target_type="command",
        watch_filter=watchfiles.PythonFilter(),
        callback=lambda changes: click.echo(f"changed: {', '.join(sorted(path for _, path in changes))}", err=True),
        # Running tasks have their grace here too; what is killed after it comes back with its lease.
        sigint_timeout=int(grace) + 5,
        sigkill_timeout=5,
    )


def _without_processes(arguments: list[str]) -> list[str]:
    kept: list[str] = []
    skip = False
    for argument in arguments:
        if skip:
            skip = False
        elif argument in ("--processes", "-p"):
            skip = True
        elif not argument.startswith(("--processes=", "-p")):
            kept.append(argument)
    return kept
