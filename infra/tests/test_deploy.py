"""`make deploy-backend` with the real SAM CLI, against moto's server in place of AWS."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tomlkit
from conftest import INFRA
from samtags import load
from stack import parameters
from test_stack import GIVEN

ROOT = INFRA.parent
ANSWERS = {
    "Image": "123456789012.dkr.ecr.us-east-1.amazonaws.com/shellbridge:1",
    "JwtSecretArn": "arn:aws:ssm:us-east-1:123456789012:parameter/shellbridge/jwt",
    "VpcId": "vpc-1",
    "LoadBalancerSubnetIds": "subnet-1,subnet-2",
    "TaskSubnetIds": "subnet-3",
    "CertificateArn": "arn:aws:acm:us-east-1:123456789012:certificate/c",
}


@pytest.fixture
def tree(tmp_path):
    """A copy of the files that `make deploy-backend` needs, with the tests' own virtual environment."""
    for name in ("Makefile", "samconfig.toml"):
        shutil.copy2(ROOT / name, tmp_path)
    shutil.copytree(INFRA, tmp_path / "infra", ignore=shutil.ignore_patterns("tests", "__pycache__"))
    (tmp_path / ".venv").symlink_to(sys.prefix)
    return tmp_path


def create_existing_stacks(client):
    """Creates the API's stack, as far as `sam list stack-outputs` reads it, and SAM's stack for uploads: moto drops the tags
    of change sets, by which SAM would recognise its own."""
    formation = client("cloudformation")

    def create(name, outputs, **more):
        template = {
            "Resources": {"Topic": {"Type": "AWS::SNS::Topic"}},
            "Outputs": {key: {"Value": value} for key, value in outputs.items()},
        }
        formation.create_stack(StackName=name, TemplateBody=json.dumps(template), **more)

    create("shellbridge-dev", GIVEN)
    tags = [{"Key": "ManagedStackSource", "Value": "AwsSamCli"}]
    create("aws-sam-cli-managed-default", {"SourceBucket": "uploads"}, Tags=tags)
    client("s3").create_bucket(Bucket="uploads")


def make(tree, endpoint, *arguments, answers=""):
    environment = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    environment |= {
        "HOME": str(tree), "AWS_ENDPOINT_URL": endpoint, "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true", "SAM_CLI_CHECK_VERSION": "0",
    }
    # Do not rebuild the virtual environment that runs this test, even if requirements.txt is newer.
    command = ["make", "--no-print-directory", "--old-file=.venv/bin/sam", *arguments]
    return subprocess.run(
        command, cwd=tree, env=environment, input=answers, capture_output=True, text=True, check=False, timeout=300
    )


@pytest.mark.parametrize("kind", ["ecs-service", "apprunner"])
def test_regression_the_backends_answers_are_saved_in_samconfig(client, tree, kind):
    """By default SAM saves the answers next to the template, where make does not look."""
    create_existing_stacks(client)
    endpoint = client("sts").meta.endpoint_url
    backend = ["deploy-backend", f"BACKEND={kind}"]
    assert "--guided" in make(tree, endpoint, "-n", *backend).stdout
    asked = load((tree / f"infra/backend-{kind}.yaml").read_text())["Parameters"]
    # Stack and region; the parameters; confirmation, roles, rollback, whether and where to save; no deployment.
    lines = ["", "", *(ANSWERS.get(name, "") for name in asked), "", "", "", "", "", "", "n"]
    run = make(tree, endpoint, *backend, answers="\n".join(lines) + "\n")
    said = run.stdout + run.stderr
    assert "Saved arguments to config file" in said, said

    found = [path.relative_to(tree) for path in tree.rglob("samconfig*") if ".venv" not in path.parts]
    assert found == [Path("samconfig.toml")], said
    saved = parameters(tomlkit.parse((tree / "samconfig.toml").read_text()), "default-backend")
    expected = {name: value for name, value in ANSWERS.items() if name in asked}
    assert {name: saved[name] for name in expected} == expected
    assert saved["ApiId"] == GIVEN["ApiId"]

    # The next deployment is not guided: SAM finds stack, template and parameters in the same file.
    assert "--guided" not in make(tree, endpoint, "-n", *backend).stdout
    again = make(tree, endpoint, *backend, answers="n\n")
    said = again.stdout + again.stderr
    assert "Stack name                   : shellbridge-dev-backend" in said, said
    assert f'"Image": "{ANSWERS["Image"]}"' in said, said
