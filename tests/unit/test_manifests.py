"""Manifests are what their platforms take: held against published schemas, and the models of the vendors' own SDKs."""

from __future__ import annotations

import json
import math
from pathlib import Path

import botocore.session
import jsonschema
import kubernetes_validate
import pytest
from azure.mgmt.appcontainers import models as containerapps
from azure.mgmt.appcontainers._utils.serialization import Deserializer, Serializer
from botocore.model import ServiceModel
from botocore.validate import ParamValidator
from click.testing import CliRunner
from google.cloud import run_v2
from google.protobuf import json_format

from cloudq import CloudQ, ConfigError
from cloudq.cli import main
from cloudq.manifests import manifests, platforms, workload
from support.scaling import wanted

SCHEMAS = Path(__file__).parents[1] / "schemas/keda"
KUBERNETES = "1.33"
URLS = {
    "sqs": "sqs://eu-west-1?account=123456789012&prefix=live-",
    "pubsub": "pubsub://my-project",
    "servicebus": "servicebus://my-namespace",
}
OWN = {"ecs": "sqs", "cloud-run": "pubsub", "container-apps": "servicebus"}
QUEUES = {
    "mail": {"priorities": ["high", "normal"], "scale": {"backlog": 20, "minimum": 1, "maximum": 30}},
    "reports": {"scale": {"backlog": 2, "maximum": 30}},
    "thumbs": {"lease": "2m", "serverless": {"timeout": "20s"}},
}


def shop(url, **queues):
    app = CloudQ(url, namespace="shop", queues=queues or QUEUES)

    @app.task(queue="mail")
    def send(to: str) -> None: ...

    return app


def written(scheme, platform, **queues):
    work = workload(shop(URLS[scheme], **queues), image="registry/shop:1", command=["cloudq", "worker", "shop:app"])
    return manifests(work, platform)


def kinds(scheme):
    return {item["kind"]: item for item in written(scheme, "kubernetes")["kubernetes.json"]["items"]}


# Kubernetes and KEDA ------------------------------------------------------------------------------------------------------


def closed(schema):
    """Refuse fields that a schema does not name, as the API server drops them without a word."""
    if isinstance(schema, dict):
        if "properties" in schema and not schema.get("x-kubernetes-preserve-unknown-fields"):
            schema.setdefault("additionalProperties", False)
        for value in schema.values():
            closed(value)
    elif isinstance(schema, list):
        for value in schema:
            closed(value)
    return schema


def errors_of(kind, document):
    schema = closed(json.loads((SCHEMAS / f"{kind.lower()}_v1alpha1.json").read_text()))
    return [error.message for error in jsonschema.Draft202012Validator(schema).iter_errors(document)]


def wrong_metadata(trigger):
    """What KEDA itself finds only when it runs: keys that a scaler does not know, and those that it needs."""
    scalers = {each["type"]: each["parameters"] for each in json.loads((SCHEMAS / "scalers.json").read_text())["scalers"]}
    known = {each["name"]: each for each in scalers[trigger["type"]]}
    given = trigger["metadata"]
    unknown = [name for name in given if name not in known and name.removesuffix("FromEnv") not in known]
    needed = [each for each in known.values() if not each.get("optional") and "default" not in each]
    elsewhere = "triggerAuthenticationVariableReadable"
    missing = [each["name"] for each in needed if each["name"] not in given and not each.get(elsewhere)]
    return unknown + missing


@pytest.mark.parametrize("scheme", URLS)
def test_kubernetes_takes_them(scheme):
    found = kinds(scheme)
    assert set(found) == {"ServiceAccount", "Deployment", "TriggerAuthentication", "ScaledObject"}
    for kind in ("ServiceAccount", "Deployment"):
        kubernetes_validate.validate(found[kind], KUBERNETES, strict=True)
    for kind in ("TriggerAuthentication", "ScaledObject"):
        assert errors_of(kind, found[kind]) == []
    for trigger in found["ScaledObject"]["spec"]["triggers"]:
        assert wrong_metadata(trigger) == []
        assert all(isinstance(value, str) for value in trigger["metadata"].values())


def test_the_schemas_would_find_a_mistake():
    found = kinds("sqs")
    found["Deployment"]["spec"]["template"]["spec"]["terminationGracePeriodSecond"] = 40
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(found["Deployment"], KUBERNETES, strict=True)
    scaled = found["ScaledObject"]
    scaled["spec"]["minReplicas"] = 0
    assert errors_of("ScaledObject", scaled)
    trigger = scaled["spec"]["triggers"][0]
    trigger["metadata"]["queueUrl"] = trigger["metadata"].pop("queueURL")
    assert wrong_metadata(trigger) == ["queueUrl", "queueURL"]


def test_graces_are_in_order():
    pod = kinds("sqs")["Deployment"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    grace = next(each["value"] for each in container["env"] if each["name"] == "CLOUDQ_WORKER__GRACE")
    assert grace == "25s"
    assert pod["terminationGracePeriodSeconds"] == 40


def triggers(scheme):
    return {trigger["name"]: trigger["metadata"] for trigger in kinds(scheme)["ScaledObject"]["spec"]["triggers"]}


def test_what_is_scaled_on_is_what_workers_serve():
    """Each priority by its own backlog; the delay part wakes one worker; a queue of a function starts none."""
    found = triggers("sqs")
    assert set(found) == {"shop-mail-high", "shop-mail", "shop-mail-delay", "shop-reports", "shop-reports-delay"}
    assert found["shop-mail"] == {
        "queueURL": "https://sqs.eu-west-1.amazonaws.com/123456789012/live-shop-mail",
        "awsRegion": "eu-west-1",
        "queueLength": "20",
        "activationQueueLength": "0",
        "scaleOnInFlight": "true",
        "scaleOnDelayed": "false",
    }
    # What the provider hides there until it is due keeps nobody up; what is due wakes one.
    assert found["shop-mail-delay"]["scaleOnInFlight"] == "false"
    assert found["shop-mail-delay"]["queueLength"] == "1000000"
    assert "shop-mail-delay" in triggers("pubsub")
    assert set(triggers("servicebus")) == {"shop-mail-high", "shop-mail", "shop-reports"}
    scaled = kinds("sqs")["ScaledObject"]["spec"]
    assert (scaled["minReplicaCount"], scaled["maxReplicaCount"]) == (1, 30)


def test_the_rule_itself():
    work = workload(shop(URLS["sqs"]), image="i", command=["w"])
    assert wanted(work, {}) == 1
    assert wanted(work, {"shop-mail": 100, "shop-reports": 7}) == 5
    assert wanted(work, {"shop-reports": 5000}) == 30
    none = workload(shop(URLS["sqs"], mail={}), image="i", command=["w"])
    assert wanted(none, {}) == 0
    assert wanted(none, {"shop-mail-delay": 3000}) == 1


# Amazon ECS ---------------------------------------------------------------------------------------------------------------

CALLS = {
    "1-register-task-definition.json": ("ecs", "RegisterTaskDefinition"),
    "2-create-service.json": ("ecs", "CreateService"),
    "3-register-scalable-target.json": ("application-autoscaling", "RegisterScalableTarget"),
    "4-put-scaling-policy-backlog.json": ("application-autoscaling", "PutScalingPolicy"),
    "5-put-scaling-policy-idle.json": ("application-autoscaling", "PutScalingPolicy"),
    "6-put-metric-alarm-backlog.json": ("cloudwatch", "PutMetricAlarm"),
    "7-put-metric-alarm-idle.json": ("cloudwatch", "PutMetricAlarm"),
}
_loader = botocore.session.Session().get_component("data_loader")


def refused(service, operation, parameters):
    """What the SDK's own validation says, which looks at names and types, and what its model says of words."""
    shape = ServiceModel(_loader.load_service_model(service, "service-2"), service).operation_model(operation).input_shape
    report = ParamValidator().validate(parameters, shape)
    return [report.generate_report()] * report.has_errors() + list(_wrong_words(shape, parameters))


def _wrong_words(shape, value):
    if shape.type_name == "structure":
        for name, each in value.items():
            if name in shape.members:
                yield from _wrong_words(shape.members[name], each)
    elif shape.type_name == "list":
        for each in value:
            yield from _wrong_words(shape.member, each)
    elif getattr(shape, "enum", None) and value not in shape.enum:
        yield f"{value} is not one of {shape.enum}"


def test_ecs_takes_them():
    found = written("sqs", "ecs")
    assert set(found) == set(CALLS)
    for file, (service, operation) in CALLS.items():
        assert refused(service, operation, found[file]) == [], file
    (container,) = found["1-register-task-definition.json"]["containerDefinitions"]
    command = ["cloudq", "worker", "shop:app", "--queue", "mail", "--queue", "reports"]  # and not that of the function
    assert container["entryPoint"] + container["command"] == command
    assert container["stopTimeout"] == 40


def test_the_sdk_would_find_a_mistake():
    task = written("sqs", "ecs")["1-register-task-definition.json"]
    assert refused(*CALLS["1-register-task-definition.json"], {**task, "netwrkMode": "awsvpc"})
    assert refused(*CALLS["1-register-task-definition.json"], {**task, "networkMode": "bogus"})


def evaluated(alarm, counts):
    """The alarm's expression for these counts, as CloudWatch's functions are documented; what is not told is absent."""
    values = {}
    for metric in alarm["Metrics"]:
        if "MetricStat" in metric:
            told = metric["MetricStat"]["Metric"]
            values[metric["Id"]] = counts.get((told["Dimensions"][0]["Value"], told["MetricName"]))
    (expression,) = [metric["Expression"] for metric in alarm["Metrics"] if "Expression" in metric]
    functions = {
        "FILL": lambda value, instead: instead if value is None else value,
        "CEIL": math.ceil,
        "IF": lambda condition, yes, no: yes if condition else no,
        "MAX": max,
    }
    return eval(expression, {"__builtins__": {}}, {**functions, **values})  # noqa: S307  an expression of ours


def test_the_steps_of_ecs_are_the_rule():
    """For every backlog, as many workers as everywhere else, within what 20 steps can tell apart."""
    queues = {
        "mail": {"scale": {"backlog": 100, "maximum": 15}},
        "reports": {"scale": {"backlog": 1, "maximum": 15}},
    }
    found = written("sqs", "ecs", **queues)
    alarm = found["6-put-metric-alarm-backlog.json"]
    steps = found["4-put-scaling-policy-backlog.json"]["StepScalingPolicyConfiguration"]["StepAdjustments"]
    work = workload(shop(URLS["sqs"], **queues), image="i", command=["w"])
    visible, hidden = "ApproximateNumberOfMessagesVisible", "ApproximateNumberOfMessagesNotVisible"
    for mails, running, reports, due in (
        (1, 0, 0, 0),
        (99, 1, 0, 0),
        (100, 1, 0, 0),
        (100, 0, 7, 0),
        (0, 0, 0, 30),
        (5000, 9, 1, 1),
    ):
        counts = {
            ("live-shop-mail", visible): mails,
            ("live-shop-mail", hidden): running,
            ("live-shop-reports", visible): reports or None,
            ("live-shop-mail-delay", visible): due,
        }
        workers = evaluated(alarm, counts)
        assert workers >= alarm["Threshold"]
        over = workers - alarm["Threshold"]
        (step,) = [
            each
            for each in steps
            if each["MetricIntervalLowerBound"] <= over < each.get("MetricIntervalUpperBound", float("inf"))
        ]
        waiting = {"shop-mail": mails + running, "shop-reports": reports, "shop-mail-delay": due}
        assert step["ScalingAdjustment"] == wanted(work, waiting), waiting
    assert evaluated(alarm, {}) == 0 < alarm["Threshold"]


def test_more_queues_than_an_alarm_can_look_at_are_refused():
    three = {"priorities": ["high", "normal", "low"]}
    with pytest.raises(ConfigError, match=r"14 metrics are looked at for 8 queues, and an alarm takes 10: .*--queue"):
        written("sqs", "ecs", mail=three, reports=three)


def test_ecs_refuses_a_grace_that_fargate_does_not_leave():
    app = CloudQ(URLS["sqs"], namespace="shop", queues={"mail": {}})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLOUDQ_WORKER__GRACE", "3m")
        with pytest.raises(ConfigError, match=r"worker.grace = 180s: ECS on Fargate kills 120 s after SIGTERM.*105s or less"):
            manifests(workload(app, image="i", command=["w"]), "ecs")


# Cloud Run and Container Apps ---------------------------------------------------------------------------------------------


def test_cloud_run_takes_them():
    found = written("pubsub", "cloud-run")
    pool = json_format.ParseDict(found["worker-pool.json"], run_v2.WorkerPool.pb()())
    assert pool.template.containers[0].image == "registry/shop:1"
    assert {each.name: each.value for each in pool.template.containers[0].env}["CLOUDQ_WORKER__GRACE"] == "6s"
    with pytest.raises(json_format.ParseError):
        json_format.ParseDict({**found["worker-pool.json"], "scalng": {}}, run_v2.WorkerPool.pb()())


def test_the_autoscaler_s_configuration_is_of_what_keda_has():
    """Its authors publish no schema: it is that of KEDA, in an envelope of its own (README of CREMA)."""
    config = written("pubsub", "cloud-run")["crema.json"]
    assert (config["apiVersion"], config["kind"]) == ("crema/v1", "CremaConfig")
    names = [each["metadata"]["name"] for each in config["spec"]["triggerAuthentications"]]
    for each in config["spec"]["triggerAuthentications"]:
        document = {"apiVersion": "keda.sh/v1alpha1", "kind": "TriggerAuthentication", **each}
        assert errors_of("TriggerAuthentication", document) == []
    for each in config["spec"]["scaledObjects"]:
        document = {"apiVersion": "keda.sh/v1alpha1", "kind": "ScaledObject", "metadata": {"name": "x"}, **each}
        assert errors_of("ScaledObject", document) == []
        for trigger in each["spec"]["triggers"]:
            assert wrong_metadata(trigger) == []
            assert trigger["authenticationRef"]["name"] in names


def differing(given, taken, path=""):
    """What the model did not take over, or changed: it drops unknown names without a word."""
    if isinstance(given, dict) and isinstance(taken, dict):
        for name, value in given.items():
            yield from differing(value, taken.get(name), f"{path}.{name}")
    elif isinstance(given, list) and isinstance(taken, list) and len(given) == len(taken):
        for index, (one, other) in enumerate(zip(given, taken, strict=True)):
            yield from differing(one, other, f"{path}[{index}]")
    elif given != taken:
        yield path


def through_the_model(document):
    known = {name: value for name, value in vars(containerapps).items() if isinstance(value, type)}
    return Serializer(known).body(Deserializer(known)("ContainerApp", json.loads(json.dumps(document))), "ContainerApp")


def test_container_apps_takes_them():
    found = written("servicebus", "container-apps")["container-app.json"]
    assert list(differing(found, through_the_model(found))) == []
    template = found["properties"]["template"]
    assert [rule["custom"]["metadata"]["queueName"] for rule in template["scale"]["rules"]] == [
        "shop-mail-high",
        "shop-mail",
        "shop-reports",
    ]
    template["terminationGracePeriodSecond"] = 5
    assert list(differing(found, through_the_model(found))) == [".properties.template.terminationGracePeriodSecond"]


# The command --------------------------------------------------------------------------------------------------------------


def test_every_platform_has_its_own_provider():
    assert platforms() == ["kubernetes", *sorted(OWN)]
    for platform, scheme in OWN.items():
        assert written(scheme, platform)
        other = next(each for each in URLS if each != scheme)
        with pytest.raises(ConfigError, match=f"the manifests for {platform} scale on queues of its own cloud"):
            written(other, platform)


def test_queues_that_no_platform_sees_are_refused():
    work = workload(shop("sqlite:///queue.db"), image="i", command=["w"])
    with pytest.raises(ConfigError, match=r"at sqlite:///queue.db, whose backlog no platform can see"):
        manifests(work, "kubernetes")


def test_queues_of_functions_and_of_two_providers_are_refused():
    app = shop(URLS["sqs"])
    with pytest.raises(ConfigError, match=r"'thumbs' is declared for a function: workers serve mail, reports"):
        workload(app, image="i", command=["w"], queues=["thumbs"])
    two = shop(URLS["sqs"], mail={}, audit={"url": URLS["pubsub"]})
    with pytest.raises(ConfigError, match=r"a manifest scales on one provider, and there is pubsub.*sqs"):
        workload(two, image="i", command=["w"])


def test_queues_of_different_bounds_need_manifests_of_their_own():
    app = shop(URLS["sqs"], mail={"scale": {"maximum": 8}}, reports={})
    with pytest.raises(ConfigError, match=r"scale.maximum differs \(mail 8, reports 10\).*with --queue"):
        workload(app, image="i", command=["w"])
    assert workload(app, image="i", command=["w"], queues=["mail"]).maximum == 8


def test_the_emulator_and_a_misspelt_queue_are_refused():
    with pytest.raises(ConfigError, match="whose backlog no platform can see"):
        manifests(workload(shop("sqs://local"), image="i", command=["w"]), "kubernetes")
    with pytest.raises(ConfigError, match=r"there is no queue 'male'\. Did you mean 'mail'"):
        workload(shop(URLS["sqs"]), image="i", command=["w"], queues=["male"])
    served = CloudQ(URLS["sqs"], queues={"thumbs": QUEUES["thumbs"]})
    with pytest.raises(ConfigError, match="no queue is left for workers"):
        workload(served, image="i", command=["w"])


def test_a_worker_is_what_the_manifest_was_made_for(monkeypatch):
    monkeypatch.setenv("CLOUDQ_WORKER__PROCESSES", "3")
    work = workload(shop(URLS["sqs"]), image="i", command=["w"])
    said = work.environment()
    assert (said["CLOUDQ_NAMESPACE"], said["CLOUDQ_WORKER__PROCESSES"]) == ("shop", "3")
    assert {source.backlog for source in work.sources} == {60, 6, 1_000_000}


def test_the_command_writes_files(tmp_path, monkeypatch):
    (tmp_path / "shop_manifests.py").write_text(
        "from cloudq import CloudQ\napp = CloudQ()\n\n@app.task\ndef send() -> None: ...\n"
    )
    monkeypatch.setenv("CLOUDQ_URL", URLS["sqs"])
    asked = ["infra", "manifests", "shop_manifests:app", "--image", "r/shop:1", "-o", "out"]
    done = CliRunner().invoke(main, [*asked, "--platform", "ecs"])
    assert done.exit_code == 0, done.output
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(CALLS)
    done = CliRunner().invoke(main, [*asked, "--platform", "kubernets"])
    assert done.exit_code == 2
    assert "Did you mean 'kubernetes'" in done.output
    done = CliRunner().invoke(main, [*asked[:-1], "-", "--platform", "kubernetes", "--queue", "default"])
    (deployment,) = [each for each in json.loads(done.stdout)["items"] if each["kind"] == "Deployment"]
    command = deployment["spec"]["template"]["spec"]["containers"][0]["command"]
    assert command == ["cloudq", "worker", "shop_manifests:app"]
    assert "left to fill in: $ROLE_ARN (docs/howto/containers.md)" in done.stderr
