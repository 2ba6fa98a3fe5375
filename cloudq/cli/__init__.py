"""The command line. Exit codes: 0 good, 1 failed, 2 wrong usage or settings, 3 a finding."""

from __future__ import annotations

import sys
from importlib.metadata import version

import click

from cloudq.cli.check import check
from cloudq.cli.dlq import dlq
from cloudq.cli.doctor import doctor
from cloudq.cli.emulate import emulate
from cloudq.cli.enqueue import enqueue
from cloudq.cli.explain import explain
from cloudq.cli.health import health
from cloudq.cli.infra import infra
from cloudq.cli.pump import pump
from cloudq.cli.queues import queues
from cloudq.cli.worker import worker
from cloudq.errors import ArgumentsError, CloudQError, ConfigError


class _Group(click.Group):
    """Turns cloudq's errors into a sentence and an exit code; a traceback would tell a user nothing more."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except (ConfigError, ArgumentsError) as error:
            click.echo(f"cloudq: {error}", err=True)
            sys.exit(2)
        except CloudQError as error:
            click.echo(f"cloudq: {error}", err=True)
            sys.exit(1)


@click.group("cloudq", cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(version("cloudq-tasks"), prog_name="cloudq")
def main() -> None:
    """One task queue over managed cloud queues.

    APP is where your application is: module:attribute, importable from the working directory.
    """


@main.command()
@click.option("--keep", is_flag=True, help="Keep the folder with the queue, the ledger and the workers' logs.")
def demo(keep: bool) -> None:  # noqa: FBT001  click passes a flag
    """See real work done: a census of Python's standard library, with a crash in the middle.

    CLOUDQ_URL chooses where it runs; by default, a SQLite file in a temporary folder.
    """
    from cloudq.demo.show import run

    sys.exit(run(keep=keep))


@main.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script of a shell, e.g. for ~/.bashrc: eval "$(cloudq completion bash)"."""
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None, "the choice above names those that click has"
    click.echo(kind(main, {}, "cloudq", "_CLOUDQ_COMPLETE").source())


main.add_command(worker)
main.add_command(enqueue)
main.add_command(queues)
main.add_command(dlq)
main.add_command(check)
main.add_command(doctor)
main.add_command(explain)
main.add_command(infra)
main.add_command(health)
main.add_command(pump)
main.add_command(emulate)
