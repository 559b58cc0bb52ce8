"""Deploys the ECS service to moto's CloudFormation server: as one task, as several with Redis, and with its own Redis.

API calls with the template's properties create what moto's CloudFormation lacks, so that names and types are checked too.
"""

from __future__ import annotations

import ast
import json

import pytest
from conftest import INFRA
from evaluate import Evaluation
from moto.cloudformation.parsing import resource_class_from_type
from samtags import load, long
from test_backend import COMMON
from test_fleet import REDIS_URL
from test_moto import camel, with_ids

TEMPLATE = long(load((INFRA / "backend-ecs-service.yaml").read_text()))
SCALING = {"AWS::ApplicationAutoScaling::ScalableTarget", "AWS::ApplicationAutoScaling::ScalingPolicy"}
REDIS = {"AWS::ElastiCache::ReplicationGroup", "AWS::ElastiCache::SubnetGroup", "AWS::SecretsManager::Secret"}
# Not created here.
NOT_MADE = {"AWS::CloudWatch::Alarm", "AWS::EC2::SecurityGroupEgress"}
FORMS = {
    "one task": {},
    "several tasks": {"RedisUrlArn": REDIS_URL, "DesiredCount": "2", "MaxCount": "6"},
    "several tasks and their Redis": {"CreateRedis": "true", "DesiredCount": "3"},
}


def network(client):
    """Returns parameters for a VPC with two subnets, and a certificate."""
    ec2 = client("ec2")
    vpc = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
    subnets = [
        ec2.create_subnet(VpcId=vpc, CidrBlock=f"10.0.{index}.0/24", AvailabilityZone=f"us-east-1{zone}")["Subnet"]["SubnetId"]
        for index, zone in enumerate("ab")
    ]
    certificate = client("acm").request_certificate(DomainName="backend.example.org")["CertificateArn"]
    listed = ",".join(subnets)
    return {"VpcId": vpc, "LoadBalancerSubnetIds": listed, "TaskSubnetIds": listed, "CertificateArn": certificate}


def call(api, operation, properties):
    shape = api.meta.service_model.operation_model(operation).input_shape
    method = getattr(api, "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in operation).lstrip("_"))
    return method(**typed(properties, shape))


def typed(value, shape):
    """As `camel`, and with true numbers for CloudFormation's strings, also in lists."""
    if shape.type_name == "structure":
        return {key: typed(item, shape.members[key]) for key, item in camel(value, shape).items()}
    if shape.type_name == "list":
        return [typed(item, shape.member) for item in value]
    return {"integer": int, "double": float}.get(shape.type_name, lambda same: same)(value)


def deploy(client, parameters):
    """Creates the stack; returns its resources' names by logical name, and the outputs."""
    before = Evaluation(TEMPLATE, parameters)
    assert not before.rules()
    ids = {}
    if parameters.get("CreateRedis") == "true":
        secrets = client("secretsmanager")
        for name in ("RedisPassword", "RedisUrl"):
            ids[name] = secrets.create_secret(Name=name, SecretString="x" * 64)["ARN"]
    lacking = {name for name, item in TEMPLATE["Resources"].items() if item["Type"] in SCALING | REDIS | NOT_MADE}
    absent = set(TEMPLATE["Resources"]) - set(before.section("Resources"))
    resources = {name: item for name, item in TEMPLATE["Resources"].items() if name not in lacking | absent}
    body = {**TEMPLATE, "Resources": with_ids(resources, ids)}
    body.pop("Rules")
    formation = client("cloudformation")
    formation.create_stack(
        StackName="shellbridge",
        TemplateBody=json.dumps(body),
        Capabilities=["CAPABILITY_IAM"],
        Parameters=[{"ParameterKey": key, "ParameterValue": value} for key, value in parameters.items()],
    )
    (stack,) = formation.describe_stacks(StackName="shellbridge")["Stacks"]
    assert stack["StackStatus"] == "CREATE_COMPLETE"
    listed = formation.describe_stack_resources(StackName="shellbridge")["StackResources"]
    ids |= {item["LogicalResourceId"]: item.get("PhysicalResourceId", "") for item in listed}
    return ids, {item["OutputKey"]: item["OutputValue"] for item in stack["Outputs"]}


def test_resources_that_moto_lacks_are_listed():
    kinds = {item["Type"] for item in TEMPLATE["Resources"].values()}
    assert {kind for kind in kinds if resource_class_from_type(kind) is None} == SCALING | REDIS | NOT_MADE


@pytest.mark.parametrize("form", FORMS)
def test_the_deployed_service_is_wired_together(client, form):
    parameters = {**COMMON, **network(client), **FORMS[form]}
    ids, outputs = deploy(client, parameters)
    fleet = form != "one task"

    ecs = client("ecs")
    (service,) = ecs.describe_services(cluster=ids["Cluster"], services=[ids["Service"]])["services"]
    if "MaxCount" not in parameters:
        assert service["desiredCount"] == int(parameters.get("DesiredCount", 1))
    definition = ecs.describe_task_definition(taskDefinition=service["taskDefinition"])["taskDefinition"]
    (container,) = definition["containerDefinitions"]
    # moto leaves nulls where CloudFormation drops AWS::NoValue from lists.
    secrets = {item["name"]: item["valueFrom"] for item in container["secrets"] if item}
    url = {"several tasks": REDIS_URL, "several tasks and their Redis": ids.get("RedisUrl")}.get(form)
    assert secrets.get("REDIS_URL") == url
    environment = {item["name"]: item["value"] for item in container["environment"] if item}
    assert environment["SHELL_SANDBOX"] == "user" and ("DRAIN_MAX" in environment) == fleet

    iam = client("iam")

    def allowed(role):
        (policy,) = iam.list_role_policies(RoleName=ids[role])["PolicyNames"]
        document = iam.get_role_policy(RoleName=ids[role], PolicyName=policy)["PolicyDocument"]
        # moto has written it as Python.
        parts = ast.literal_eval(document)["Statement"]
        return {part["Sid"]: part["Resource"] for part in parts if part}

    pushes = allowed("TaskRole")
    assert set(pushes) == ({"Push", "Protect"} if fleet else {"Push"})
    if fleet:
        cluster = ids["Cluster"].rsplit("/", 1)[-1]
        assert pushes["Protect"] == f"arn:aws:ecs:us-east-1:123456789012:task/{cluster}/*"
    assert set(secrets.values()) <= set(allowed("ExecutionRole")["Secrets"])

    # moto's CloudFormation ignores attributes; its API refuses unknown ones.
    balancing = client("elbv2")
    given = Evaluation(TEMPLATE, parameters).section("Resources")["TargetGroup"]["Properties"]["TargetGroupAttributes"]
    balancing.modify_target_group_attributes(TargetGroupArn=ids["TargetGroup"], Attributes=given)
    attributes = balancing.describe_target_group_attributes(TargetGroupArn=ids["TargetGroup"])["Attributes"]
    assert {"Key": "stickiness.enabled", "Value": str(fleet).lower()} in attributes
    (group,) = client("ec2").describe_security_groups(GroupIds=[outputs["SecurityGroupId"]])["SecurityGroups"]
    sources = {pair["GroupId"] for rule in group["IpPermissions"] for pair in rule["UserIdGroupPairs"]}
    assert (outputs["SecurityGroupId"] in sources) == fleet


def test_autoscaling_accepts_the_service(client):
    parameters = {**COMMON, **network(client), **FORMS["several tasks"]}
    ids, _ = deploy(client, parameters)
    service = ids["Service"].rsplit("/", 1)[-1]
    names = {"Cluster": ids["Cluster"].rsplit("/", 1)[-1], "Service.Name": service}
    resources = Evaluation(TEMPLATE, parameters, names).section("Resources")
    api = client("application-autoscaling")
    target = resources["Scaling"]["Properties"]
    # moto looks for the service.
    call(api, "RegisterScalableTarget", target)
    for name in ("ScaleBySessions", "ScaleByCpu"):
        properties = resources[name]["Properties"]
        assert properties.pop("ScalingTargetId") == "<Scaling>"
        here = {key: target[key] for key in ("ServiceNamespace", "ScalableDimension", "ResourceId")}
        call(api, "PutScalingPolicy", {**properties, **here})
    found = api.describe_scaling_policies(ServiceNamespace="ecs")["ScalingPolicies"]
    assert {policy["PolicyName"] for policy in found} == {"sessions", "cpu"}


def test_elasticache_accepts_the_redis(client):
    parameters = {**COMMON, **network(client), **FORMS["several tasks and their Redis"]}
    resources = Evaluation(TEMPLATE, parameters).section("Resources")
    api = client("elasticache")
    subnets = resources["RedisSubnets"]["Properties"]
    subnets = {
        "CacheSubnetGroupName": "redis", "CacheSubnetGroupDescription": subnets["Description"], "SubnetIds": subnets["SubnetIds"]
    }
    call(api, "CreateCacheSubnetGroup", subnets)
    redis = {**resources["Redis"]["Properties"], "AuthToken": "x" * 64, "CacheSubnetGroupName": "redis"}
    call(api, "CreateReplicationGroup", {**redis, "ReplicationGroupId": "redis"})
    (made,) = api.describe_replication_groups()["ReplicationGroups"]
    assert made["TransitEncryptionEnabled"] and made["AutomaticFailover"] == "enabled"
