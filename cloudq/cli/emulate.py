"""`cloudq emulate`: a provider's stand-in on this machine, for any client of that provider."""

from __future__ import annotations

from importlib.metadata import entry_points

import click

from cloudq.errors import CloudQError, ConfigError, nearest


@click.command()
@click.argument("provider")
@click.option("--port", type=click.IntRange(1, 65535), required=True, help="On 127.0.0.1.")
def emulate(provider: str, port: int) -> None:
    """Run the emulator of PROVIDER, in memory, until Ctrl-C. What it does not imitate stands in its module's docstring."""
    emulators = {entry.name: entry for entry in entry_points(group="cloudq.emulators")}
    if provider not in emulators:
        raise ConfigError(f"there is no emulator of {provider!r}.{nearest(provider, emulators)}")
    serve = emulators[provider].load()
    click.echo(f"127.0.0.1:{port}: in memory, ends with Ctrl-C and forgets everything", err=True)
    try:
        serve(port)
    except OSError as error:
        raise CloudQError(
            f"127.0.0.1:{port} cannot be had: {error.strerror}. Another process has it; choose another --port."
        ) from error
