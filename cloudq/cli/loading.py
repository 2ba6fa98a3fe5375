"""From `module:attribute` to the application; `module` alone is enough where it has one."""

from __future__ import annotations

import importlib
import sys
import traceback
from pathlib import Path

import click

from cloudq.app import CloudQ
from cloudq.errors import ConfigError, nearest


def load(where: str) -> CloudQ:
    """Import the module, with the working directory importable, and return its application."""
    name, _, attribute = where.partition(":")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    if name.endswith(".py"):
        dotted = name.removesuffix(".py").strip("./").replace("/", ".")
        raise ConfigError(f"{where!r} is a file. APP is written module:attribute: {dotted}:{attribute or 'app'}.")
    try:
        module = importlib.import_module(name)
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and error.name is not None and f"{name}.".startswith(f"{error.name}."):
            raise ConfigError(
                f"there is no module {name!r} to import from {Path.cwd()}. APP is written module:attribute."
            ) from error
        raise ConfigError(f"importing {name} failed: {type(error).__name__}: {error}\n{_own_frames(error)}") from error
    if not attribute:
        found = [key for key, value in vars(module).items() if isinstance(value, CloudQ)]
        if len(found) != 1:
            raise ConfigError(f"{name} has {len(found)} applications: write {name}:{found[0] if found else 'app'}.")
        attribute = found[0]
    app = getattr(module, attribute, None)
    if not isinstance(app, CloudQ):
        known = [key for key, value in vars(module).items() if isinstance(value, CloudQ)]
        raise ConfigError(f"{where} is not a CloudQ application.{nearest(attribute, known)}")
    return app


class AppType(click.ParamType[CloudQ]):
    """An argument that is an application."""

    name = "app"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> CloudQ:  # noqa: ARG002  click's signature
        """Load it."""
        return value if isinstance(value, CloudQ) else load(str(value))


APP = AppType()


def _own_frames(error: Exception) -> str:
    """Return the traceback without the frames of this command and of the import machinery: the user's are the news."""
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if "importlib" not in frame.filename and Path(frame.filename).parent != Path(__file__).parent
    ]
    return "".join(traceback.format_list(frames)).rstrip()
