"""Checks that the tests can fail: each mutation of a template or the Containerfile must fail its test.

The same test function runs, but reads the file with one text replaced.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import test_backend
import test_compose
import test_fleet
import test_image
import test_template
from conftest import INFRA

TEMPLATE = "../template.yaml"
SERVICE, EXPRESS, APP_RUNNER = (f"{name}.yaml" for name in test_backend.NAMES)
CONTAINERFILE = "Containerfile"
VIA_SERVICE = "                  Condition:\n                    StringEquals:\n                      kms:ViaService:\n"
VIA_SERVICE += "".join(
    f"                        - !Sub {service}.${{AWS::Region}}.${{AWS::URLSuffix}}\n" for service in ("ssm", "secretsmanager")
)


def alarms():
    test_template.test_alarms_and_dashboard("template")


def throttles():
    test_template.test_the_stage_is_throttled_and_has_no_paid_metrics("template")


def keys_of(name):
    return lambda: test_backend.test_a_customer_managed_key_decrypts_only_secrets(name.removesuffix(".yaml"))


def log_of(name):
    return lambda: test_backend.test_the_role_may_write_to_the_log_group(name.removesuffix(".yaml"))


def no_task(name):
    return lambda: test_backend.test_no_running_task_is_an_alarm(name.removesuffix(".yaml"))


network = test_backend.test_the_service_is_reachable_only_through_its_load_balancer
program = test_image.test_only_the_backend_s_group_runs_its_program_and_none_reads_it
REDIS = test_fleet.WITH_REDIS[0]


def with_redis(check):
    return lambda: check(REDIS)


def task_roles():
    test_fleet.test_a_task_may_protect_the_tasks_of_its_cluster_alone(REDIS)


def refused(more, complaint):
    return lambda: test_fleet.test_several_tasks_require_one_redis(more, complaint)

# File, text, its replacement, and the test that must fail. The text must occur once.
MUTATIONS = {
    "alarm dimension": (
        TEMPLATE, "MetricName: Errors\n      Dimensions: [{ Name: FunctionName, Value: !Ref Handler }]",
        "MetricName: Errors\n      Dimensions: [{ Name: FunctionName, Value: !Ref AWS::StackName }]", alarms,
    ),
    "alarm dimension gone": (
        TEMPLATE, "MetricName: Throttles\n      Dimensions: [{ Name: FunctionName, Value: !Ref Handler }]",
        "MetricName: Throttles", alarms,
    ),
    "alarm dimension of a metric among others": (
        TEMPLATE, "MetricName: ExecutionError\n              Dimensions:\n                - { Name: ApiId, Value: !Ref Api }",
        "MetricName: ExecutionError\n              Dimensions:\n                - { Name: ApiName, Value: !Ref Api }", alarms,
    ),
    "alarm namespace": (
        TEMPLATE, "Namespace: AWS/Lambda\n      MetricName: Duration",
        "Namespace: AWS/ApiGateway\n      MetricName: Duration", alarms,
    ),
    "alarm namespace of the function's own metrics": (
        TEMPLATE, "Namespace: !Sub Shellbridge/${AWS::StackName}\n      MetricName: BackendFailures",
        "Namespace: Shellbridge\n      MetricName: BackendFailures", alarms,
    ),
    "metric filter's namespace": (
        TEMPLATE, "- MetricNamespace: !Sub Shellbridge/${AWS::StackName}", "- MetricNamespace: Shellbridge", alarms,
    ),
    "throttles removed": (
        TEMPLATE, "        ThrottlingRateLimit: !Ref ThrottleRate\n        ThrottlingBurstLimit: !Ref ThrottleBurst\n", "",
        throttles,
    ),
    "rate throttle removed": (TEMPLATE, "        ThrottlingRateLimit: !Ref ThrottleRate\n", "", throttles),
    "throttles swapped": (
        TEMPLATE, "        ThrottlingBurstLimit: !Ref ThrottleBurst", "        ThrottlingBurstLimit: !Ref ThrottleRate",
        throttles,
    ),
    "the function's KMS without ViaService": (
        TEMPLATE, VIA_SERVICE, "", test_template.test_optional_permissions_are_off_by_default,
    ),
    **{
        f"KMS without ViaService, {name}": (name, VIA_SERVICE, "", keys_of(name))
        for name in (SERVICE, EXPRESS, APP_RUNNER)
    },
    "task security group open to the world": (
        SERVICE, "SourceSecurityGroupId: !Ref LoadBalancerSecurityGroup", "CidrIp: 0.0.0.0/0", network,
    ),
    "task security group with a second rule": (
        SERVICE, "      # Also applies to users' shells",
        "        - { Description: x, IpProtocol: tcp, FromPort: 22, ToPort: 22, CidrIp: 0.0.0.0/0 }\n      # Also", network,
    ),
    "task security group with more ports": (
        SERVICE, "FromPort: 3001\n          ToPort: 3001", "FromPort: 0\n          ToPort: 3001", network,
    ),
    "load balancer open to the world": (SERVICE, "CidrIp: !Ref ClientCidr", "CidrIp: 0.0.0.0/0", network),
    "StopTimeout removed": (
        SERVICE, "          StopTimeout: 120\n", "", test_backend.test_a_stopping_task_has_time_to_end_its_sessions,
    ),
    "StopTimeout too short": (
        SERVICE, "StopTimeout: 120", "StopTimeout: 10", test_backend.test_a_stopping_task_has_time_to_end_its_sessions,
    ),
    "DependsOn Listener removed": (
        SERVICE, "    DependsOn: Listener\n", "", test_backend.test_the_service_waits_for_the_listener,
    ),
    "log group of the service": (SERVICE, "awslogs-group: !Ref LogGroup", "awslogs-group: /ecs/x", log_of(SERVICE)),
    "log group of Express": (EXPRESS, "          LogGroup: !Ref LogGroup", "          LogGroup: /ecs/x", log_of(EXPRESS)),
    "log of Express removed": (
        EXPRESS, "        AwsLogsConfiguration:\n          LogGroup: !Ref LogGroup\n          LogStreamPrefix: backend\n", "",
        log_of(EXPRESS),
    ),
    "detailed metrics": (TEMPLATE, "DetailedMetricsEnabled: false", "DetailedMetricsEnabled: true", throttles),
    "Container Insights": (
        SERVICE, "containerInsights, Value: disabled", "containerInsights, Value: enabled",
        test_backend.test_the_cluster_has_no_paid_metrics,
    ),
    "zones rebalanced": (
        SERVICE, "      AvailabilityZoneRebalancing: DISABLED\n", "",
        lambda: test_backend.test_one_instance_and_a_health_check("backend-ecs-service"),
    ),
    "no task, of another cluster": (
        SERVICE, "{ Name: ClusterName, Value: !Ref Cluster }", "{ Name: ClusterName, Value: default }", no_task(SERVICE),
    ),
    "no task, and missing data counts as good": (
        SERVICE, "TreatMissingData: breaching", "TreatMissingData: notBreaching", no_task(SERVICE),
    ),
    "no task, of another service of Express": (
        EXPRESS, "{ Name: ServiceName, Value: !Ref AWS::StackName }", "{ Name: ServiceName, Value: backend }",
        no_task(EXPRESS),
    ),
    "unhealthy targets of any group": (
        SERVICE, "        - { Name: TargetGroup, Value: !GetAtt TargetGroup.TargetGroupFullName }\n", "",
        test_backend.test_an_unhealthy_target_is_an_alarm,
    ),
    "App Runner deploys by itself": (
        APP_RUNNER, "AutoDeploymentsEnabled: false", "AutoDeploymentsEnabled: true",
        test_backend.test_a_push_to_the_registry_deploys_nothing,
    ),
    "App Runner deploys by default": (
        APP_RUNNER, "        AutoDeploymentsEnabled: false\n", "", test_backend.test_a_push_to_the_registry_deploys_nothing,
    ),
    "an init by ECS": (
        SERVICE, "StopTimeout: 120", "StopTimeout: 120\n          LinuxParameters: { InitProcessEnabled: true }",
        test_backend.test_the_platform_starts_no_init,
    ),
    "an init by Docker": (
        "compose.yaml", "    image: shellbridge-backend\n", "    image: shellbridge-backend\n    init: true\n",
        test_backend.test_the_platform_starts_no_init,
    ),
    "the Docker socket for shells": (
        "compose.container.yaml", "SHELL_SANDBOX: container", "SHELL_SANDBOX: user",
        test_compose.test_only_a_backend_whose_shells_are_elsewhere_has_the_docker_socket,
    ),
    "capabilities withheld": (
        "compose.yaml", "    cap_add: [SETUID, SETGID, KILL, CHOWN]\n", "",
        test_compose.test_backends_have_the_capabilities_of_their_program,
    ),
    "privileges withheld": (
        "compose.fleet.yaml", "  cap_add: [SETUID, SETGID, KILL, CHOWN]\n  # Ends",
        "  cap_add: [SETUID, SETGID, KILL, CHOWN]\n  security_opt: ['no-new-privileges:true']\n  # Ends",
        test_compose.test_backends_have_the_capabilities_of_their_program,
    ),
    "two backends of one name": (
        "compose.fleet.yaml", "'http://backend-2:3001'", "'http://backend-1:3001'",
        test_compose.test_the_fleet_s_backends_find_each_other,
    ),
    "a backend without requests": (
        "compose.fleet.yaml", "reverse_proxy backend-1:3001 backend-2:3001", "reverse_proxy backend-1:3001",
        test_compose.test_the_fleet_s_backends_find_each_other,
    ),
    "another cookie": (
        "compose.fleet.yaml", "lb_policy cookie AWSALB", "lb_policy cookie LB", test_compose.test_the_fleet_s_backends_find_each_other,
    ),
    "Valkey without a password in compose": (
        "compose.fleet.yaml", "      requirepass ${REDIS_PASSWORD}\n", "", test_compose.test_the_fleet_s_backends_find_each_other,
    ),
    "a port for the network": (
        "compose.fleet.yaml", "['127.0.0.1:3001:3001']", "['3001:3001']", test_compose.test_secrets_have_no_default_and_ports_are_local,
    ),
    "an init in the image": (
        CONTAINERFILE, 'ENTRYPOINT ["backend", "--init"]', 'ENTRYPOINT ["tini", "--", "backend"]',
        test_backend.test_the_image_starts_the_program_itself,
    ),
    "no init of its own": (
        CONTAINERFILE, 'ENTRYPOINT ["backend", "--init"]', 'ENTRYPOINT ["backend"]',
        test_backend.test_the_image_starts_the_program_itself,
    ),
    "a program that shells may read": (CONTAINERFILE, "-g 10001 -m 0710", "-g 10001 -m 0750", program),
    "a program that every user may run": (CONTAINERFILE, "-g 10001 -m 0710", "-g 10001 -m 0711", program),
    "a program of its own user": (CONTAINERFILE, "install -o root -g 10001 -m", "install -o 10001 -g 10001 -m", program),
    "a program without capabilities": (
        CONTAINERFILE, "    && setcap cap_setuid,cap_setgid,cap_kill,cap_chown=p /usr/local/bin/backend \\\n", "", program,
    ),
    "a capability less": (CONTAINERFILE, "cap_setuid,cap_setgid,cap_kill,cap_chown=p", "cap_setuid,cap_setgid,cap_kill=p", program),
    "a capability more": (CONTAINERFILE, "cap_kill,cap_chown=p", "cap_kill,cap_chown,cap_sys_ptrace=p", program),
    "capabilities that the runtime must grant": (CONTAINERFILE, "cap_chown=p", "cap_chown=ep", program),
    "capabilities before the change of owner": (
        CONTAINERFILE, "=p /usr/local/bin/backend", "=p /usr/local/bin/backend && chown root:10001 /usr/local/bin/backend", program,
    ),
    "a host that sessions' users cannot run": (
        CONTAINERFILE, "--chmod=0755 /out/session-host", "--chmod=0750 /out/session-host", test_image.test_every_user_may_run_the_host,
    ),
    "root in the container": (CONTAINERFILE, "USER 10001:10001", "USER root", test_image.test_the_image_runs_as_its_user_and_group),
    "another group": (CONTAINERFILE, "USER 10001:10001", "USER 10001:0", test_image.test_the_image_runs_as_its_user_and_group),
    "set-user-ID programs": (
        CONTAINERFILE, " \\\n    && find / -xdev -type f -perm /6000 -exec chmod ug-s {} +", "",
        test_image.test_the_image_has_no_set_user_id_programs,
    ),
    "homes that the backend cannot make": (
        CONTAINERFILE, "install -d -o 10001 -g 10001 -m 0711", "install -d -m 0711", test_image.test_the_image_keeps_shells_apart,
    ),
    "shells as the backend's user": (
        CONTAINERFILE, "SHELL_SANDBOX=user", "SHELL_SANDBOX=none", test_image.test_the_image_keeps_shells_apart,
    ),
    "a shell in front of the stand-in": (
        CONTAINERFILE, 'ENTRYPOINT ["gateway", ', 'ENTRYPOINT ["sh", "-c", "gateway", ',
        test_backend.test_the_image_starts_the_program_itself,
    ),
    "several tasks without Redis": (
        SERVICE, "!Or [!Not [!Equals [!Ref DesiredCount, 1]], ", "!Or [!Equals [x, y], ",
        refused({"DesiredCount": 2}, "would not find each other's sessions"),
    ),
    "autoscaling without Redis": (
        SERVICE, ", !Not [!Equals [!Ref MaxCount, 0]]]\n    Assertions", ", !Equals [x, y]]\n    Assertions",
        refused({"MaxCount": 4}, "would not find each other's sessions"),
    ),
    "two Redis": (
        SERVICE, "        Assert: !Equals [!Ref RedisUrlArn, '']", "        Assert: !Equals [x, x]",
        refused({"RedisUrlArn": test_fleet.REDIS_URL, "CreateRedis": "true"}, "not both"),
    ),
    "a secret that the role cannot name": (
        SERVICE, "        Assert: !Equals [!Ref ExistingExecutionRoleArn, '']", "        Assert: !Equals [x, x]",
        refused({"CreateRedis": "true", "ExistingExecutionRoleArn": test_fleet.ROLE}, "use RedisUrlArn"),
    ),
    "two tasks beside each other without Redis": (
        SERVICE, "MaximumPercent: !If [HasRedis, 200, 100]", "MaximumPercent: 200",
        with_redis(test_fleet.test_deployments_keep_the_old_tasks_where_others_can_take_over),
    ),
    "old tasks stopped first": (
        SERVICE, "MinimumHealthyPercent: !If [HasRedis, 100, 0]", "MinimumHealthyPercent: 0",
        with_redis(test_fleet.test_deployments_keep_the_old_tasks_where_others_can_take_over),
    ),
    "a drain longer than CloudFormation waits": (
        SERVICE, "MaxValue: 10000\n    Description: Seconds", "MaxValue: 20000\n    Description: Seconds",
        test_fleet.test_old_tasks_are_gone_before_cloudformation_gives_up,
    ),
    "the URL of Redis in plain text": (
        SERVICE, "{ Name: REDIS_URL, ValueFrom: !Ref RedisUrlArn }", "{ Name: REDIS_ADDRESS, ValueFrom: !Ref RedisUrlArn }",
        with_redis(test_fleet.test_the_task_gets_the_url_as_a_secret),
    ),
    "any task protected": (SERVICE, ":task/${Cluster}/*", ":task/*", task_roles),
    "tasks protected without Redis": (
        SERVICE, "              - !If\n                - HasRedis\n                - Sid: Protect",
        "              - !If\n                - CreateTaskRole\n                - Sid: Protect", task_roles,
    ),
    "tasks that cannot reach each other": (
        SERVICE, "      GroupId: !Ref TaskSecurityGroup\n", "      GroupId: !Ref LoadBalancerSecurityGroup\n",
        with_redis(test_fleet.test_tasks_reach_each_other_on_their_port_alone),
    ),
    "tasks reachable without Redis": (
        SERVICE, "    Type: AWS::EC2::SecurityGroupIngress\n    Condition: HasRedis\n", "    Type: AWS::EC2::SecurityGroupIngress\n",
        with_redis(test_fleet.test_tasks_reach_each_other_on_their_port_alone),
    ),
    "no stickiness": (
        SERVICE, "!If [HasRedis, 'true', 'false']", "'false'", with_redis(test_fleet.test_the_load_balancer_names_a_session_s_task),
    ),
    "stickiness shorter than a session": (
        SERVICE, "Value: '28800'", "Value: '3600'", with_redis(test_fleet.test_the_load_balancer_names_a_session_s_task),
    ),
    "sessions of other stacks": (
        SERVICE, "          Namespace: !Sub Shellbridge/${AWS::StackName}\n", "          Namespace: Shellbridge\n",
        test_fleet.test_autoscaling_follows_sessions_and_processor,
    ),
    "no sessions reported": (
        SERVICE, "Name: METRICS_NAMESPACE, Value: !Sub \"Shellbridge/${AWS::StackName}\"", "Name: METRICS_NAMESPACE, Value: backend",
        test_fleet.test_autoscaling_follows_sessions_and_processor,
    ),
    "the sum of all sessions": (
        SERVICE, "Statistic: Average", "Statistic: Sum", test_fleet.test_autoscaling_follows_sessions_and_processor,
    ),
    "a count that updates set back": (
        SERVICE, "DesiredCount: !If [Scales, !Ref AWS::NoValue, !Ref DesiredCount]", "DesiredCount: !Ref DesiredCount",
        test_fleet.test_autoscaling_follows_sessions_and_processor,
    ),
    "Valkey without TLS": (
        SERVICE, "TransitEncryptionEnabled: true", "TransitEncryptionEnabled: false",
        test_fleet.test_the_stack_s_own_redis_is_encrypted_and_closed,
    ),
    "Valkey open to the network": (
        SERVICE, "ToPort: 6379\n          SourceSecurityGroupId: !Ref TaskSecurityGroup", "ToPort: 6379\n          CidrIp: 0.0.0.0/0",
        test_fleet.test_the_stack_s_own_redis_is_encrypted_and_closed,
    ),
    "Valkey without a password": (
        SERVICE, "      AuthToken: !Sub '{{resolve:secretsmanager:${RedisPassword}:SecretString}}'\n", "",
        test_fleet.test_the_stack_s_own_redis_is_encrypted_and_closed,
    ),
    "no isolation on ECS": (SERVICE, "Value: !Ref ShellSandbox", "Value: none", test_fleet.test_shells_are_kept_apart_by_default),
    "isolation that App Runner may lack": (
        APP_RUNNER, "Value: none", "Value: user", test_fleet.test_shells_are_kept_apart_by_default,
    ),
    "page not copied": (
        CONTAINERFILE, "COPY --from=page /src/crates/web/dist crates/web/dist\n", "",
        test_backend.test_the_image_has_the_page,
    ),
    "page copied elsewhere": (
        CONTAINERFILE, "COPY --from=page /src/crates/web/dist crates/web/dist", "COPY --from=page /src/crates/web/dist dist",
        test_backend.test_the_image_has_the_page,
    ),
    "page not built": (CONTAINERFILE, "RUN npm run build\n", "", test_backend.test_the_image_has_the_page),
}


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_a_mutation_is_caught(mutation, monkeypatch):
    file, text, becomes, check = MUTATIONS[mutation]
    path = (INFRA / file).resolve()
    whole = path.read_text()
    assert whole.count(text) == 1, "the mutation does not match the current file"
    check()
    read = Path.read_text

    def mutated(self, *arguments, **more):
        written = read(self, *arguments, **more)
        return written.replace(text, becomes) if self.resolve() == path else written

    monkeypatch.setattr(Path, "read_text", mutated)
    # Checks raise the other errors when an item is missing.
    with pytest.raises((AssertionError, KeyError, ValueError, StopIteration)):
        check()
