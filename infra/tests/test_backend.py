"""What must hold in the templates that run the backend, whoever runs it."""

from __future__ import annotations

import json
import re

import pytest
from conftest import BRIDGE, INFRA, JWT
from evaluate import Evaluation
from samtags import load, long

NAMES = ("backend-ecs-service", "backend-ecs-express", "backend-apprunner")
CONFIG = (INFRA.parent / "crates/backend/src/config.rs").read_text()
COMMON = {
    "Image": "123456789012.dkr.ecr.us-east-1.amazonaws.com/shellbridge@sha256:0",
    "ApiId": "api0000001",
    "WebSocketUrl": "wss://api0000001.execute-api.us-east-1.amazonaws.com/prod",
    "AllowedOrigins": "https://app.example.org",
    "BridgeSecretArn": BRIDGE,
    "JwtSecretArn": JWT,
}
NETWORK = {
    "VpcId": "vpc-1",
    "LoadBalancerSubnetIds": "subnet-1,subnet-2",
    "TaskSubnetIds": "subnet-3",
    "CertificateArn": "arn:aws:acm:us-east-1:123456789012:certificate/c",
}


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def made(name, **more):
    template = long(load((INFRA / f"{name}.yaml").read_text()))
    network = NETWORK if name == "backend-ecs-service" else {}
    return Evaluation(template, {**COMMON, **network, **more})


def container(stack):
    """Its settings and secrets by name, whatever the service calls them."""
    found = {"Environment": {}, "Secrets": {}}

    def look(value):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            kind = str(key).replace("RuntimeEnvironmentVariables", "Environment")
            kind = kind.replace("RuntimeEnvironmentSecrets", "Secrets")
            if kind in found:
                found[kind] = {entry["Name"]: entry.get("ValueFrom", entry.get("Value")) for entry in item}
            elif isinstance(item, dict | list):
                look(item)

    look(stack.section("Resources"))
    return found["Environment"], found["Secrets"]


def test_secrets_come_by_arn_and_settings_are_known(name):
    environment, secrets = container(made(name))
    assert secrets == {"BRIDGE_SECRET": BRIDGE, "JWT_SECRET": JWT}
    assert environment["CALLBACK_URL"] == "https://api0000001.execute-api.us-east-1.amazonaws.com/prod"
    assert all(environment.values()), "the backend takes an empty setting for one that is set"
    everything = {
        "JwtPrivateKeyArn": BRIDGE, "AdminTokenArn": BRIDGE, "JwtPublicKey": "k",
        "JwksUrl": "https://id.example.org/jwks",
        "JwtIssuer": "i", "JwtAudience": "a", "CallbackUrl": "https://ws.example.org",
    }
    if name == "backend-apprunner":
        everything["KeepAwakeUrl"] = "https://x.awsapprunner.com"
    environment, secrets = container(made(name, **everything))
    assert environment["CALLBACK_URL"] == "https://ws.example.org"
    for setting in {*environment, *secrets} - {"AWS_REGION"}:
        assert f'env = "{setting}"' in CONFIG, setting
    assert not {"JWT_SECRET", "BRIDGE_SECRET", "ADMIN_TOKEN", "JWT_PRIVATE_KEY"} & set(environment)
    assert "DEV_SESSIONS" not in environment


def test_no_iam_with_existing_roles(name):
    template = long(load((INFRA / f"{name}.yaml").read_text()))
    roles = {key: "arn:aws:iam::123456789012:role/given" for key in template["Parameters"] if key.startswith("Existing")}
    assert len(roles) >= 2
    resources = made(name, **roles).section("Resources")
    assert not [key for key, item in resources.items() if item["Type"].startswith("AWS::IAM::")]
    assert "Role" not in json.dumps(resources).replace("RoleArn", "").replace("AccessRoleArn", "").replace("role", "")


def test_it_may_push_to_its_own_stage_only(name):
    resources = made(name).section("Resources")
    roles = [item["Properties"] for item in resources.values() if item["Type"] == "AWS::IAM::Role"]
    parts = [part for role in roles for policy in role.get("Policies", []) for part in policy["PolicyDocument"]["Statement"]]
    push = [part for part in parts if part["Action"] == "execute-api:ManageConnections"]
    arn = "arn:aws:execute-api:us-east-1:123456789012:api0000001/prod"
    assert [part["Resource"] for part in push] == [[f"{arn}/{verb}/@connections/*" for verb in ("POST", "GET", "DELETE")]]
    for part in parts:
        if part["Resource"] == "*":
            assert part["Action"] == "ecr:GetAuthorizationToken"
        if re.match("ssm|secretsmanager", str(part["Action"])):
            assert part["Resource"] == [BRIDGE, JWT]


def test_one_instance_and_a_health_check(name):
    text = json.dumps(made(name).section("Resources"))
    assert '"/health"' in text
    resources = {item["Type"]: item["Properties"] for item in made(name).section("Resources").values()}
    if name == "backend-ecs-service":
        service = resources["AWS::ECS::Service"]
        assert service["DesiredCount"] == 1
        deployment = service["DeploymentConfiguration"]
        assert (deployment["MinimumHealthyPercent"], deployment["MaximumPercent"]) == (0, 100)
    elif name == "backend-ecs-express":
        scaling = resources["AWS::ECS::ExpressGatewayService"]["ScalingTarget"]
        assert scaling == {"MinTaskCount": "1", "MaxTaskCount": "1"}
    else:
        scaling = resources["AWS::AppRunner::AutoScalingConfiguration"]
        assert (scaling["MinSize"], scaling["MaxSize"]) == ("1", "1")


def test_the_load_balancer_gives_idle_connections_up_before_the_backend_does():
    """The other way round, requests would meet a connection that is being closed, and fail with 502."""
    (idle,) = re.findall(r"idle_timeout\.timeout_seconds, Value: '(\d+)'", (INFRA / "backend-ecs-service.yaml").read_text())
    seats = (INFRA.parent / "crates/backend/src/serve/seats.rs").read_text()
    (kept,) = re.findall(r"(?m)^const IDLE: Duration = Duration::from_secs\((\d+)\);", seats)
    assert int(idle) < int(kept)


@pytest.mark.parametrize("endpoint", ["x.ecs.us-east-1.on.aws", "https://x.ecs.us-east-1.on.aws"])
def test_the_address_of_ecs_express_has_its_scheme_once(endpoint):
    template = long(load((INFRA / "backend-ecs-express.yaml").read_text()))
    outputs = Evaluation(template, COMMON, {"Service.Endpoint": endpoint}).section("Outputs")
    assert outputs["Endpoint"]["Value"] == "https://x.ecs.us-east-1.on.aws"


def test_the_image_is_not_roots_and_is_the_stacks():
    text = (INFRA / "Containerfile").read_text()
    stages = re.split(r"(?m)^FROM ", text)[1:]
    for stage in stages[2:]:
        assert re.search(r"(?m)^USER 10001$", stage)
    assert stages[-1].startswith("debian:trixie-slim AS backend"), "what is built without --target"
    rust = re.search(r'rust-version = "([\d.]+)"', (INFRA.parent / "Cargo.toml").read_text())[1]
    assert f"FROM rust:{rust}-" in text


def test_compose_gives_no_secret_a_default():
    text = (INFRA / "compose.yaml").read_text()
    for secret in ("JWT_SECRET", "BRIDGE_SECRET", "ADMIN_TOKEN"):
        assert f"{secret}: ${{{secret}:?" in text
    assert not re.search(r"ports: \['(?!127\.0\.0\.1:)", text)
