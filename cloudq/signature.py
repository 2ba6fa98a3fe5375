"""A task's signature as the schema of its message: arguments are checked where they are written and again where they arrive.

Both sides convert by the annotations, so a `datetime` or a dataclass that goes in comes out as one. The codec is msgspec,
kept behind this file and `envelope`: the wire stays plain JSON. Values of pydantic models are taken through their own
`model_dump` and `model_validate`, without importing pydantic.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import msgspec

from cloudq.context import Context
from cloudq.errors import ArgumentsError, ConfigError

#: What people write as an argument of `enqueue` when they mean an option.
_OPTIONS = ("delay", "at", "priority", "expires", "ordering_key", "task_id")


class Signature:
    """Binds, encodes and decodes the arguments of one task function."""

    def __init__(self, function: Callable[..., Any], name: str) -> None:
        """ConfigError for a signature that cannot travel."""
        self._function = function
        self._name = name
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise ConfigError(f"the task {name} is a generator: nothing would run it. Write a function without `yield`.")
        parameters = list(inspect.signature(function).parameters.values())
        first = parameters[0] if parameters else None
        if first is not None and first.name in ("ctx", "context") and first.annotation is inspect.Parameter.empty:
            raise ConfigError(
                f"the task {name} takes {first.name!r} without an annotation. For the task's context write "
                f"{first.name}: Context; an argument of this name needs its own annotation."
            )
        self.takes_context = bool(parameters) and _is_context(parameters[0].annotation)
        self._parameters = parameters[1:] if self.takes_context else parameters
        for parameter in self._parameters:
            if parameter.kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD):
                raise ConfigError(
                    f"the task {name} takes {parameter}: a message names each argument. Declare them one by one, or take "
                    f"one list or dict."
                )
            if _is_context(parameter.annotation):
                raise ConfigError(f"the task {name} takes its Context as {parameter.name!r}: it must be the first parameter.")
        self._bindable = inspect.Signature(self._parameters)
        self._encoder = msgspec.json.Encoder(enc_hook=_encode_hook)

    @cached_property
    def _decoder(self) -> msgspec.json.Decoder[msgspec.Struct]:
        # Not at declaration: annotations may name classes that are defined further down.
        try:
            hints = typing.get_type_hints(self._function, include_extras=True)
        except NameError as error:
            raise ConfigError(
                f"the task {self._name} has an annotation that cannot be read at run time: {error}. Import the name "
                f"outside of `if TYPE_CHECKING`."
            ) from error
        fields: list[tuple[str, Any, Any]] = []
        for parameter in self._parameters:
            kind = hints.get(parameter.name, Any)
            optional = parameter.default is not inspect.Parameter.empty
            # A default is applied where the task runs, so that a message holds what its sender wrote and no more.
            fields.append(
                (parameter.name, kind | msgspec.UnsetType, msgspec.UNSET)
                if optional and kind is not Any
                else (parameter.name, Any, msgspec.UNSET)
                if optional
                else (parameter.name, kind, msgspec.NODEFAULT)
            )
        try:
            struct = msgspec.defstruct("Arguments", fields, kw_only=True, forbid_unknown_fields=True)
            return msgspec.json.Decoder(struct, dec_hook=_decode_hook)
        except TypeError as error:
            raise ConfigError(f"the arguments of the task {self._name} cannot be written as JSON: {error}") from error

    def prepare(self) -> None:
        """Read the annotations now. ConfigError for one that cannot be read, at a worker's start and not at its first task."""
        _ = self._decoder

    def encode(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bytes:
        """Return the arguments as JSON by name. ArgumentsError when they do not fit the signature."""
        try:
            bound = self._bindable.bind(*args, **kwargs).arguments
        except TypeError as error:
            meant = [name for name in kwargs if name in _OPTIONS and name not in self._bindable.parameters]
            hint = f" For this one enqueue write .options({meant[0]}=...)." if meant else ""
            raise ArgumentsError(f"{self._name}{self._bindable}: {error}.{hint}") from error
        try:
            data = self._encoder.encode(bound)
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise ArgumentsError(f"{self._name}{self._bindable}: an argument cannot be written as JSON: {error}") from error
        # What is sent is what the worker will be able to read: the same decoder says so, here, where the mistake is.
        self.decode(data)
        return data

    def decode(self, data: bytes) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return positional and keyword arguments to call the function with. ArgumentsError when they do not fit."""
        try:
            struct = self._decoder.decode(data)
        except (msgspec.MsgspecError, ValueError, TypeError, RecursionError) as error:
            raise ArgumentsError(f"{self._name}{self._bindable}: {error}") from error
        args: list[Any] = []
        kwargs: dict[str, Any] = {}
        for parameter in self._parameters:
            value = getattr(struct, parameter.name)
            if value is msgspec.UNSET:
                if parameter.kind is inspect.Parameter.POSITIONAL_ONLY:
                    args.append(parameter.default)
                continue
            if parameter.kind is inspect.Parameter.POSITIONAL_ONLY:
                args.append(value)
            else:
                kwargs[parameter.name] = value
        return tuple(args), kwargs

    def by_name(self, data: bytes) -> dict[str, Any]:
        """Return every argument by name, as the function would see it."""
        args, kwargs = self.decode(data)
        bound = self._bindable.bind(*args, **kwargs)
        bound.apply_defaults()
        return dict(bound.arguments)


def _is_context(annotation: object) -> bool:
    if isinstance(annotation, str):
        return annotation.rsplit(".", 1)[-1] == "Context"
    return annotation is Context


def _encode_hook(value: Any) -> Any:
    dump = getattr(value, "model_dump", None)
    if dump is None:
        raise TypeError(f"{type(value).__name__} is not a type that a message can hold")
    return dump(mode="json")


def _decode_hook(kind: type[Any], value: Any) -> Any:
    validate = getattr(kind, "model_validate", None)
    if validate is None:
        raise TypeError(f"{kind.__name__} is not a type that a message can hold")
    return validate(value)
