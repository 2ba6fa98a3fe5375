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
from cloudq.errors import ArgumentsError, ConfigError, nearest

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
        self.takes_context: bool = bool(parameters) and _is_context(parameters[0].annotation)
        self._parameters = parameters[1:] if self.takes_context else parameters
        for parameter in self._parameters:
            if parameter.kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD):
                raise ConfigError(
                    f"the task {name} takes {_written(parameter)}: a message names each argument. Declare them one by one, or "
                    f"take one list or dict."
                )
            if _is_context(parameter.annotation):
                raise ConfigError(f"the task {name} takes its Context as {parameter.name!r}: it must be the first parameter.")
        self._unannotated = [p.name for p in self._parameters if p.annotation in (inspect.Parameter.empty, Any, "Any")]
        self._bindable = inspect.Signature(self._parameters)
        self._shown = f"{name}({', '.join(_written(parameter) for parameter in self._parameters)})"
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
            unknown = [name for name in kwargs if name not in self._bindable.parameters]
            if unknown and not meant:
                close = nearest(unknown[0], self._bindable.parameters)
                raise ArgumentsError(f"{self._shown}: there is no argument {unknown[0]!r}.{close}") from error
            hint = f" For this one enqueue write .options({meant[0]}=...)." if meant else ""
            raise ArgumentsError(f"{self._shown}: {error}.{hint}") from error
        try:
            data = self._encoder.encode(bound)
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise ArgumentsError(f"{self._shown}: an argument cannot be written as JSON: {error}") from error
        # What is sent is what the worker will be able to read: the same decoder says so, here, where the mistake is.
        try:
            arrives = self._decoder.decode(data)
        except (msgspec.MsgspecError, ValueError, TypeError, RecursionError) as error:
            raise ArgumentsError(f"{self._shown}: {self._wrong(bound, error)}") from error
        for name in self._unannotated:
            if name in bound and getattr(arrives, name) != bound[name]:
                raise ArgumentsError(
                    f"{self._shown}: {name} = {_short(bound[name])} would arrive as "
                    f"{_short(getattr(arrives, name))}, because it has no annotation to be read by. Write {name}: "
                    f"{type(bound[name]).__name__}."
                )
        return data

    def _wrong(self, bound: Mapping[str, Any], error: Exception) -> str:
        """Name the argument that does not fit, with its value."""
        for name, value in bound.items():
            try:
                kind = typing.get_type_hints(self._function, include_extras=True).get(name, Any)
                msgspec.json.decode(self._encoder.encode(value), type=kind, dec_hook=_decode_hook)
            except (msgspec.MsgspecError, ValueError, TypeError, RecursionError) as own:
                return f"{name} = {_short(value)} does not fit: {own}"
        return str(error)

    def decode(self, data: bytes) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return positional and keyword arguments to call the function with. ArgumentsError when they do not fit."""
        try:
            struct = self._decoder.decode(data)
        except (msgspec.MsgspecError, ValueError, TypeError, RecursionError) as error:
            raise ArgumentsError(f"{self._shown}: {error}") from error
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


def _written(parameter: inspect.Parameter) -> str:
    """Return a parameter as its author wrote it: an annotation that is a string comes without quotes."""
    kind, default = parameter.annotation, parameter.default
    annotated = "" if kind is parameter.empty else f": {kind if isinstance(kind, str) else inspect.formatannotation(kind)}"
    stars = "*" if parameter.kind is parameter.VAR_POSITIONAL else "**" if parameter.kind is parameter.VAR_KEYWORD else ""
    return f"{stars}{parameter.name}{annotated}" + ("" if default is parameter.empty else f" = {default!r}")


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


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
