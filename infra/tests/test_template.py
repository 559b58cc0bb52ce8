"""Properties of template.yaml and of the two templates generated from it, after the SAM transform."""

from __future__ import annotations

import json
import re

import generate
import pytest
from conftest import BRIDGE, EVERYTHING, GIVEN, JWT, ROLE, TEMPLATES, VIA_SECRETS, made, required, source, translated

ROUTES = {"$connect", "$disconnect", "$default"}
ARN = "arn:aws:execute-api:us-east-1:123456789012:api0000001/prod"


def of_type(resources, kind):
    return {key: item["Properties"] for key, item in resources.items() if item["Type"] == kind}


def statements(role):
    return [part for policy in role.get("Policies", []) for part in policy["PolicyDocument"]["Statement"]]


def listed(value):
    return value if isinstance(value, list) else [value]


def test_generated_files_are_current():
    stale = [path.name for path, text in generate.generated().items() if path.read_text() != text]
    assert not stale, "run python infra/generate.py"


def test_an_existing_role_creates_no_iam_resource(name):
    everything = {key: value for key, value in EVERYTHING.items() if key in source(name)["Parameters"]}
    if name == "existing-role":
        everything["AccessLogs"] = "enabled"
    for parameters in (GIVEN, everything):
        resources = made(name, **parameters, ExistingRoleArn=ROLE).section("Resources")
        assert not [key for key, item in resources.items() if item["Type"].startswith("AWS::IAM::")]
        assert "AWS::ApiGateway::Account" not in {item["Type"] for item in resources.values()}
        text = json.dumps(resources)
        for word in ("Policies", "PolicyDocument", "AssumeRolePolicyDocument", "ManagedPolicyArns", "Role>", "Role.Arn>"):
            assert word not in text
        (function,) = of_type(resources, "AWS::Lambda::Function").values()
        assert function["Role"] == ROLE


def test_the_template_for_existing_roles_mentions_no_iam_resource():
    text = TEMPLATES["existing-role"].read_text()
    assert "AWS::IAM::" not in text and "PolicyDocument" not in text and "AWS::ApiGateway::Account" not in text
    assert "Default" not in source("existing-role")["Parameters"]["ExistingRoleArn"]
    assert not re.search("AWS::IAM::", json.dumps(translated("existing-role", required("existing-role"))))


@pytest.mark.parametrize("name", ["template", "long-form"])
def test_the_role_allows_only_what_the_function_does(name):
    resources = made(name, **GIVEN).section("Resources")
    (role,) = of_type(resources, "AWS::IAM::Role").values()
    assert "ManagedPolicyArns" not in role
    allowed = {}
    for part in statements(role):
        assert part["Effect"] == "Allow"
        for action in listed(part["Action"]):
            allowed[action] = set(listed(part["Resource"]))
    table = {"<Table.Arn>"}
    log = {"<HandlerLogGroup.Arn>"}
    reference = "arn:aws:ssm:us-east-1:123456789012:parameter/aws/reference/secretsmanager/*"
    assert allowed == {
        "dynamodb:GetItem": table,
        "dynamodb:PutItem": table,
        "dynamodb:DeleteItem": table,
        "execute-api:ManageConnections": {f"{ARN}/POST/@connections/*", f"{ARN}/DELETE/@connections/*"},
        "logs:CreateLogStream": log,
        "logs:PutLogEvents": log,
        "ssm:GetParameter": {BRIDGE, JWT, reference},
        "secretsmanager:GetSecretValue": {BRIDGE, JWT},
    }


def test_optional_permissions_are_off_by_default():
    resources = made("template", **EVERYTHING).section("Resources")
    roles = of_type(resources, "AWS::IAM::Role")
    assert all(role["PermissionsBoundary"] == EVERYTHING["PermissionsBoundaryArn"] for role in roles.values())
    by_sid = {part["Sid"]: part for part in statements(roles["HandlerRole"])}
    assert by_sid["SecretsKey"]["Resource"] == EVERYTHING["SecretsKmsKeyArn"]
    assert by_sid["SecretsKey"]["Condition"] == VIA_SECRETS
    assert {sid for sid, part in by_sid.items() if "*" in listed(part["Resource"])} == {
        "NetworkInterfaces",
        "NotByTheFunctionItself",
    }
    no_jwt = made("template", **{**GIVEN, "JwtSecretArn": "", "JwksUrl": "https://id.example.org/jwks"})
    role = of_type(no_jwt.section("Resources"), "AWS::IAM::Role")["HandlerRole"]
    secrets = next(part for part in statements(role) if part["Sid"] == "Secrets")
    assert secrets["Resource"] == [BRIDGE]


def test_no_secret_in_plain_text(name):
    parameters = source(name)["Parameters"]
    assert not [key for key in parameters if re.search("Secret|Token|Password", key) and not key.endswith("Arn")]
    (function,) = of_type(made(name, **required(name)).section("Resources"), "AWS::Lambda::Function").values()
    variables = function["Environment"]["Variables"]
    assert not {"JWT_SECRET", "BRIDGE_SECRET"} & set(variables)
    assert variables["BRIDGE_SECRET_ARN"] == BRIDGE and variables["JWT_SECRET_ARN"] == JWT


def test_every_route_has_an_integration_that_may_invoke(name):
    resources = made(name, **required(name)).section("Resources")
    integrations = of_type(resources, "AWS::ApiGatewayV2::Integration")
    routes = of_type(resources, "AWS::ApiGatewayV2::Route")
    assert {route["RouteKey"] for route in routes.values()} == ROUTES
    assert len(integrations) == len(ROUTES)
    targets = {re.fullmatch(r"integrations/<(\w+)>", route["Target"])[1] for route in routes.values()}
    assert targets == set(integrations)
    for integration in integrations.values():
        assert integration["IntegrationType"] == "AWS_PROXY"
        assert "/functions/<Handler.Arn>/invocations" in integration["IntegrationUri"]
        assert integration["TimeoutInMillis"] == 29000
    permissions = of_type(resources, "AWS::Lambda::Permission")
    assert {item["SourceArn"] for item in permissions.values()} == {f"{ARN}/{key}" for key in ROUTES}
    assert {item["FunctionName"] for item in permissions.values()} == {"<Handler.Arn>"}


@pytest.mark.parametrize("authorization", ["NONE", "AWS_IAM"])
def test_both_forms_expand_to_the_same_routes(authorization):
    """And to the same API, stage, integrations and permissions, except for SAM's tags."""
    kinds = ["Api", "Route", "Integration", "Stage"]
    forms = []
    for name in ("template", "long-form"):
        resources = made(name, **EVERYTHING | {"ConnectAuthorization": authorization}).section("Resources")
        form = {kind: of_type(resources, f"AWS::ApiGatewayV2::{kind}") for kind in kinds}
        form["Permission"] = of_type(resources, "AWS::Lambda::Permission")
        for items in form.values():
            for item in items.values():
                item.pop("Tags", None)
        forms.append(form)
    assert forms[0] == forms[1]
    assert forms[0]["Route"]["ApiConnectRoute"]["AuthorizationType"] == authorization


def test_the_table_expires_records_and_is_retained(name):
    resources = made(name, **required(name)).section("Resources")
    (table,) = (item for item in resources.values() if item["Type"] == "AWS::DynamoDB::Table")
    assert table["DeletionPolicy"] == "RetainExceptOnCreate" and table["UpdateReplacePolicy"] == "Retain"
    table = table["Properties"]
    assert table["TableName"] == "WebSocketConnections"
    assert table["BillingMode"] == "PAY_PER_REQUEST"
    assert table["TimeToLiveSpecification"] == {"AttributeName": "expiresAt", "Enabled": True}
    assert table["SSESpecification"] == {"SSEEnabled": True}
    assert table["PointInTimeRecoverySpecification"] == {"PointInTimeRecoveryEnabled": True}
    assert [index["IndexName"] for index in table["GlobalSecondaryIndexes"]] == ["SessionIdIndex"]


def test_logs_expire_and_hold_no_query_string(name):
    parameters = required(name) | {"AccessLogs": "enabled"}
    resources = made(name, **parameters).section("Resources")
    groups = of_type(resources, "AWS::Logs::LogGroup")
    assert len(groups) == 2 and all(group["RetentionInDays"] for group in groups.values())
    (stage,) = of_type(resources, "AWS::ApiGatewayV2::Stage").values()
    assert stage["DefaultRouteSettings"]["LoggingLevel"] == "OFF"
    assert stage["DefaultRouteSettings"]["DataTraceEnabled"] is False
    line = stage["AccessLogSettings"]["Format"]
    assert set(json.loads(line)) >= {"requestId", "routeKey", "status"}
    assert not re.search(r"query|header|request\.|path|userAgent", line, re.I)
    (function,) = of_type(resources, "AWS::Lambda::Function").values()
    # Lambda treats lines without a level, such as metrics, as INFO.
    assert function["LoggingConfig"] == {
        "LogFormat": "JSON",
        "SystemLogLevel": "WARN",
        "ApplicationLogLevel": "TRACE",
        "LogGroup": "<HandlerLogGroup>",
    }


def test_the_stage_is_throttled_and_has_no_paid_metrics(name):
    for given, rate, burst in (({}, "2000", "1000"), ({"ThrottleRate": "7", "ThrottleBurst": "5"}, "7", "5")):
        resources = made(name, **required(name), **given).section("Resources")
        (stage,) = of_type(resources, "AWS::ApiGatewayV2::Stage").values()
        settings = stage["DefaultRouteSettings"]
        assert (settings["ThrottlingRateLimit"], settings["ThrottlingBurstLimit"]) == (rate, burst)
        assert settings["DetailedMetricsEnabled"] is False, "they cost money and are unused"


def test_access_logs_are_off_by_default():
    """API Gateway refuses the stage where the account has no CloudWatch role."""
    resources = made("template", **GIVEN).section("Resources")
    (stage,) = of_type(resources, "AWS::ApiGatewayV2::Stage").values()
    assert "AccessLogSettings" not in stage


@pytest.mark.parametrize("name", ["template", "long-form"])
def test_the_role_for_access_logs_comes_before_the_stage(name):
    resources = made(name, **EVERYTHING).section("Resources")
    assert resources["AccessLogGroup"]["Properties"]["Tags"][0]["Value"] == "<Account>"
    (stage,) = of_type(resources, "AWS::ApiGatewayV2::Stage").values()
    assert stage["AccessLogSettings"]["DestinationArn"].endswith(":<AccessLogGroup>")


def test_the_function(name):
    (function,) = of_type(made(name, **required(name)).section("Resources"), "AWS::Lambda::Function").values()
    assert function["Runtime"] == "provided.al2023" and function["Architectures"] == ["arm64"]
    assert function["Timeout"] == 29 and int(function["MemorySize"]) == 256
    assert "VpcConfig" not in function and "ReservedConcurrentExecutions" not in function
    (written,) = (item for item in source(name)["Resources"].values() if item["Type"] == "AWS::Serverless::Function")
    assert written["Metadata"] == {"BuildMethod": "rust-cargolambda", "BuildProperties": {"Binary": "websocket-handler"}}
    path = TEMPLATES[name].parent / written["Properties"]["CodeUri"]
    assert 'name = "websocket-handler"' in (path / "Cargo.toml").read_text()


def test_environment_variables_are_settings_of_the_function(name):
    config = (TEMPLATES["template"].parent / "crates/lambda/src/config.rs").read_text()
    (function,) = of_type(made(name, **required(name)).section("Resources"), "AWS::Lambda::Function").values()
    for variable in function["Environment"]["Variables"]:
        assert f"pub {variable.lower()}:" in config, variable


@pytest.mark.parametrize(
    ("more", "client", "callback"),
    [
        ({}, "wss://api0000001.execute-api.us-east-1.amazonaws.com/prod", None),
        ({"CustomDomainName": "ws.example.org", "CertificateArn": "c"}, "wss://ws.example.org", None),
        (
            {"CustomDomainName": "ws.example.org", "CertificateArn": "c", "DefaultEndpoint": "disabled"},
            "wss://ws.example.org",
            "https://ws.example.org",
        ),
    ],
)
def test_addresses(name, more, client, callback):
    stack = made(name, **required(name), **more)
    outputs = {key: item["Value"] for key, item in stack.section("Outputs").items()}
    callback = callback or "https://api0000001.execute-api.us-east-1.amazonaws.com/prod"
    assert outputs["WebSocketUrl"] == client
    assert outputs["CallbackUrl"] == callback and outputs["ConnectionsUrl"] == f"{callback}/@connections"
    (function,) = of_type(stack.section("Resources"), "AWS::Lambda::Function").values()
    variables = function["Environment"]["Variables"]
    stage = f"/{variables['STAGE']}" if variables["STAGE"] else ""
    assert f"https://{variables['DOMAIN_NAME']}{stage}" == callback


def test_outputs_cover_the_backends_parameters(name):
    outputs = made(name, **required(name)).section("Outputs")
    assert set(outputs) >= {
        "WebSocketUrl", "ConnectionsUrl", "CallbackUrl", "BackendPushResource", "BackendBridgeSecretArn",
        "BackendAllowedOrigins", "Region", "ApiId", "Stage", "FunctionName", "TableName", "LogGroupName",
    }
    assert all(item["Value"] and item["Description"] for item in outputs.values())
    assert outputs["BackendPushResource"]["Value"].startswith(ARN)


FUNCTION = {"FunctionName": "<Handler>"}
STAGE = {"ApiId": "api0000001", "Stage": "prod"}
OWN = "Shellbridge/shellbridge"
# Namespace, metric, dimensions and statistic of each alarm: with a wrong one, an alarm would never fire.
ALARMS = {
    "ServerErrorAlarm": [
        (OWN, "Refusals", {"Route": "$connect"}, "Sum"),
        ("AWS/ApiGateway", "IntegrationError", STAGE, "Sum"),
        ("AWS/ApiGateway", "ExecutionError", STAGE, "Sum"),
    ],
    "HandlerErrorAlarm": [("AWS/Lambda", "Errors", FUNCTION, "Sum")],
    "ThrottleAlarm": [("AWS/Lambda", "Throttles", FUNCTION, "Sum")],
    "LatencyAlarm": [("AWS/Lambda", "Duration", FUNCTION, "p99")],
    "RefusedConnectAlarm": [(OWN, "Refusals", {"Route": "$connect"}, "Sum")],
    "DeadBackendAlarm": [(OWN, "BackendFailures", {}, "Sum")],
}


def watched(alarm):
    """Returns the metrics of an alarm, from its properties or from `Metrics`."""
    parts = [part["MetricStat"] for part in alarm.get("Metrics", []) if "MetricStat" in part]
    found = [(part["Metric"], part["Stat"]) for part in parts]
    found = found or [(alarm, alarm.get("Statistic", alarm.get("ExtendedStatistic")))]
    return [
        (metric["Namespace"], metric["MetricName"], dimensions(metric), statistic) for metric, statistic in found
    ]


def dimensions(metric):
    return {item["Name"]: item["Value"] for item in metric.get("Dimensions", [])}


def test_alarms_and_dashboard(name):
    parameters = required(name) | {"AlarmTopicArn": EVERYTHING["AlarmTopicArn"]}
    resources = made(name, **parameters).section("Resources")
    alarms = of_type(resources, "AWS::CloudWatch::Alarm")
    assert {key: watched(alarm) for key, alarm in alarms.items()} == ALARMS
    for alarm in alarms.values():
        assert alarm["AlarmActions"] == alarm["OKActions"] == [EVERYTHING["AlarmTopicArn"]] and alarm["AlarmDescription"]
        assert alarm["TreatMissingData"] == "notBreaching", "there are no data points without traffic"
        assert alarm["ComparisonOperator"].startswith("GreaterThan")
    (dashboard,) = of_type(resources, "AWS::CloudWatch::Dashboard").values()
    assert len(json.loads(dashboard["DashboardBody"])["widgets"]) == 9
    # The dashboard reads custom metrics from this function's namespace, under names that the function writes.
    (function,) = of_type(resources, "AWS::Lambda::Function").values()
    namespace = function["Environment"]["Variables"]["METRICS_NAMESPACE"]
    assert namespace == OWN
    (filtered,) = of_type(resources, "AWS::Logs::MetricFilter").values()
    (transformation,) = filtered["MetricTransformations"]
    assert filtered["LogGroupName"] == "<HandlerLogGroup>" and transformation["MetricValue"] == "1"
    assert (transformation["MetricNamespace"], transformation["MetricName"]) == ALARMS["DeadBackendAlarm"][0][:2]
    assert set(re.findall(r'"(Shellbridge[^"]*)"', dashboard["DashboardBody"])) == {namespace}
    metrics = (TEMPLATES["template"].parent / "crates/lambda/src/metrics.rs").read_text()
    for metric in ["Refusals", "BackendMs", "PushMs", "Frames", "BytesIn", "BytesOut"]:
        field = re.sub("(?<=[a-z])(?=[A-Z])", "_", metric).lower()
        assert f'"{metric}"' in dashboard["DashboardBody"]
        assert re.search(rf"\b({field}:|{metric}\()", metrics), metric
    errors = {metric["Id"]: metric for metric in alarms["ServerErrorAlarm"]["Metrics"]}
    assert errors["errors"]["Expression"].endswith("- FILL(refusals, 0)")


def test_the_dead_backend_alarm_covers_every_failure():
    """The filter must match every failure that the function can log."""
    code = "".join(path.read_text() for path in (TEMPLATES["template"].parent / "crates/lambda/src").glob("*.rs"))
    words = set(re.findall(r'Unavailable\("(\w+)"\)', code)) | {"backend_timeout", "backend_refused_signature"}
    words -= {"no_http_client"}
    pattern = source("template")["Resources"]["BackendFailureMetric"]["Properties"]["FilterPattern"]
    assert words <= set(re.findall(r'"(\w+)"', pattern))
    assert len(pattern) <= 1024


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        ({}, None),
        ({"JwksUrl": "https://id.example.org/jwks"}, "exactly one"),
        ({"JwtSecretArn": ""}, "exactly one"),
        ({"JwtSecretArn": BRIDGE}, "must differ"),
        ({"CustomDomainName": "ws.example.org"}, "requires CertificateArn"),
        ({"DefaultEndpoint": "disabled"}, "requires CustomDomainName"),
    ],
)
def test_rules(name, more, complaint):
    complaints = made(name, **{**required(name), **more}).rules()
    assert bool(complaints) == bool(complaint)
    assert not complaint or complaint in complaints[0]


def test_empty_parameters_count_as_unset(name):
    """A parameter left at its empty default adds no resource."""
    template = source(name)
    bare = made(name, **required(name)).section("Resources")
    empty = {key: "" for key, item in template["Parameters"].items() if item.get("Default") == ""}
    assert made(name, **{**empty, **required(name)}).section("Resources") == bare
    assert "Domain" not in bare and "DomainRecord" not in bare
