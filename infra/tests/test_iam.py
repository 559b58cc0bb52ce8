"""The policies for roles made by hand."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest
from conftest import BRIDGE, EVERYTHING, GIVEN, INFRA, JWT, TEMPLATES, made, required, source

VALUES = {
    "PARTITION": "aws", "REGION": "us-east-1", "ACCOUNT_ID": "123456789012", "STACK": "shellbridge", "STAGE": "prod",
    "TABLE": "WebSocketConnections", "API_ID": "api0000001", "BRIDGE_SECRET_ARN": BRIDGE, "JWT_SECRET_ARN": JWT,
    "ADMIN_TOKEN_ARN": BRIDGE, "SECRETS_KMS_KEY_ARN": EVERYTHING["SecretsKmsKeyArn"],
}


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


def test_by_hand_is_what_the_template_makes():
    resources = made("template", **GIVEN).section("Resources")
    (policy,) = resources["HandlerRole"]["Properties"]["Policies"]
    written = json.dumps(policy["PolicyDocument"]["Statement"])
    written = written.replace("<Table.Arn>", "arn:aws:dynamodb:us-east-1:123456789012:table/WebSocketConnections")
    log = "arn:aws:logs:us-east-1:123456789012:log-group:/aws/lambda/shellbridge-websocket-handler:*"
    written = written.replace("<HandlerLogGroup.Arn>", log)
    assert json.loads(fill("function-policy.json", **VALUES).stdout)["Statement"] == json.loads(written)


def test_what_is_empty_is_left_out_and_what_is_forgotten_is_said():
    parts = json.loads(fill("function-policy.json", **{**VALUES, "JWT_SECRET_ARN": ""}).stdout)["Statement"]
    assert next(part for part in parts if part["Sid"] == "Secrets")["Resource"] == [BRIDGE]
    run = fill("function-policy.json", **{key: value for key, value in VALUES.items() if key != "STAGE"})
    assert run.returncode == 1 and "STAGE is not set" in run.stderr and not run.stdout


@pytest.mark.parametrize("path", [*TEMPLATES.values(), *sorted(INFRA.glob("backend-*.yaml"))], ids=lambda path: path.name)
def test_patterns_take_what_they_must(path):
    from samtags import load

    parameters = load(path.read_text())["Parameters"]
    values = {**EVERYTHING, "ExistingRoleArn": "arn:aws:iam::123456789012:role/a/b"}
    for name, parameter in parameters.items():
        if pattern := parameter.get("AllowedPattern"):
            for value in (parameter.get("Default"), values.get(name)):
                assert value is None or re.fullmatch(pattern, str(value)), (name, value)
            assert not re.fullmatch(pattern, "no such thing"), name
        assert parameter["Description"]


def test_a_placeholder_backend_is_a_backend():
    """The API may be deployed before the backend is."""
    for name in TEMPLATES:
        pattern = source(name)["Parameters"]["BackendUrl"]["AllowedPattern"]
        assert re.fullmatch(pattern, "https://backend.invalid") and not re.fullmatch(pattern, "https://a/?b")
        assert not made(name, **required(name) | {"BackendUrl": "https://backend.invalid"}).rules()
