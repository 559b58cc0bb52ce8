"""Several tasks of the ECS service: what Redis changes, and that nothing else allows them."""

from __future__ import annotations

import re

import pytest
from conftest import BRIDGE, INFRA, JWT
from samtags import load
from test_backend import container, made, opened, roles
from test_template import of_type, statements

SERVICE = "backend-ecs-service"
REDIS_URL = "arn:aws:secretsmanager:us-east-1:123456789012:secret:redis-AbCdEf"
WITH_REDIS = ({"RedisUrlArn": REDIS_URL}, {"CreateRedis": "true"})
ROLE = "arn:aws:iam::123456789012:role/given"


def resources(**more):
    return made(SERVICE, **more).section("Resources")


def one(kind, **more):
    (found,) = of_type(resources(**more), kind).values()
    return found


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        ({}, None),
        ({"DesiredCount": 2}, "would not find each other's sessions"),
        ({"MaxCount": 4}, "would not find each other's sessions"),
        *(({**redis, "DesiredCount": 3, "MaxCount": 9}, None) for redis in WITH_REDIS),
        ({"RedisUrlArn": REDIS_URL, "CreateRedis": "true"}, "not both"),
        ({"CreateRedis": "true", "ExistingExecutionRoleArn": ROLE}, "use RedisUrlArn"),
        ({"RedisUrlArn": REDIS_URL, "ExistingExecutionRoleArn": ROLE}, None),
    ],
)
def test_several_tasks_require_one_redis(more, complaint):
    said = made(SERVICE, **more).rules()
    assert len(said) == (1 if complaint else 0) and all(complaint in text for text in said)


@pytest.mark.parametrize("redis", WITH_REDIS)
def test_deployments_keep_the_old_tasks_where_others_can_take_over(redis):
    def deployment(**more):
        configuration = one("AWS::ECS::Service", **more)["DeploymentConfiguration"]
        return configuration["MinimumHealthyPercent"], configuration["MaximumPercent"]

    assert deployment() == (0, 100), "two tasks without Redis would each have half of the sessions"
    assert deployment(**redis) == (100, 200)
    assert one("AWS::ECS::Service", DesiredCount=3, **redis)["DesiredCount"] == "3"


def test_old_tasks_are_gone_before_cloudformation_gives_up():
    """It waits three hours for a service (User Guide, "Waiting on resource stabilization")."""
    drain = load((INFRA / f"{SERVICE}.yaml").read_text())["Parameters"]["DrainMax"]
    assert drain["Default"] == 150 * 60
    (definition,) = of_type(resources(RedisUrlArn=REDIS_URL), "AWS::ECS::TaskDefinition").values()
    (task,) = definition["ContainerDefinitions"]
    assert task["StopTimeout"] == 120, "the most that Fargate allows"
    assert drain["MaxValue"] + task["StopTimeout"] < 3 * 3600


@pytest.mark.parametrize("redis", WITH_REDIS)
def test_the_task_gets_the_url_as_a_secret(redis):
    url = redis.get("RedisUrlArn", "<RedisUrl>")
    environment, secrets = container(made(SERVICE, **redis))
    assert secrets == {"BRIDGE_SECRET": BRIDGE, "JWT_SECRET": JWT, "REDIS_URL": url}
    assert environment["DRAIN_MAX"] == "9000"
    parts = {part["Sid"]: part for role in roles(made(SERVICE, **redis)) for part in statements(role)}
    assert parts["Secrets"]["Resource"] == [BRIDGE, JWT, url]
    assert set(parts["Parameters"]["Resource"]) <= {BRIDGE, JWT, url}
    environment, secrets = container(made(SERVICE))
    assert "REDIS_URL" not in secrets and "DRAIN_MAX" not in environment


@pytest.mark.parametrize("redis", WITH_REDIS)
def test_a_task_may_protect_the_tasks_of_its_cluster_alone(redis):
    def protect(**more):
        parts = [part for role in roles(made(SERVICE, **more)) for part in statements(role)]
        return [part for part in parts if "ecs:" in str(part["Action"])]

    assert protect() == []
    (part,) = protect(**redis)
    assert part["Action"] == ["ecs:GetTaskProtection", "ecs:UpdateTaskProtection"]
    assert part["Resource"] == "arn:aws:ecs:us-east-1:123456789012:task/<Cluster>/*"


@pytest.mark.parametrize("redis", WITH_REDIS)
def test_tasks_reach_each_other_on_their_port_alone(redis):
    assert not of_type(resources(), "AWS::EC2::SecurityGroupIngress")
    rule = one("AWS::EC2::SecurityGroupIngress", **redis)
    assert rule["GroupId"] == "<TaskSecurityGroup>" and opened(rule) == ("tcp", 3001, 3001, "<TaskSecurityGroup>")


@pytest.mark.parametrize("redis", WITH_REDIS)
def test_the_load_balancer_names_a_session_s_task(redis):
    def attributes(**more):
        group = one("AWS::ElasticLoadBalancingV2::TargetGroup", **more)
        return {item["Key"]: item["Value"] for item in group["TargetGroupAttributes"]}

    assert attributes()["stickiness.enabled"] == "false"
    sticky = attributes(**redis)
    assert (sticky["stickiness.enabled"], sticky["stickiness.type"]) == ("true", "lb_cookie")
    config = "".join(path.read_text() for path in (INFRA.parent / "crates/backend/src").glob("config*/**/*.rs"))
    config += (INFRA.parent / "crates/backend/src/config.rs").read_text()
    longest = re.search(r'env = "MAX_SESSION_TTL", default_value_t = ([\d_]+)', config)[1]
    assert int(sticky["stickiness.lb_cookie.duration_seconds"]) == int(longest)


def test_autoscaling_follows_sessions_and_processor():
    assert not of_type(resources(RedisUrlArn=REDIS_URL, DesiredCount=2), "AWS::ApplicationAutoScaling::ScalableTarget")
    found = resources(RedisUrlArn=REDIS_URL, DesiredCount=2, MaxCount=8)
    (target,) = of_type(found, "AWS::ApplicationAutoScaling::ScalableTarget").values()
    assert (target["MinCapacity"], target["MaxCapacity"]) == ("2", "8")
    assert target["ResourceId"] == "service/<Cluster>/<Service.Name>"
    (service,) = of_type(found, "AWS::ECS::Service").values()
    assert "DesiredCount" not in service, "an update of the stack would set it back"
    policies = of_type(found, "AWS::ApplicationAutoScaling::ScalingPolicy")
    assert all(policy["ScalingTargetId"] == "<Scaling>" for policy in policies.values())
    tracked = {name: policy["TargetTrackingScalingPolicyConfiguration"] for name, policy in policies.items()}
    metric = tracked["ScaleBySessions"]["CustomizedMetricSpecification"]
    assert metric == {"Namespace": "Shellbridge/shellbridge", "MetricName": "Sessions", "Statistic": "Average"}
    emitted = (INFRA.parent / "crates/backend/src/emf.rs").read_text()
    assert '"Dimensions": [[]]' in emitted and f'"Name": "{metric["MetricName"]}"' in emitted
    environment, _ = container(made(SERVICE, RedisUrlArn=REDIS_URL, MaxCount=8))
    assert environment["METRICS_NAMESPACE"] == metric["Namespace"]
    environment, _ = container(made(SERVICE, RedisUrlArn=REDIS_URL, DesiredCount=2))
    assert "METRICS_NAMESPACE" not in environment, "billed"
    assert tracked["ScaleBySessions"]["TargetValue"] == "50"
    predefined = tracked["ScaleByCpu"]["PredefinedMetricSpecification"]
    assert predefined == {"PredefinedMetricType": "ECSServiceAverageCPUUtilization"}


def test_the_stack_s_own_redis_is_encrypted_and_closed():
    kinds = {item["Type"] for item in resources(RedisUrlArn=REDIS_URL).values()}
    assert not {kind for kind in kinds if "ElastiCache" in kind or "SecretsManager" in kind}
    found = resources(CreateRedis="true")
    (redis,) = of_type(found, "AWS::ElastiCache::ReplicationGroup").values()
    assert redis["Engine"] == "valkey" and redis["TransitEncryptionEnabled"] and redis["AtRestEncryptionEnabled"]
    assert redis["AutomaticFailoverEnabled"] and redis["NumCacheClusters"] == 2
    # CloudFormation resolves the reference when it creates the resource; the template never has the password.
    password = "{{resolve:secretsmanager:<RedisPassword>:SecretString}}"
    assert redis["AuthToken"] == password
    url = found["RedisUrl"]["Properties"]["SecretString"]
    assert url == f"rediss://:{password}@<Redis.PrimaryEndPoint.Address>:<Redis.PrimaryEndPoint.Port>"
    group = found["RedisSecurityGroup"]["Properties"]
    assert redis["SecurityGroupIds"] == ["<RedisSecurityGroup>"]
    assert [opened(rule) for rule in group["SecurityGroupIngress"]] == [("tcp", 6379, 6379, "<TaskSecurityGroup>")]
    assert [rule["CidrIp"] for rule in group["SecurityGroupEgress"]] == ["127.0.0.1/32"]


def test_shells_are_kept_apart_by_default():
    for name, sandbox in ((SERVICE, "user"), ("backend-ecs-express", "user"), ("backend-apprunner", "none")):
        environment, _ = container(made(name))
        assert (environment["SHELL_SANDBOX"], environment["MAX_SESSIONS_PER_USER"]) == (sandbox, "20"), name
        assert ("SHELL_UIDS" in environment) == (sandbox == "user")
