"""The Makefile's helpers for deployments."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import zipfile

import stack
import tomlkit
import yaml
from conftest import INFRA
from samtags import load

CONFIG = (INFRA.parent / "samconfig.toml").read_text()
GIVEN = {
    "ApiId": "api0000001",
    "Stage": "dev",
    "CallbackUrl": "https://api0000001.execute-api.us-east-1.amazonaws.com/dev",
    "WebSocketUrl": "wss://api0000001.execute-api.us-east-1.amazonaws.com/dev",
    "BackendAllowedOrigins": "https://app.example.org,https://*.example.org",
    "BackendBridgeSecretArn": "arn:aws:ssm:us-east-1:123456789012:parameter/shellbridge/bridge",
    "TableName": "WebSocketConnections-dev",
}
# As `sam deploy --guided` of SAM 1.170 leaves it.
PEM = r"-----BEGIN PUBLIC KEY-----\nMII+/=\n-----END PUBLIC KEY-----"
GUIDED = f'BackendUrl="https://backend.invalid" JwtSecretArn="" JwtPublicKey="{PEM}" JwtIssuer="" LogRetentionDays="7"'


def test_parameters_are_read_in_both_notations():
    config = tomlkit.parse(CONFIG)
    assert stack.parameters(config, "default")["StageName"] == "dev"
    assert stack.parameters(config, "default").get("BackendUrl") is None
    assert stack.parameters(config, "prod-backend") == {}
    config["default"]["deploy"]["parameters"]["parameter_overrides"] = GUIDED
    assert stack.parameters(config, "default")["JwtPublicKey"] == PEM
    assert stack.parameters(config, "default")["JwtIssuer"] == ""


def test_the_backend_is_configured_from_the_api_stack():
    config = tomlkit.parse(CONFIG)
    config["default"]["deploy"]["parameters"]["parameter_overrides"] = GUIDED
    section = config["default-backend"]["deploy"]["parameters"]
    section["parameter_overrides"] = 'Image="i@sha256:0" ApiId="old"'
    stack.configure_backend(config, "default", "apprunner", GIVEN)
    # A round trip through the file.
    config = tomlkit.parse(tomlkit.dumps(config))
    values = stack.parameters(config, "default-backend")
    assert values["Image"] == "i@sha256:0" and values["ApiId"] == "api0000001" and values["JwtPublicKey"] == PEM
    assert "JwtSecretArn" not in values and "TableName" not in values
    section = config["default-backend"]["deploy"]["parameters"]
    assert section["template_file"] == "infra/backend-apprunner.yaml"
    stack.configure_backend(config, "default", None, GIVEN)
    assert section["template_file"] == "infra/backend-apprunner.yaml"
    assert stack.parameters(config, "default-backend") == values


def test_every_backend_has_the_shared_parameters():
    shared = set(stack.OF_OUTPUTS) | set(stack.SHARED)
    api = load((INFRA.parent / "template.yaml").read_text())
    assert set(stack.SHARED) <= set(api["Parameters"]) and set(stack.OF_OUTPUTS.values()) <= set(api["Outputs"])
    for path in INFRA.glob("backend-*.yaml"):
        # SAM passes only parameters that the template has. App Runner creates its log group and has no alarm.
        missing = shared - set(load(path.read_text())["Parameters"])
        assert missing == ({"LogRetentionDays", "AlarmTopicArn"} if "apprunner" in path.name else set()), path.name


def test_samconfig_has_a_backend_for_each_environment():
    config = tomlkit.parse(CONFIG)
    for name in ("default", "prod"):
        backend = config[f"{name}-backend"]
        assert backend["global"]["parameters"]["stack_name"] == f"{config[name]['global']['parameters']['stack_name']}-backend"
        assert (INFRA.parent / backend["deploy"]["parameters"]["template_file"]).is_file()
        # The function's name adds 18 characters to the stack's, and the limit is 64.
        assert len(config[name]["global"]["parameters"]["stack_name"]) <= 46


def test_the_bundle_is_executable_and_names_the_bucket(tmp_path):
    (tmp_path / "build/Handler").mkdir(parents=True)
    (tmp_path / "build/Handler/bootstrap").write_bytes(b"code")
    stack.bundle("bucket", tmp_path / "build", tmp_path / "bundle")
    with zipfile.ZipFile(tmp_path / "bundle/function.zip") as archive:
        (entry,) = archive.infolist()
        assert entry.filename == "bootstrap" and archive.read(entry) == b"code"
        assert stat.S_IMODE(entry.external_attr >> 16) == 0o755
    for name in ("template.yaml", "template-existing-role.yaml", "template-long-form.yaml"):
        text = (tmp_path / "bundle" / name).read_text()
        assert load(text)["Resources"]["Handler"]["Properties"]["CodeUri"] == "s3://bucket/function.zip"
        assert not re.search("ServerlessRepo|README.md", text)


def test_the_buildspec_pushes_the_image_and_the_bundle(tmp_path):
    """Runs its commands in order with `sh`, as CodeBuild does, with stand-ins for the programs."""
    (tmp_path / "infra").mkdir()
    (tmp_path / "bin").mkdir()
    (tmp_path / ".cargo").mkdir()
    (tmp_path / ".cargo/env").touch()
    (tmp_path / "infra/Containerfile").write_text((INFRA / "Containerfile").read_text())
    for program in ("aws", "curl", "docker", "make"):
        stand_in = tmp_path / "bin" / program
        stand_in.write_text(f'#!/bin/sh\necho "{program} $*" >>"$HOME/ran"\n')
        stand_in.chmod(0o755)
    repository = "123456789012.dkr.ecr.eu-west-1.amazonaws.com/shellbridge"
    environment = {
        "PATH": f"{tmp_path}/bin:{os.environ['PATH']}", "HOME": str(tmp_path), "REPOSITORY": repository,
        "BUCKET": "bucket", "BASE": "public.ecr.aws/docker/library/",
    }
    spec = yaml.safe_load((INFRA / "buildspec.yml").read_text())
    commands = [command for phase in spec["phases"].values() for command in phase["commands"]]
    for command in commands:
        subprocess.run(["sh", "-euc", command], cwd=tmp_path, env=environment, check=True)
    ran = (tmp_path / "ran").read_text()
    assert f"docker login --username AWS --password-stdin {repository.partition('/')[0]}\n" in ran
    assert ran.endswith(
        f"docker build -f infra/Containerfile -t {repository}:1 .\ndocker push {repository}:1\nmake bundle BUCKET=bucket\n"
    )
    bases = re.findall(r"(?m)^FROM (\S+)", (tmp_path / "infra/Containerfile").read_text())
    assert bases and all(base.startswith("public.ecr.aws/docker/library/") for base in bases)
    assert spec["artifacts"]["base-directory"] == ".aws-sam/bundle", "where `make bundle` puts it"


def test_the_guide_without_cloudformation_names_every_setting():
    guide = (INFRA / "README.md").read_text().partition("### Without CloudFormation")[2].partition("\n## ")[0]
    service = load((INFRA / "backend-ecs-service.yaml").read_text())["Resources"]
    (container,) = service["TaskDefinition"]["Properties"]["ContainerDefinitions"]
    names = {item["Name"] for item in [*container["Environment"], *container["Secrets"]] if isinstance(item, dict)}
    names |= {"JWT_SECRET", "ADMIN_TOKEN", "TABLE_NAME", "BACKEND_URL", "BRIDGE_SECRET_ARN", "JWT_SECRET_ARN"}
    known = (INFRA.parent / "crates/backend/src/config.rs").read_text()
    known += (INFRA.parent / "crates/lambda/src/config.rs").read_text() + "AWS_REGION"
    for name in names | set(re.findall(r"`([A-Z]+(?:_[A-Z]+)+)`", guide)):
        assert f"`{name}`" in guide and name in known, name
    table = load((INFRA.parent / "template.yaml").read_text())["Resources"]["Table"]["Properties"]
    for definition in table["AttributeDefinitions"]:
        assert f"`{definition['AttributeName']}`" in guide
    handler = load((INFRA.parent / "template.yaml").read_text())["Resources"]["Handler"]["Properties"]
    assert f"timeout {handler['Timeout']} s" in guide


def test_the_published_version_is_the_workspace_s():
    version = re.search(r'(?m)^version = "(.+)"$', (INFRA.parent / "Cargo.toml").read_text())[1]
    template = load((INFRA.parent / "template.yaml").read_text())
    assert template["Metadata"]["AWS::ServerlessRepo::Application"]["SemanticVersion"] == version
