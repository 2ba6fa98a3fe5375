"""`cloudq emulate`: a provider's stand-in on this machine, for any client of that provider."""

from __future__ import annotations

from importlib.metadata import entry_points

import click

from cloudq.errors import CloudQError, ConfigError, MissingAdapter, nearest


@click.command()
@click.argument("provider")
@click.option("--port", type=click.IntRange(1, 65535), required=True, help="On 127.0.0.1.")
def emulate(provider: str, port: int) -> None:
    """Run the emulator of PROVIDER, in memory, until Ctrl-C. What it does not imitate stands in its module's docstring."""
    emulators = {entry.name: entry for entry in entry_points(group="cloudq.emulators")}
    if provider not in emulators:
        raise ConfigError(f"there is no emulator of {provider!r}.{nearest(provider, emulators)}")
    try:
        serve = emulators[provider].load()
    except ModuleNotFoundError as error:
        raise MissingAdapter(
            f"the emulator of {provider!r} needs {error.name!r}, which is not installed: "
            f"pip install 'cloudq-tasks[emulators]', or '.[emulators]' in the clone."
        ) from error
    click.echo(f"127.0.0.1:{port}: in memory, ends with Ctrl-C and forgets everything", err=True)
    try:
        serve(port)
    except OverflowError as error:
        raise CloudQError(
            f"--port {port}: this emulator listens on a second port, and there is none for it. Choose another."
        ) from error
    except OSError as error:
        raise CloudQError(
            f"127.0.0.1:{port} cannot be had: {error.strerror}. Another process has it; choose another --port."
        ) from error
