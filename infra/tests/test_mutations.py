"""Checks that the tests can fail: each mutation of a template or the Containerfile must fail its test.

The same test function runs, but reads the file with one text replaced.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import test_backend
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
        SERVICE, "          StopTimeout: 30\n", "", test_backend.test_a_stopping_task_has_time_to_end_its_sessions,
    ),
    "StopTimeout too short": (
        SERVICE, "StopTimeout: 30", "StopTimeout: 10", test_backend.test_a_stopping_task_has_time_to_end_its_sessions,
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
        SERVICE, "StopTimeout: 30", "StopTimeout: 30\n          LinuxParameters: { InitProcessEnabled: true }",
        test_backend.test_the_platform_starts_no_init,
    ),
    "an init by Docker": (
        "compose.yaml", "    image: shellbridge-backend\n", "    image: shellbridge-backend\n    init: true\n",
        test_backend.test_the_platform_starts_no_init,
    ),
    "an init in the image": (
        CONTAINERFILE, 'ENTRYPOINT ["backend", "--init"]', 'ENTRYPOINT ["tini", "--", "backend"]',
        test_backend.test_the_image_starts_the_program_itself,
    ),
    "no init of its own": (
        CONTAINERFILE, 'ENTRYPOINT ["backend", "--init"]', 'ENTRYPOINT ["backend"]',
        test_backend.test_the_image_starts_the_program_itself,
    ),
    "a program that shells may read": (
        CONTAINERFILE, "COPY --from=build --chmod=0711 /out/backend", "COPY --from=build /out/backend",
        test_backend.test_the_backend_s_user_may_run_but_not_read_its_program,
    ),
    "a shell in front of the stand-in": (
        CONTAINERFILE, 'ENTRYPOINT ["gateway", ', 'ENTRYPOINT ["sh", "-c", "gateway", ',
        test_backend.test_the_image_starts_the_program_itself,
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
