"""`cloudq health`: asks a worker on this machine, where a platform can only run a command in the container."""

from __future__ import annotations

import sys

import click


@click.command()
@click.option("--port", type=click.IntRange(1, 65535), default=8080, show_default=True, help="The worker's --health-port.")
@click.option("--ready", is_flag=True, help="Ask whether it works on its queues, not only whether it is alive.")
def health(port: int, *, ready: bool) -> None:
    """Exit with 0 when the worker is alive, else with 1 and the reason.

    For images without a shell or curl: HEALTHCHECK CMD ["cloudq", "health"].
    """
    from cloudq.worker.health import LIVE, READY, ask

    wrong = ask(port, READY if ready else LIVE, patience=4.0)
    click.echo(wrong or "ok", err=bool(wrong))
    sys.exit(1 if wrong else 0)
