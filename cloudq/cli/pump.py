"""`cloudq pump`: the forwarding of long delays alone, where workers are not always up."""

from __future__ import annotations

import logging

import click

from cloudq.app import CloudQ
from cloudq.cli.loading import APP
from cloudq.errors import ConfigError
from cloudq.opening import facts_at


@click.command()
@click.argument("app", type=APP)
@click.option("--queue", "-q", "queue_names", multiple=True, help="Pump this queue; may be given often. Default: all.")
def pump(app: CloudQ, queue_names: tuple[str, ...]) -> None:
    """Forward delayed tasks when they are due, and run none, until SIGTERM or Ctrl-C.

    For providers whose own delay is short (`cloudq explain` tells), where workers scale to zero. A worker pumps by itself.
    """
    from cloudq.worker.process import plan, serve

    found = [facts_at(app.url_of(name)) for name in queue_names or app.queue_names()]
    if all(facts is not None and facts.limits.send_delay == float("inf") for facts in found):
        raise ConfigError("there is nothing to pump: the provider of these queues delays for any time by itself.")
    logging.basicConfig(level="INFO", format="%(asctime)s %(process)d %(levelname)-7s %(message)s")
    serve(app, plan(app, queue_names, pump_only=True))
