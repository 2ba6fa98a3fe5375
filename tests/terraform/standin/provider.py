"""A stand-in for a Terraform provider: aws, google or azurerm, by the name under which it is started.

It knows the argument names, types and flags of the real one from schemas/*.json, checks what the tables in `known.py` add, and
applies what `live.py` can reach: queues on a local server. Everything else it only remembers. It does not imitate the real
provider's validation beyond those tables, its waiting, its diffs of equal values, or anything that the cloud's API refuses.

Terraform starts it as a plugin; it runs in an environment of its own (`make standin`).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Beside this file: whoever starts it has put the directory on the path.
import known
import live
import tf.provider
from msgpack import ExtType
from tf.gen import tfplugin_pb2 as pb
from tf.gen import tfplugin_pb2_grpc as rpc
from tf.runner import run_provider
from tf.types import Unknown
from tf.utils import read_dynamic_value, to_dynamic_value

HERE = Path(__file__).resolve().parent
NESTING = {"single": 1, "list": 2, "set": 3, "map": 4, "group": 5}
State = dict[str, Any]


def schema_of(provider: str) -> dict[str, Any]:
    """Return the provider's part of the document."""
    (only,) = json.loads((HERE / "schemas" / f"{provider}.json").read_text())["provider_schemas"].values()
    return only


def to_schema(raw: dict[str, Any]) -> pb.Schema:
    """Return a schema as the protocol has it."""
    return pb.Schema(version=raw.get("version", 0), block=_block(raw["block"]))


def _block(raw: dict[str, Any]) -> pb.Schema.Block:
    return pb.Schema.Block(
        attributes=[
            pb.Schema.Attribute(
                name=name,
                type=json.dumps(attribute["type"]).encode(),
                required=attribute.get("required", False),
                optional=attribute.get("optional", False),
                computed=attribute.get("computed", False),
                sensitive=attribute.get("sensitive", False),
            )
            for name, attribute in sorted(raw.get("attributes", {}).items())
        ],
        block_types=[
            pb.Schema.NestedBlock(
                type_name=name,
                nesting=NESTING[block["nesting_mode"]],
                min_items=block.get("min_items", 0),
                max_items=block.get("max_items", 0),
                block=_block(block["block"]),
            )
            for name, block in sorted(raw.get("block_types", {}).items())
        ],
    )


def fill(block: dict[str, Any], state: State, value: Callable[[str, Any], Any], missing: object) -> State:
    """Return the state with every computed attribute that is `missing` set to what `value` says of its name and type."""
    filled = dict(state)
    for name, attribute in block.get("attributes", {}).items():
        if attribute.get("computed") and filled.get(name) is missing:
            filled[name] = value(name, attribute["type"])
    for name, nested in block.get("block_types", {}).items():
        inner = filled.get(name)
        if isinstance(inner, list):
            filled[name] = [fill(nested["block"], each, value, missing) for each in inner]
    return filled


def unknown(value: object) -> bool:
    """Say whether it is known only after apply; Terraform may say of such a value what kind it will be."""
    return value is Unknown or isinstance(value, ExtType)


def has_unknown(value: object) -> bool:
    """Say whether a part of it is only known after apply."""
    if isinstance(value, dict):
        return any(has_unknown(each) for each in value.values())
    return any(has_unknown(each) for each in value) if isinstance(value, list) else unknown(value)


class Servicer(rpc.ProviderServicer):
    """The protocol, fed by a schema."""

    def __init__(self, provider: str) -> None:
        """Of this provider."""
        self.provider = provider
        self.schema = schema_of(provider)
        self.live: live.Live = live.Live({})

    def GetMetadata(self, request, context):
        return pb.GetMetadata.Response(server_capabilities=pb.ServerCapabilities(plan_destroy=True))

    def GetProviderSchema(self, request, context):
        return pb.GetProviderSchema.Response(
            provider=to_schema(self.schema["provider"]),
            provider_meta=pb.Schema(block=pb.Schema.Block()),
            resource_schemas={name: to_schema(raw) for name, raw in self.schema["resource_schemas"].items()},
            data_source_schemas={name: to_schema(raw) for name, raw in self.schema["data_source_schemas"].items()},
        )

    def GetFunctions(self, request, context):
        return pb.GetFunctions.Response()

    def ValidateProviderConfig(self, request, context):
        return pb.ValidateProviderConfig.Response()

    def ConfigureProvider(self, request, context):
        self.live = live.Live(read_dynamic_value(request.config) or {})
        return pb.ConfigureProvider.Response()

    def ValidateResourceConfig(self, request, context):
        config = read_dynamic_value(request.config) or {}
        wrong = known.wrong(request.type_name, {key: value for key, value in config.items() if not has_unknown(value)})
        return pb.ValidateResourceConfig.Response(
            diagnostics=[pb.Diagnostic(severity=pb.Diagnostic.ERROR, summary=f"{request.type_name}: {each}") for each in wrong]
        )

    def ValidateDataResourceConfig(self, request, context):
        return pb.ValidateDataResourceConfig.Response()

    def UpgradeResourceState(self, request, context):
        return pb.UpgradeResourceState.Response(upgraded_state=to_dynamic_value(json.loads(request.raw_state.json)))

    def ReadResource(self, request, context):
        state = read_dynamic_value(request.current_state)
        return pb.ReadResource.Response(new_state=to_dynamic_value(self.live.read(request.type_name, state)))

    def PlanResourceChange(self, request, context):
        prior, proposed = read_dynamic_value(request.prior_state), read_dynamic_value(request.proposed_new_state)
        if proposed is None:
            return pb.PlanResourceChange.Response(planned_state=request.proposed_new_state)
        for name, value in known.DEFAULTS.get(request.type_name, {}).items():
            if proposed.get(name) is None:
                proposed[name] = value
        replaced = []
        if prior is None:
            block = self.schema["resource_schemas"][request.type_name]["block"]
            proposed = fill(block, proposed, lambda name, kind: Unknown, None)
        else:
            replaced = [name for name in known.FORCES_NEW.get(request.type_name, ()) if prior.get(name) != proposed.get(name)]
        proposed = known.planned(request.type_name, proposed)
        return pb.PlanResourceChange.Response(
            planned_state=to_dynamic_value(proposed),
            requires_replace=[pb.AttributePath(steps=[pb.AttributePath.Step(attribute_name=name)]) for name in replaced],
            # As the providers do that are written with the older toolkit: defaults may be planned that nobody configured.
            legacy_type_system=True,
        )

    def ApplyResourceChange(self, request, context):
        prior, planned = read_dynamic_value(request.prior_state), read_dynamic_value(request.planned_state)
        kind = request.type_name
        if planned is None:
            self.live.delete(kind, prior)
            return pb.ApplyResourceChange.Response(new_state=request.planned_state)
        block = self.schema["resource_schemas"][kind]["block"]
        known_now = self.live.update(kind, prior, planned) if prior else self.live.create(kind, planned)
        state = fill(block, {**planned, **known_now}, lambda name, each: known.invented(kind, name, each, planned), Unknown)
        return pb.ApplyResourceChange.Response(new_state=to_dynamic_value(state), legacy_type_system=True)

    def ImportResourceState(self, request, context):
        return pb.ImportResourceState.Response(
            diagnostics=[pb.Diagnostic(severity=pb.Diagnostic.ERROR, summary="the stand-in imports nothing")]
        )

    def ReadDataSource(self, request, context):
        config = read_dynamic_value(request.config) or {}
        return pb.ReadDataSource.Response(state=to_dynamic_value(self.live.data(request.type_name, config)))

    def StopProvider(self, request, context):
        return pb.StopProvider.Response()


class _Named:
    """What the runner asks a provider for."""

    def __init__(self, provider: str) -> None:
        self.provider = provider

    def full_name(self) -> str:
        return f"registry.terraform.io/hashicorp/{self.provider}"


def main(name: str) -> None:
    """Be that provider until Terraform ends it."""
    tf.provider.ProviderServicer = lambda provider: Servicer(provider.provider)  # the package's own has no list blocks
    run_provider(_Named(name), sys.argv)
