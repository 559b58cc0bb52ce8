"""Generates files derived from the templates: `python infra/generate.py`; `--check` only reports whether they are current.

- template-existing-role.yaml has no IAM resources, for accounts whose policies reject templates that mention any.
- template-long-form.yaml has plain ApiGatewayV2 resources, for regions whose SAM transform lacks
  AWS::Serverless::WebSocketApi.
- iam/*.json are the policies of the roles in the templates, for administrators who create the roles by hand.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from evaluate import Evaluation
from samtags import Tag, dump, load, long, short

INFRA = Path(__file__).resolve().parent
SOURCE = INFRA.parent / "template.yaml"


def walk(value: Any):
    """Yields `value` and everything in it."""
    yield value
    inner = value.value if isinstance(value, Tag) else value
    if isinstance(value, Tag):
        yield from walk(inner)
    elif isinstance(inner, dict):
        for item in inner.values():
            yield from walk(item)
    elif isinstance(inner, list):
        for item in inner:
            yield from walk(item)


def decide(value: Any, known: dict[str, bool]) -> Any:
    """Returns `value` with the conditions in `known` resolved."""
    if isinstance(value, Tag):
        if value.name == "If" and value.value[0] in known:
            return decide(value.value[1 if known[value.value[0]] else 2], known)
        return Tag(value.name, decide(value.value, known))
    if isinstance(value, dict):
        return {key: decide(item, known) for key, item in value.items()}
    if isinstance(value, list):
        return [decide(item, known) for item in value]
    return value


def names_in(value: Any, tags: set[str]) -> set[str]:
    """Returns the names that short tags named `tags` refer to."""
    found = set()
    for part in walk(value):
        if isinstance(part, Tag) and part.name in tags:
            text = part.value[0] if isinstance(part.value, list) else part.value
            if part.name == "Sub":
                found.update(re.findall(r"\$\{([A-Za-z0-9]+)", text))
            elif isinstance(text, str):
                found.add(text.split(".")[0])
    return found


def existing_role(template: dict[str, Any]) -> dict[str, Any]:
    """Returns the template without IAM resources and their dependents."""
    roles = {name for name, resource in template["Resources"].items() if resource["Type"].startswith("AWS::IAM::")}
    # Resources that exist only together with a role.
    gone = {"CreateRole", *(template["Resources"][name]["Condition"] for name in roles)}
    resources = {
        name: resource for name, resource in template["Resources"].items() if resource.get("Condition") not in gone
    }
    result = decide({**template, "Resources": resources}, dict.fromkeys(gone, False))
    result["Description"] += " - with an existing role"
    role = result["Parameters"]["ExistingRoleArn"]
    del role["Default"]
    role["Description"] = "Existing role for the function (infra/iam/function-policy.json)"
    role["AllowedPattern"] = role["AllowedPattern"].replace("^(", "^").replace(")?$", "$")
    role["ConstraintDescription"] = "must be the ARN of a role"
    logs = result["Parameters"]["AccessLogs"]
    logs["AllowedValues"] = [value for value in logs["AllowedValues"] if value != "enabled-with-account-role"]
    logs["Description"] = "Enabled requires a CloudWatch role in the region's API Gateway settings"
    result["Conditions"] = {name: value for name, value in result["Conditions"].items() if name not in gone}
    prune(result)
    return result


def prune(template: dict[str, Any]) -> None:
    """Drops unused conditions and parameters."""
    conditions = template["Conditions"]
    while True:
        used = names_in(template, {"If", "Condition"})
        for section in ("Resources", "Outputs"):
            used |= {item["Condition"] for item in template[section].values() if "Condition" in item}
        unused = set(conditions) - used
        if not unused:
            break
        for name in unused:
            del conditions[name]
    used = names_in({k: v for k, v in template.items() if k != "Parameters"}, {"Ref", "Sub"})
    for name in set(template["Parameters"]) - used:
        del template["Parameters"][name]
    interface = template["Metadata"]["AWS::CloudFormation::Interface"]
    for group in interface["ParameterGroups"]:
        group["Parameters"] = [name for name in group["Parameters"] if name in template["Parameters"]]


def long_form(template: dict[str, Any]) -> dict[str, Any]:
    """Returns the template with the WebSocket API as plain resources. The function stays SAM's, for `sam build`."""
    (name,) = (n for n, r in template["Resources"].items() if r["Type"] == "AWS::Serverless::WebSocketApi")
    api = template["Resources"][name]["Properties"]
    resources: dict[str, Any] = {}
    here = Tag("Ref", name)
    stage_name = api["StageName"]
    assert stage_name == Tag("Ref", "StageName"), "the permissions below take the stage from this parameter"
    properties = {
        "Name": api["Name"],
        "Description": api["Description"],
        "ProtocolType": "WEBSOCKET",
        "RouteSelectionExpression": api["RouteSelectionExpression"],
        "DisableExecuteApiEndpoint": api["DisableExecuteApiEndpoint"],
        "Tags": api["Tags"],
    }
    resources[name] = {"Type": "AWS::ApiGatewayV2::Api", "Properties": properties}
    for key, route in api["Routes"].items():
        base = name + key.removeprefix("$").capitalize()
        function = route["FunctionArn"]
        route_properties = {"ApiId": here, "RouteKey": key}
        if key == "$connect":
            route_properties["AuthorizationType"] = api["Auth"]["AuthType"]
        if "RouteResponseSelectionExpression" in route:
            route_properties["RouteResponseSelectionExpression"] = route["RouteResponseSelectionExpression"]
        route_properties["Target"] = Tag("Sub", f"integrations/${{{base}Integration}}")
        resources[f"{base}Route"] = {"Type": "AWS::ApiGatewayV2::Route", "Properties": route_properties}
        resources[f"{base}Integration"] = {
            "Type": "AWS::ApiGatewayV2::Integration",
            "Properties": {
                "ApiId": here,
                "IntegrationType": "AWS_PROXY",
                "IntegrationUri": Tag(
                    "Sub",
                    "arn:${AWS::Partition}:apigateway:${AWS::Region}:lambda:path/2015-03-31/functions/"
                    f"${{{function.value}}}/invocations",
                ),
                "TimeoutInMillis": route["IntegrationTimeout"],
            },
        }
        resources[f"{base}Permission"] = {
            "Type": "AWS::Lambda::Permission",
            "Properties": {
                "Action": "lambda:InvokeFunction",
                "FunctionName": function,
                "Principal": "apigateway.amazonaws.com",
                "SourceArn": Tag(
                    "Sub",
                    "arn:${AWS::Partition}:execute-api:${AWS::Region}:${AWS::AccountId}:"
                    f"${{{name}}}/${{StageName}}/{key}",
                ),
            },
        }
    resources[f"{name}Stage"] = {
        "Type": "AWS::ApiGatewayV2::Stage",
        "Properties": {
            "ApiId": here,
            "StageName": stage_name,
            "AutoDeploy": True,
            "DefaultRouteSettings": api["DefaultRouteSettings"],
            "AccessLogSettings": api["AccessLogSettings"],
        },
    }
    known = {"Name", "Description", "RouteSelectionExpression", "StageName", "DisableExecuteApiEndpoint", "Auth",
             "Routes", "DefaultRouteSettings", "AccessLogSettings", "Tags"}
    assert set(api) <= known, f"spell out {set(api) - known} too"
    for other, resource in template["Resources"].items():
        if other != name:
            resources[other] = rename(resource, f"{name}.Stage", f"{name}Stage")
    return {
        **template,
        "Description": template["Description"] + " - long form",
        "Resources": resources,
        "Outputs": rename(template["Outputs"], f"{name}.Stage", f"{name}Stage"),
    }


def rename(value: Any, old: str, new: str) -> Any:
    """Returns `value` with references to `old` renamed to `new`."""
    if isinstance(value, Tag):
        return Tag(value.name, new if value.name == "Ref" and value.value == old else rename(value.value, old, new))
    if isinstance(value, dict):
        return {key: rename(item, old, new) for key, item in value.items()}
    if isinstance(value, list):
        return [rename(item, old, new) for item in value]
    return value


def moved(template: dict[str, Any]) -> dict[str, Any]:
    """Adjusts relative paths for a template in a subdirectory."""
    for resource in template["Resources"].values():
        if resource["Type"] == "AWS::Serverless::Function":
            resource["Properties"]["CodeUri"] = f"../{resource['Properties']['CodeUri']}"
    application = template["Metadata"]["AWS::ServerlessRepo::Application"]
    for key in ("LicenseUrl", "ReadmeUrl"):
        application[key] = f"../{application[key]}"
    return template


# Template, role in it, name of its files, and optional statements by their condition.
ROLES = [
    ("../template.yaml", "HandlerRole", "function", {"HasSecretsKey": "kms", "InVpc": "vpc"}),
    ("../template.yaml", "AccountRole", "account-logs", {}),
    ("backend-ecs-service.yaml", "ExecutionRole", "backend-execution", {"HasSecretsKey": "kms"}),
    ("backend-ecs-service.yaml", "TaskRole", "backend-task", {"HasRedis": "fleet"}),
    ("backend-ecs-express.yaml", "InfrastructureRole", "backend-express-infrastructure", {}),
    ("backend-apprunner.yaml", "InstanceRole", "backend-apprunner", {"HasSecretsKey": "kms"}),
    ("backend-apprunner.yaml", "AccessRole", "backend-apprunner-access", {}),
]
# Conditions assumed to hold in the policies: administrators leave out what they do not use.
ASSUMED = {"HasJwtSecret", "HasJwtPrivateKey", "HasAdminToken", "HasRedisUrl"}
# Placeholders for values that CloudFormation would fill in; iam/fill.py replaces them.
PLACES = {
    "AWS::AccountId": "${ACCOUNT_ID}",
    "AWS::Partition": "${PARTITION}",
    "AWS::Region": "${REGION}",
    "AWS::StackName": "${STACK}",
    "AWS::URLSuffix": "amazonaws.com",
    "Api": "${API_ID}",
    "ApiId": "${API_ID}",
    "StageName": "${STAGE}",
    "BridgeSecretArn": "${BRIDGE_SECRET_ARN}",
    "JwtSecretArn": "${JWT_SECRET_ARN}",
    "JwtPrivateKeyArn": "${JWT_PRIVATE_KEY_ARN}",
    "AdminTokenArn": "${ADMIN_TOKEN_ARN}",
    "RedisUrlArn": "${REDIS_URL_ARN}",
    "SecretsKmsKeyArn": "${SECRETS_KMS_KEY_ARN}",
    # CloudFormation adds a random suffix.
    "Cluster": "${STACK}-Cluster-*",
    "Table.Arn": "arn:${PARTITION}:dynamodb:${REGION}:${ACCOUNT_ID}:table/${TABLE}",
    "HandlerLogGroup.Arn": "arn:${PARTITION}:logs:${REGION}:${ACCOUNT_ID}:log-group:/aws/lambda/${STACK}-websocket-handler:*",
    "LogGroup.Arn": "arn:${PARTITION}:logs:${REGION}:${ACCOUNT_ID}:log-group:/shellbridge/${STACK}:*",
}


class _Assuming(Evaluation):
    """Evaluates exactly the conditions in `true` as true."""

    true: frozenset[str]

    def condition(self, name: str) -> bool:
        return name in self.true


def policies() -> dict[Path, str]:
    """Returns the text of each generated file in iam/."""
    texts = {}
    for path, role, name, optional in ROLES:
        template = long(load((INFRA / path).read_text()))
        evaluation = _Assuming(template, dict.fromkeys(template["Parameters"], "x"), PLACES)

        def statements(*true: str, evaluation: Evaluation = evaluation, role: str = role) -> list[Any]:
            evaluation.true = frozenset(ASSUMED | set(true))
            properties = evaluation.value(template["Resources"][role]["Properties"])
            return [part for policy in properties.get("Policies", []) for part in policy["PolicyDocument"]["Statement"]]

        properties = template["Resources"][role]["Properties"]
        always = statements()
        documents = {f"{name}-trust": evaluation.value(properties["AssumeRolePolicyDocument"])["Statement"]}
        if always:
            documents[f"{name}-policy"] = always
        for condition, suffix in optional.items():
            documents[f"{name}-policy-{suffix}"] = [part for part in statements(condition) if part not in always]
        for file, parts in documents.items():
            text = json.dumps({"Version": "2012-10-17", "Statement": parts}, indent=2)
            texts[INFRA / "iam" / f"{file}.json"] = f"{text}\n"
    return texts


def generated() -> dict[Path, str]:
    """Returns the text of each generated file."""
    texts = {}
    for path, make in (("template-existing-role.yaml", existing_role), ("template-long-form.yaml", long_form)):
        text = dump(short(moved(make(load(SOURCE.read_text())))))
        texts[INFRA / path] = f"# Generated from ../template.yaml by generate.py. Do not edit; comments are in the source.\n{text}"
    return texts | policies()


def main() -> int:
    stale = [path for path, text in generated().items() if not path.exists() or path.read_text() != text]
    if "--check" in sys.argv[1:]:
        for path in stale:
            print(f"{path.relative_to(INFRA.parent)} is stale: run python infra/generate.py")
        return 1 if stale else 0
    for path, text in generated().items():
        path.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
