"""Properties of the backend's templates, for each service."""

from __future__ import annotations

import json
import re

import pytest
import yaml
from conftest import BRIDGE, INFRA, JWT, VIA_SECRETS, backend_has
from evaluate import Evaluation
from samtags import load, long
from test_template import of_type, statements, watched

NAMES = ("backend-ecs-service", "backend-ecs-express", "backend-apprunner")
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


def roles(stack):
    return of_type(stack.section("Resources"), "AWS::IAM::Role").values()


def container(stack):
    """Returns the container's settings and secrets by name; the services use different keys."""
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


def test_secrets_are_arns_and_settings_exist(name):
    environment, secrets = container(made(name))
    assert secrets == {"BRIDGE_SECRET": BRIDGE, "JWT_SECRET": JWT}
    assert environment["CALLBACK_URL"] == "https://api0000001.execute-api.us-east-1.amazonaws.com/prod"
    assert all(environment.values()), "empty settings should be omitted"
    everything = {
        "JwtPrivateKeyArn": BRIDGE, "AdminTokenArn": BRIDGE, "JwtPublicKey": "k",
        "JwksUrl": "https://id.example.org/jwks",
        "JwtIssuer": "i", "JwtAudience": "a", "CallbackUrl": "https://ws.example.org",
    }
    if name == "backend-apprunner":
        everything["KeepAwakeUrl"] = "https://x.awsapprunner.com"
    if name == "backend-ecs-service":
        everything |= {"RedisUrlArn": BRIDGE, "MaxCount": 2}
    environment, secrets = container(made(name, **everything))
    assert environment["CALLBACK_URL"] == "https://ws.example.org"
    for setting in {*environment, *secrets} - {"AWS_REGION"}:
        assert backend_has(setting), setting
    assert not {"JWT_SECRET", "BRIDGE_SECRET", "ADMIN_TOKEN", "JWT_PRIVATE_KEY", "REDIS_URL"} & set(environment)
    assert "DEV_SESSIONS" not in environment


def test_no_iam_with_existing_roles(name):
    template = long(load((INFRA / f"{name}.yaml").read_text()))
    roles = {key: "arn:aws:iam::123456789012:role/given" for key in template["Parameters"] if key.startswith("Existing")}
    assert len(roles) >= 2
    resources = made(name, **roles).section("Resources")
    assert not [key for key, item in resources.items() if item["Type"].startswith("AWS::IAM::")]
    assert "Role" not in json.dumps(resources).replace("RoleArn", "").replace("AccessRoleArn", "").replace("role", "")


def test_the_role_pushes_to_its_own_stage_only(name):
    parts = [part for role in roles(made(name)) for part in statements(role)]
    push = [part for part in parts if part["Action"] == "execute-api:ManageConnections"]
    arn = "arn:aws:execute-api:us-east-1:123456789012:api0000001/prod"
    assert [part["Resource"] for part in push] == [[f"{arn}/{verb}/@connections/*" for verb in ("POST", "GET", "DELETE")]]
    for part in parts:
        if part["Resource"] == "*":
            assert part["Action"] == "ecr:GetAuthorizationToken"
        if re.match("ssm|secretsmanager", str(part["Action"])):
            assert part["Resource"] == [BRIDGE, JWT]


def test_a_customer_managed_key_decrypts_only_secrets(name):
    key = "arn:aws:kms:us-east-1:123456789012:key/k"
    parts = [part for role in roles(made(name, SecretsKmsKeyArn=key)) for part in statements(role)]
    (part,) = (part for part in parts if part["Action"] == "kms:Decrypt")
    assert part["Resource"] == key and part["Condition"] == VIA_SECRETS


def test_one_instance_and_a_health_check(name):
    text = json.dumps(made(name).section("Resources"))
    assert '"/health"' in text
    resources = {item["Type"]: item["Properties"] for item in made(name).section("Resources").values()}
    if name == "backend-ecs-service":
        service = resources["AWS::ECS::Service"]
        assert service["DesiredCount"] == "1"
        assert service["AvailabilityZoneRebalancing"] == "DISABLED", "it would move tasks, which ends their sessions"
        deployment = service["DeploymentConfiguration"]
        assert (deployment["MinimumHealthyPercent"], deployment["MaximumPercent"]) == (0, 100)
    elif name == "backend-ecs-express":
        scaling = resources["AWS::ECS::ExpressGatewayService"]["ScalingTarget"]
        assert scaling == {"MinTaskCount": "1", "MaxTaskCount": "1"}
    else:
        scaling = resources["AWS::AppRunner::AutoScalingConfiguration"]
        assert (scaling["MinSize"], scaling["MaxSize"]) == ("1", "1")


def test_the_load_balancer_closes_idle_connections_before_the_backend():
    """Otherwise a request could meet a closing connection and fail with 502."""
    (idle,) = re.findall(r"idle_timeout\.timeout_seconds, Value: '(\d+)'", (INFRA / "backend-ecs-service.yaml").read_text())
    seats = (INFRA.parent / "crates/backend/src/http/serve/seats.rs").read_text()
    (kept,) = re.findall(r"(?m)^const IDLE: Duration = Duration::from_secs\((\d+)\);", seats)
    assert int(idle) < int(kept)


def test_the_service_is_reachable_only_through_its_load_balancer():
    resources = made("backend-ecs-service", ClientCidr="192.0.2.0/24").section("Resources")
    groups = of_type(resources, "AWS::EC2::SecurityGroup")
    rules = {name: [opened(rule) for rule in group["SecurityGroupIngress"]] for name, group in groups.items()}
    assert rules == {
        "LoadBalancerSecurityGroup": [("tcp", 443, 443, "192.0.2.0/24")],
        "TaskSecurityGroup": [("tcp", 3001, 3001, "<LoadBalancerSecurityGroup>")],
    }
    assert not of_type(resources, "AWS::EC2::SecurityGroupIngress")
    (egress,) = of_type(resources, "AWS::EC2::SecurityGroupEgress").values()
    assert egress["GroupId"] == "<LoadBalancerSecurityGroup>" and opened(egress) == ("tcp", 3001, 3001, "<TaskSecurityGroup>")
    (service,) = of_type(resources, "AWS::ECS::Service").values()
    network = service["NetworkConfiguration"]["AwsvpcConfiguration"]
    assert network["SecurityGroups"] == ["<TaskSecurityGroup>"]
    (target,) = service["LoadBalancers"]
    assert target == {"ContainerName": "backend", "ContainerPort": 3001, "TargetGroupArn": "<TargetGroup>"}


def opened(rule):
    sources = ("CidrIp", "CidrIpv6", "SourceSecurityGroupId", "SourcePrefixListId", "DestinationSecurityGroupId")
    (source,) = (rule[name] for name in sources if name in rule)
    return rule["IpProtocol"], rule["FromPort"], rule["ToPort"], source


def test_the_service_waits_for_the_listener():
    """ECS refuses a target group without a load balancer, and the service does not refer to the listener, so it must wait."""
    resources = made("backend-ecs-service").section("Resources")
    assert resources["Service"]["DependsOn"] == "Listener"
    listener = resources["Listener"]["Properties"]
    assert listener["DefaultActions"] == [{"Type": "forward", "TargetGroupArn": "<TargetGroup>"}]
    assert (listener["Port"], listener["Protocol"]) == (443, "HTTPS")


def test_a_stopping_task_has_time_to_end_its_sessions():
    (definition,) = of_type(made("backend-ecs-service").section("Resources"), "AWS::ECS::TaskDefinition").values()
    (container,) = definition["ContainerDefinitions"]
    sources = "".join(path.read_text() for path in (INFRA.parent / "crates/backend/src").rglob("*.rs"))
    shutdown = int(re.search(r"const SHUTDOWN: Duration = Duration::from_secs\((\d+)\);", sources)[1])
    assert container["StopTimeout"] > shutdown, "ECS would kill it during shutdown"


@pytest.mark.parametrize("name", ["backend-ecs-service", "backend-ecs-express"])
def test_the_role_may_write_to_the_log_group(name):
    stack = made(name)
    resources = stack.section("Resources")
    if name == "backend-ecs-service":
        (definition,) = of_type(resources, "AWS::ECS::TaskDefinition").values()
        (container,) = definition["ContainerDefinitions"]
        group = container["LogConfiguration"]["Options"]["awslogs-group"]
    else:
        (service,) = of_type(resources, "AWS::ECS::ExpressGatewayService").values()
        group = service["PrimaryContainer"]["AwsLogsConfiguration"]["LogGroup"]
    assert group == "<LogGroup>"
    assert stack.section("Outputs")["LogGroupName"]["Value"] == group
    (part,) = (part for role in roles(stack) for part in statements(role) if part["Sid"] == "Log")
    assert part["Resource"] == "<LogGroup.Arn>"
    (log,) = of_type(resources, "AWS::Logs::LogGroup").values()
    assert log == {"LogGroupName": "/shellbridge/shellbridge", "RetentionInDays": "30"}


ALARM = "AWS::CloudWatch::Alarm"
TOPIC = "arn:aws:sns:us-east-1:123456789012:alarms"


@pytest.mark.parametrize("name", ["backend-ecs-service", "backend-ecs-express"])
def test_no_running_task_is_an_alarm(name):
    alarm = alarms(name)["NoTaskAlarm"]
    cluster, service = ("<Cluster>", "<Service.Name>") if name == "backend-ecs-service" else ("default", "shellbridge")
    dimensions = {"ClusterName": cluster, "ServiceName": service}
    assert watched(alarm) == [("AWS/ECS", "CPUUtilization", dimensions, "SampleCount")]
    assert (alarm["ComparisonOperator"], alarm["Threshold"]) == ("LessThanThreshold", 1)
    # ECS reports nothing for a service without running tasks (Developer Guide, "Amazon ECS CloudWatch metrics").
    assert alarm["TreatMissingData"] == "breaching"
    assert alarm["Period"] * alarm["EvaluationPeriods"] == 300


def test_an_unhealthy_target_is_an_alarm():
    alarm = alarms("backend-ecs-service")["UnhealthyTargetAlarm"]
    dimensions = {"LoadBalancer": "<LoadBalancer.LoadBalancerFullName>", "TargetGroup": "<TargetGroup.TargetGroupFullName>"}
    assert watched(alarm) == [("AWS/ApplicationELB", "UnHealthyHostCount", dimensions, "Maximum")]
    assert (alarm["ComparisonOperator"], alarm["Threshold"]) == ("GreaterThanOrEqualToThreshold", 1)
    assert alarm["TreatMissingData"] == "notBreaching"


def alarms(name):
    """Returns a template's alarms, which notify a topic only if one is given."""
    assert not any("AlarmActions" in alarm for alarm in of_type(made(name).section("Resources"), ALARM).values())
    found = of_type(made(name, AlarmTopicArn=TOPIC).section("Resources"), ALARM)
    assert all(alarm["AlarmActions"] == alarm["OKActions"] == [TOPIC] for alarm in found.values())
    return found


def test_the_cluster_has_no_paid_metrics():
    (cluster,) = of_type(made("backend-ecs-service").section("Resources"), "AWS::ECS::Cluster").values()
    assert cluster["ClusterSettings"] == [{"Name": "containerInsights", "Value": "disabled"}]


def test_a_push_to_the_registry_deploys_nothing():
    (service,) = of_type(made("backend-apprunner").section("Resources"), "AWS::AppRunner::Service").values()
    assert service["SourceConfiguration"]["AutoDeploymentsEnabled"] is False


@pytest.mark.parametrize("endpoint", ["x.ecs.us-east-1.on.aws", "https://x.ecs.us-east-1.on.aws"])
def test_the_express_url_has_exactly_one_scheme(endpoint):
    template = long(load((INFRA / "backend-ecs-express.yaml").read_text()))
    outputs = Evaluation(template, COMMON, {"Service.Endpoint": endpoint}).section("Outputs")
    assert outputs["Endpoint"]["Value"] == "https://x.ecs.us-east-1.on.aws"


def stages():
    """Returns the instructions of each stage of the Containerfile, with continued lines joined."""
    text = re.sub(r"(?m)^#.*\n", "", (INFRA / "Containerfile").read_text()).replace("\\\n", " ")
    parts = [part.strip().splitlines() for part in re.split(r"(?m)^FROM ", text)[1:]]
    return {part[0].split(" AS ")[1]: part[1:] for part in parts}


def test_the_image_has_the_page():
    """A release build embeds the page, so it must exist before cargo runs. Without it, the build would still pass."""
    page, build = stages()["page"], stages()["build"]
    assert "WORKDIR /src/crates/web" in page and page[-1] == "RUN npm run build"
    assert "WORKDIR /src" in build and '#[folder = "dist"]' in (INFRA.parent / "crates/web/src/lib.rs").read_text()
    compiles = next(index for index, line in enumerate(build) if "cargo build --release" in line)
    copied = build.index("COPY --from=page /src/crates/web/dist crates/web/dist")
    assert build.index("COPY crates crates") < copied < compiles
    assert "COPY --from=build --chmod=0755 /out/session-host /usr/local/bin/" in stages()["backend"]


def test_the_image_starts_the_program_itself():
    """Another init would hold the secrets in its environment, where its user can read them."""
    for stage, program in (("stack", ["gateway", "--listen"]), ("backend", ["backend", "--init"])):
        (entry,) = (line.removeprefix("ENTRYPOINT ") for line in stages()[stage] if line.startswith("ENTRYPOINT "))
        assert json.loads(entry)[:2] == program, stage


def test_the_platform_starts_no_init():
    (definition,) = of_type(made("backend-ecs-service").section("Resources"), "AWS::ECS::TaskDefinition").values()
    (container,) = definition["ContainerDefinitions"]
    assert not container.get("LinuxParameters", {}).get("InitProcessEnabled")
    assert not container.get("EntryPoint") and not container.get("Command")
    for path in INFRA.glob("compose*.yaml"):
        for name, service in yaml.safe_load(path.read_text())["services"].items():
            assert not {"init", "entrypoint"} & set(service), name


def test_the_image_runs_unprivileged_with_the_pinned_rust():
    text = (INFRA / "Containerfile").read_text()
    stages = re.split(r"(?m)^FROM ", text)[1:]
    for stage in stages[2:]:
        assert re.search(r"(?m)^USER 10001(:10001)?$", stage)
    assert stages[-1].startswith("debian:trixie-slim AS backend"), "the default target"
    rust = re.search(r'rust-version = "([\d.]+)"', (INFRA.parent / "Cargo.toml").read_text())[1]
    assert f"FROM rust:{rust}-" in text
