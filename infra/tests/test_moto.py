"""Deploys the translated template to moto's CloudFormation server, and checks that its resources refer to each other.

moto's CloudFormation lacks API Gateway v2 and some others. Of those, API calls with the template's properties create the
API, its integrations, routes and stage; the rest is in `NOT_MADE` and not tested here.
"""

from __future__ import annotations

import io
import json
import re
import zipfile

import pytest
from conftest import GIVEN, INFRA, ROLE, required, translated
from evaluate import Evaluation
from moto.cloudformation.parsing import resource_class_from_type

# Not created here. moto also ignores the TTL, encryption and recovery of a table, and serves no WebSockets.
NOT_MADE = {"AWS::CloudWatch::Alarm", "AWS::Logs::MetricFilter"}
BY_CALLS = {f"AWS::ApiGatewayV2::{kind}" for kind in ("Api", "Integration", "Route", "RouteResponse", "Stage")}


def camel(properties, shape):
    """Converts properties to the types that boto3 expects."""
    numbers = {"integer": int, "double": float}
    result = {}
    for key, value in properties.items():
        member = shape.members[key]
        if member.type_name == "structure":
            value = camel(value, member)
        result[key] = numbers.get(member.type_name, lambda same: same)(value)
    return result


def with_ids(value, ids):
    """Replaces references in `value` to resources created by API calls with their ids."""
    if isinstance(value, list):
        return [with_ids(item, ids) for item in value]
    if not isinstance(value, dict):
        return value
    if set(value) == {"Ref"} and value["Ref"] in ids:
        return ids[value["Ref"]]
    if set(value) == {"Fn::GetAtt"} and value["Fn::GetAtt"][0] in ids:
        return ids[value["Fn::GetAtt"][0]]
    if set(value) == {"Fn::Sub"}:
        return {"Fn::Sub": sub_ids(value["Fn::Sub"], ids)}
    return {key: with_ids(item, ids) for key, item in value.items()}


def sub_ids(argument, ids):
    if isinstance(argument, list):
        return [sub_ids(argument[0], ids), with_ids(argument[1], ids)]
    return re.sub(r"\$\{(\w+)(\.ApiId)?\}", lambda match: ids.get(match[1], match[0]), argument)


def deploy(client, name, parameters):
    """Creates the stack, and by API calls the resources that moto's CloudFormation lacks."""
    s3 = client("s3")
    s3.create_bucket(Bucket="bucket")
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("bootstrap", "")
    s3.put_object(Bucket="bucket", Key="key", Body=archive.getvalue())

    template = translated(name, parameters)
    gateway = client("apigatewayv2")
    model = gateway.meta.service_model

    def call(kind, properties):
        operation = f"Create{kind}"
        method = getattr(gateway, re.sub(r"(?<!^)(?=[A-Z])", "_", operation).lower())
        return method(**camel(properties, model.operation_model(operation).input_shape))

    before = Evaluation(template, parameters)
    api = call("Api", before.section("Resources")["Api"]["Properties"])
    ids = {"Api": api["ApiId"]}

    unmade = {key for key, item in template["Resources"].items() if item["Type"] in BY_CALLS | NOT_MADE}
    conditional = {key for key, item in template["Resources"].items() if key not in before.section("Resources")}
    body = {
        **template,
        "Resources": with_ids(
            {key: item for key, item in template["Resources"].items() if key not in unmade | conditional}, ids
        ),
        "Outputs": with_ids(
            {
                key: item
                for key, item in template["Outputs"].items()
                if key in before.section("Outputs")
            },
            ids,
        ),
    }
    body.pop("Rules")
    formation = client("cloudformation")
    formation.create_stack(
        StackName="shellbridge",
        TemplateBody=json.dumps(body),
        Capabilities=["CAPABILITY_IAM"],
        Parameters=[{"ParameterKey": key, "ParameterValue": value} for key, value in parameters.items()],
    )
    physical = {
        item["LogicalResourceId"]: item
        for item in formation.describe_stack_resources(StackName="shellbridge")["StackResources"]
    }
    function = client("lambda").get_function(FunctionName=physical["Handler"]["PhysicalResourceId"])["Configuration"]

    names = {"Api": ids["Api"], "Api.ApiId": ids["Api"], "Handler.Arn": function["FunctionArn"]}
    for kind in ("Integration", "Route", "RouteResponse", "Stage"):
        resources = Evaluation(template, parameters, names).section("Resources")
        for key, item in resources.items():
            if item["Type"] == f"AWS::ApiGatewayV2::{kind}":
                answer = call(kind, item["Properties"])
                names[key] = answer.get(f"{kind}Id", answer.get("StageName"))
    (stack,) = formation.describe_stacks(StackName="shellbridge")["Stacks"]
    outputs = {item["OutputKey"]: item["OutputValue"] for item in stack["Outputs"]}
    assert stack["StackStatus"] == "CREATE_COMPLETE"
    return ids["Api"], function, physical, outputs


def test_resources_that_moto_lacks_are_listed():
    kinds = {item["Type"] for item in translated("template", GIVEN)["Resources"].values()}
    always = {item["Type"] for item in Evaluation(translated("template", GIVEN), GIVEN).section("Resources").values()}
    unknown = {kind for kind in kinds if resource_class_from_type(kind) is None}
    assert unknown & always == BY_CALLS | NOT_MADE


@pytest.mark.parametrize("role", [None, ROLE])
@pytest.mark.parametrize("name", ["template", "existing-role", "long-form"])
def test_the_deployed_stack_is_wired_together(client, name, role):
    parameters = required(name) | ({"ExistingRoleArn": role} if role else {})
    if role or name == "existing-role":
        # moto requires the role of a function to exist.
        trust = (INFRA / "iam/function-trust.json").read_text()
        client("iam").create_role(RoleName="given", AssumeRolePolicyDocument=trust)
    api, function, physical, outputs = deploy(client, name, parameters)
    gateway = client("apigatewayv2")

    integrations = {item["IntegrationId"]: item for item in gateway.get_integrations(ApiId=api)["Items"]}
    routes = {item["RouteKey"]: item for item in gateway.get_routes(ApiId=api)["Items"]}
    assert set(routes) == {"$connect", "$disconnect", "$default"}
    # With a response, a refused handshake carries the function's body. The other routes are one-way.
    answered = {key: route.get("RouteResponseSelectionExpression") for key, route in routes.items()}
    assert answered == {"$connect": "$default", "$disconnect": None, "$default": None}
    for route in routes.values():
        integration = integrations[route["Target"].removeprefix("integrations/")]
        assert f"/functions/{function['FunctionArn']}/invocations" in integration["IntegrationUri"]
    (stage,) = gateway.get_stages(ApiId=api)["Items"]
    assert stage["StageName"] == "prod"

    variables = function["Environment"]["Variables"]
    assert variables["DOMAIN_NAME"] == f"{api}.execute-api.us-east-1.amazonaws.com" and variables["STAGE"] == "prod"
    table = client("dynamodb").describe_table(TableName=variables["TABLE_NAME"])["Table"]
    assert table["KeySchema"] == [{"AttributeName": "connectionId", "KeyType": "HASH"}]
    assert table["GlobalSecondaryIndexes"][0]["IndexName"] == "SessionIdIndex"
    policy = json.loads(client("lambda").get_policy(FunctionName=function["FunctionName"])["Policy"])
    assert {part["Condition"]["ArnLike"]["AWS:SourceArn"].rsplit("/", 1)[1] for part in policy["Statement"]} == set(routes)
    (dashboard,) = client("cloudwatch").list_dashboards()["DashboardEntries"]
    body = client("cloudwatch").get_dashboard(DashboardName=dashboard["DashboardName"])["DashboardBody"]
    assert json.loads(body) and api in body

    roles = client("iam").list_roles()["Roles"]
    assert [item["Arn"] for item in roles] == [function["Role"]]
    if role:
        assert function["Role"] == ROLE
    groups = {item["logGroupName"]: item for item in client("logs").describe_log_groups()["logGroups"]}
    assert groups[outputs["LogGroupName"]]["retentionInDays"] == 30
    assert outputs["WebSocketUrl"] == f"wss://{api}.execute-api.us-east-1.amazonaws.com/prod"
    assert outputs["FunctionName"] == function["FunctionName"] and outputs["TableName"] == table["TableName"]
