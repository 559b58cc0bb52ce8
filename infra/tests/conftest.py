"""Fixtures: the templates after the SAM transform, and evaluated."""

from __future__ import annotations

import copy
import sys
import urllib.request
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer
from samtranslator.parser.parser import Parser
from samtranslator.translator.translator import Translator

INFRA = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(INFRA))

from evaluate import PSEUDO, Evaluation  # noqa: E402
from samtags import load, long  # noqa: E402

TEMPLATES = {
    "template": INFRA.parent / "template.yaml",
    "existing-role": INFRA / "template-existing-role.yaml",
    "long-form": INFRA / "template-long-form.yaml",
}
ROLE = "arn:aws:iam::123456789012:role/given"
BRIDGE = "arn:aws:ssm:us-east-1:123456789012:parameter/shellbridge/bridge"
JWT = "arn:aws:secretsmanager:us-east-1:123456789012:secret:shellbridge/jwt-AbCdEf"
GIVEN = {
    "BackendUrl": "https://backend.example.org",
    "BridgeSecretArn": BRIDGE,
    "JwtSecretArn": JWT,
    "AllowedOrigins": "https://app.example.org",
}
EVERYTHING = {
    **GIVEN,
    "PermissionsBoundaryArn": "arn:aws:iam::123456789012:policy/boundary",
    "SecretsKmsKeyArn": "arn:aws:kms:us-east-1:123456789012:key/k",
    "CustomDomainName": "ws.example.org",
    "CertificateArn": "arn:aws:acm:us-east-1:123456789012:certificate/c",
    "HostedZoneId": "Z1",
    "SubnetIds": "subnet-1,subnet-2",
    "SecurityGroupIds": "sg-1",
    "ReservedConcurrency": "50",
    "AccessLogs": "enabled-with-account-role",
    "AlarmTopicArn": "arn:aws:sns:us-east-1:123456789012:alarms",
    "ConnectAuthorization": "AWS_IAM",
}


# A customer-managed key may only decrypt through the two services that store secrets.
VIA_SECRETS = {
    "StringEquals": {"kms:ViaService": ["ssm.us-east-1.amazonaws.com", "secretsmanager.us-east-1.amazonaws.com"]}
}


def backend_has(setting: str) -> bool:
    """Whether the backend reads this environment variable."""
    sources = (INFRA.parent / "crates/backend/src").rglob("*.rs")
    return any(f'env = "{setting}"' in path.read_text() for path in sources)


def source(name: str) -> dict[str, Any]:
    """Loads a template in its long form."""
    return long(load(TEMPLATES[name].read_text()))


def translated(name: str, parameters: dict[str, Any]) -> dict[str, Any]:
    """Runs the SAM transform on a template."""
    template = source(name)
    for resource in template["Resources"].values():
        if resource["Type"] == "AWS::Serverless::Function":
            # As `sam package` sets it.
            resource["Properties"]["CodeUri"] = "s3://bucket/key"
    session = boto3.Session(region_name=PSEUDO["AWS::Region"])
    translator = Translator({}, Parser(), None, session)
    defaults = {key: item["Default"] for key, item in template["Parameters"].items() if "Default" in item}
    values = {key: str(value) for key, value in {**defaults, **parameters}.items()}
    return translator.translate(copy.deepcopy(template), values)


def made(name: str, **parameters: Any) -> Evaluation:
    """Evaluates a transformed template with these parameters."""
    names = {"Api": "api0000001", "Api.ApiId": "api0000001"}
    return Evaluation(translated(name, parameters), parameters, names)


@pytest.fixture(params=list(TEMPLATES))
def name(request: pytest.FixtureRequest) -> str:
    """Each of the three forms of the API's template."""
    return request.param


@pytest.fixture
def client():
    """Creates clients of a fresh moto server."""
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    # moto keeps its state for the whole process.
    urllib.request.urlopen(urllib.request.Request(f"http://{host}:{port}/moto-api/reset", method="POST"))
    session = boto3.Session("key", "secret", region_name="us-east-1")
    yield lambda service: session.client(service, endpoint_url=f"http://{host}:{port}")
    server.stop()


def required(name: str) -> dict[str, Any]:
    """Values for the parameters without a default."""
    return {**GIVEN, "ExistingRoleArn": ROLE} if name == "existing-role" else GIVEN
