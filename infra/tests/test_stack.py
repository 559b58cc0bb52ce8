"""What make asks about a deployment."""

from __future__ import annotations

import re
import stat
import zipfile

import stack
import tomlkit
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


def test_parameters_are_read_as_written_by_hand_and_as_saved_by_sam():
    config = tomlkit.parse(CONFIG)
    assert stack.parameters(config, "default")["StageName"] == "dev"
    assert stack.parameters(config, "default").get("BackendUrl") is None
    assert stack.parameters(config, "prod-backend") == {}
    config["default"]["deploy"]["parameters"]["parameter_overrides"] = GUIDED
    assert stack.parameters(config, "default")["JwtPublicKey"] == PEM
    assert stack.parameters(config, "default")["JwtIssuer"] == ""


def test_the_backend_is_told_what_the_api_s_stack_says():
    config = tomlkit.parse(CONFIG)
    config["default"]["deploy"]["parameters"]["parameter_overrides"] = GUIDED
    section = config["default-backend"]["deploy"]["parameters"]
    section["parameter_overrides"] = 'Image="i@sha256:0" ApiId="old"'
    stack.tell_backend(config, "default", "apprunner", GIVEN)
    # Once through the file.
    config = tomlkit.parse(tomlkit.dumps(config))
    values = stack.parameters(config, "default-backend")
    assert values["Image"] == "i@sha256:0" and values["ApiId"] == "api0000001" and values["JwtPublicKey"] == PEM
    assert "JwtSecretArn" not in values and "TableName" not in values
    section = config["default-backend"]["deploy"]["parameters"]
    assert section["template_file"] == "infra/backend-apprunner.yaml"
    stack.tell_backend(config, "default", None, GIVEN)
    assert section["template_file"] == "infra/backend-apprunner.yaml"
    assert stack.parameters(config, "default-backend") == values


def test_every_backend_takes_what_it_is_told():
    shared = set(stack.OF_OUTPUTS) | set(stack.SHARED)
    api = load((INFRA.parent / "template.yaml").read_text())
    assert set(stack.SHARED) <= set(api["Parameters"]) and set(stack.OF_OUTPUTS.values()) <= set(api["Outputs"])
    for path in INFRA.glob("backend-*.yaml"):
        # SAM passes on only what the template has. App Runner makes its log group by itself.
        missing = shared - set(load(path.read_text())["Parameters"])
        assert missing <= {"LogRetentionDays"}, path.name


def test_samconfig_has_a_backend_for_each_environment():
    config = tomlkit.parse(CONFIG)
    for name in ("default", "prod"):
        backend = config[f"{name}-backend"]
        assert backend["global"]["parameters"]["stack_name"] == f"{config[name]['global']['parameters']['stack_name']}-backend"
        assert (INFRA.parent / backend["deploy"]["parameters"]["template_file"]).is_file()
        # The function's name is the stack's and 18 characters more, of 64.
        assert len(config[name]["global"]["parameters"]["stack_name"]) <= 46


def test_the_bundle_can_be_started_and_names_the_bucket(tmp_path):
    (tmp_path / "build/Handler").mkdir(parents=True)
    (tmp_path / "build/Handler/bootstrap").write_bytes(b"code")
    stack.bundle("bucket", tmp_path / "build", tmp_path / "bundle")
    with zipfile.ZipFile(tmp_path / "bundle/function.zip") as archive:
        (entry,) = archive.infolist()
        assert entry.filename == "bootstrap" and archive.read(entry) == b"code"
        assert stat.S_IMODE(entry.external_attr >> 16) == 0o755
    for name in ("template.yaml", "template-existing-role.yaml"):
        text = (tmp_path / "bundle" / name).read_text()
        assert load(text)["Resources"]["Handler"]["Properties"]["CodeUri"] == "s3://bucket/function.zip"
        assert not re.search("ServerlessRepo|README.md", text)


def test_the_published_version_is_the_workspace_s():
    version = re.search(r'(?m)^version = "(.+)"$', (INFRA.parent / "Cargo.toml").read_text())[1]
    template = load((INFRA.parent / "template.yaml").read_text())
    assert template["Metadata"]["AWS::ServerlessRepo::Application"]["SemanticVersion"] == version
