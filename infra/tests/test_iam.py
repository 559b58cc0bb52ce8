"""Policies for roles that administrators create by hand."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import pytest
from conftest import BRIDGE, EVERYTHING, GIVEN, INFRA, JWT, TEMPLATES, made, required, source
from evaluate import Evaluation
from samtags import load, long

VALUES = {
    "PARTITION": "aws", "REGION": "us-east-1", "ACCOUNT_ID": "123456789012", "STACK": "shellbridge", "STAGE": "prod",
    "TABLE": "WebSocketConnections", "API_ID": "api0000001", "BRIDGE_SECRET_ARN": BRIDGE, "JWT_SECRET_ARN": JWT,
    "ADMIN_TOKEN_ARN": BRIDGE, "SECRETS_KMS_KEY_ARN": EVERYTHING["SecretsKmsKeyArn"], "JWT_PRIVATE_KEY_ARN": BRIDGE,
    "REDIS_URL_ARN": JWT,
}
GUIDE = (INFRA / "iam/README.md").read_text()
SECRET = "arn:aws:ssm:eu-west-1:123456789012:parameter/shellbridge"
KEY = "arn:aws:kms:eu-west-1:123456789012:key/11111111-2222-3333-4444-555555555555"
# The roles of each template that the guide's commands create, and the names they use.
BY_HAND = {
    "../template.yaml": {"HandlerRole": "shellbridge-function", "AccountRole": "shellbridge-account-logs"},
    "backend-ecs-service.yaml": {"ExecutionRole": "shellbridge-start", "TaskRole": "shellbridge-backend"},
    "backend-ecs-express.yaml": {
        "ExecutionRole": "shellbridge-start",
        "TaskRole": "shellbridge-backend",
        "InfrastructureRole": "shellbridge-infrastructure",
    },
    "backend-apprunner.yaml": {"InstanceRole": "shellbridge-apprunner", "AccessRole": "shellbridge-apprunner-image"},
}
# A stand-in for the AWS CLI: answers the guide's commands and records what they create.
STAND_IN = """
import json, sys
from pathlib import Path

path = Path(__file__).with_name("made.json")
made = json.loads(path.read_text()) if path.exists() else {}
service, command, *rest = sys.argv[1:]
given = dict(zip(rest[::2], rest[1::2]))
name = given.get("--role-name")
match service, command:
    case "sts", "get-caller-identity":
        print("123456789012")
    case "iam", "create-role":
        assert name not in made, f"{name} is made twice"
        made[name] = {"trust": json.loads(given["--assume-role-policy-document"]), "policies": {}, "attached": []}
    case "iam", "put-role-policy":
        made[name]["policies"][given["--policy-name"]] = json.loads(given["--policy-document"])
    case "iam", "attach-role-policy":
        made[name]["attached"].append(given["--policy-arn"])
    case "iam", "get-role":
        print(f"arn:aws:iam::123456789012:role/{name}")
    case "cloudformation", "describe-stacks":
        assert given["--stack-name"] == "shellbridge"
        print("api0000001")
    case "apigateway", "update-account":
        made["account"] = given["--patch-operations"]
    case ("iam", "list-roles") | ("ssm", "put-parameter") | ("apigateway", "get-account"):
        pass
    case _:
        sys.exit(f"what is {service} {command}?")
path.write_text(json.dumps(made))
"""


def fill(file, **values):
    command = [sys.executable, str(INFRA / "iam/fill.py"), str(INFRA / "iam" / file)]
    return subprocess.run(command, env=values, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("file", sorted(path.name for path in (INFRA / "iam").glob("*.json")))
def test_every_policy_can_be_filled(file):
    run = fill(file, **VALUES)
    assert run.returncode == 0, run.stderr
    document = json.loads(run.stdout)
    assert document["Statement"] and "$" not in run.stdout and "<" not in run.stdout
    assert len(json.dumps(document)) < 6144, "more than a managed policy may have"


def test_the_written_policy_equals_the_templates():
    resources = made("template", **GIVEN).section("Resources")
    (policy,) = resources["HandlerRole"]["Properties"]["Policies"]
    written = json.dumps(policy["PolicyDocument"]["Statement"])
    written = written.replace("<Table.Arn>", "arn:aws:dynamodb:us-east-1:123456789012:table/WebSocketConnections")
    log = "arn:aws:logs:us-east-1:123456789012:log-group:/aws/lambda/shellbridge-websocket-handler:*"
    written = written.replace("<HandlerLogGroup.Arn>", log)
    assert json.loads(fill("function-policy.json", **VALUES).stdout)["Statement"] == json.loads(written)


def test_empty_values_are_omitted_and_missing_ones_are_errors():
    parts = json.loads(fill("function-policy.json", **{**VALUES, "JWT_SECRET_ARN": ""}).stdout)["Statement"]
    assert next(part for part in parts if part["Sid"] == "Secrets")["Resource"] == [BRIDGE]
    run = fill("function-policy.json", **{key: value for key, value in VALUES.items() if key != "STAGE"})
    assert run.returncode == 1 and "STAGE is not set" in run.stderr and not run.stdout


class _Full(Evaluation):
    """Assumes every option that the guide's commands cover."""

    def condition(self, name):
        return name not in {"HasBoundary", "HasJwtPrivateKey", "HasRedisUrl", "CreatesRedis"}


@pytest.fixture(scope="module")
def by_hand(tmp_path_factory):
    """What the guide's commands create when run in order in one shell."""
    place = tmp_path_factory.mktemp("aws")
    (place / "aws").write_text(f"#!{sys.executable}\n{STAND_IN}")
    (place / "aws").chmod(0o755)
    script = "set -eu\n" + "\n".join(re.findall(r"(?ms)^```sh\n(.*?)^```$", GUIDE))
    environment = {"PATH": f"{place}:{os.environ['PATH']}"}
    run = subprocess.run(
        ["bash", "-c", script], cwd=INFRA / "iam", env=environment, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0 and not run.stderr, run.stderr
    return json.loads((place / "made.json").read_text())


@pytest.mark.parametrize("path", BY_HAND)
def test_the_guides_commands_create_the_templates_roles(path, by_hand):
    template = long(load((INFRA / path).read_text()))
    roles = {name for name, resource in template["Resources"].items() if resource["Type"] == "AWS::IAM::Role"}
    assert roles == set(BY_HAND[path]), "the guide lacks a role"
    stack = "shellbridge" if path == "../template.yaml" else "shellbridge-backend"
    here = "eu-west-1:123456789012"
    names = {
        "AWS::Region": "eu-west-1", "AWS::StackName": stack, "Api": "api0000001", "ApiId": "api0000001",
        "BridgeSecretArn": f"{SECRET}/bridge", "JwtSecretArn": f"{SECRET}/jwt", "AdminTokenArn": f"{SECRET}/admin",
        "SecretsKmsKeyArn": KEY, "Table.Arn": f"arn:aws:dynamodb:{here}:table/WebSocketConnections",
        "HandlerLogGroup.Arn": f"arn:aws:logs:{here}:log-group:/aws/lambda/{stack}-websocket-handler:*",
        "LogGroup.Arn": f"arn:aws:logs:{here}:log-group:/shellbridge/{stack}:*",
        "Cluster": f"{stack}-Cluster-*",
    }
    evaluation = _Full(template, {**dict.fromkeys(template["Parameters"], "x"), "StageName": "prod"}, names)
    for resource, name in BY_HAND[path].items():
        role = evaluation.value(template["Resources"][resource]["Properties"])
        hand = by_hand[name]
        assert hand["trust"] == role["AssumeRolePolicyDocument"]
        wanted = [part for policy in role.get("Policies", []) for part in policy["PolicyDocument"]["Statement"]]
        # Both ECS templates use the same task role, and only one of them has several tasks.
        unused = {"protect"} if path == "backend-ecs-express.yaml" else set()
        parts = [part for key, policy in hand["policies"].items() if key not in unused for part in policy["Statement"]]
        assert {part["Sid"]: part for part in parts} == {part["Sid"]: part for part in wanted}
        assert len(parts) == len(wanted)
        assert hand["attached"] == role.get("ManagedPolicyArns", [])


def test_the_guide_covers_every_role_and_file(by_hand):
    for path in [*TEMPLATES.values(), *INFRA.glob("backend-*.yaml")]:
        for name in load(path.read_text())["Parameters"]:
            assert not name.startswith("Existing") or f"`{name}`" in GUIDE, name
    for path in (INFRA / "iam").glob("*.json"):
        assert f"fill.py {path.name})" in GUIDE, path.name
    role = "arn:aws:iam::123456789012:role/shellbridge-account-logs"
    assert by_hand.pop("account") == f"op=replace,path=/cloudwatchRoleArn,value={role}"
    assert set(by_hand) == {name for roles in BY_HAND.values() for name in roles.values()}


@pytest.mark.parametrize("path", [*TEMPLATES.values(), *sorted(INFRA.glob("backend-*.yaml"))], ids=lambda path: path.name)
def test_parameter_patterns_accept_valid_values_only(path):
    from samtags import load

    parameters = load(path.read_text())["Parameters"]
    values = {**EVERYTHING, "ExistingRoleArn": "arn:aws:iam::123456789012:role/a/b"}
    for name, parameter in parameters.items():
        if pattern := parameter.get("AllowedPattern"):
            for value in (parameter.get("Default"), values.get(name)):
                assert value is None or re.fullmatch(pattern, str(value)), (name, value)
            assert not re.fullmatch(pattern, "no such thing"), name
        assert parameter["Description"]


def test_a_placeholder_backend_url_is_accepted():
    """The API may be deployed before the backend."""
    for name in TEMPLATES:
        pattern = source(name)["Parameters"]["BackendUrl"]["AllowedPattern"]
        assert re.fullmatch(pattern, "https://backend.invalid") and not re.fullmatch(pattern, "https://a/?b")
        assert not made(name, **required(name) | {"BackendUrl": "https://backend.invalid"}).rules()
