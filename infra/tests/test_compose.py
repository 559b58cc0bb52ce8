"""The compose files: valid by the Compose Specification, closed to the network, and with what each mode needs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from compose_spec import PyCompose
from conftest import INFRA, backend_has
from test_image import commands

FILES = ("compose.yaml", "compose.container.yaml", "compose.fleet.yaml")
# Variables of the stand-in and of the AWS SDK.
OTHERS = {"AWS_REGION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL_APIGATEWAYMANAGEMENTAPI"}


def text(file: str) -> str:
    return Path(INFRA / file).read_text()


def services(file: str) -> dict[str, Any]:
    return yaml.safe_load(text(file))["services"]


def backends(file: str) -> dict[str, Any]:
    return {name: service for name, service in services(file).items() if name.startswith("backend")}


@pytest.mark.parametrize("file", FILES)
def test_the_files_follow_the_specification(file):
    # The parser has no variables.
    filled = re.sub(r"\$\{[A-Z_]+(:\?[^}]*)?\}", "1000", text(file))
    parsed = PyCompose.from_yaml(yaml.safe_dump(yaml.safe_load(filled)))
    parsed.validate()
    assert sorted(parsed.service_names()) == sorted(services(file))
    with pytest.raises(ValueError, match="enviroment"):
        PyCompose.from_yaml(yaml.safe_dump(yaml.safe_load(filled.replace("environment:", "enviroment:"))))


def test_secrets_have_no_default_and_ports_are_local():
    for file in FILES:
        for secret in set(re.findall(r"\$\{([A-Z_]+)\}", text(file))):
            assert f"${{{secret}:?" in text(file), secret
        assert not re.search(r"\$\{[A-Z_]+:?[-=+]", text(file))
        for service in services(file).values():
            assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
    for secret in ("JWT_SECRET", "BRIDGE_SECRET", "ADMIN_TOKEN"):
        assert f"{secret}: ${{{secret}:?" in text("compose.yaml") and f"{secret}: ${{{secret}:?" in text("compose.fleet.yaml")


def test_backends_have_the_capabilities_of_their_program():
    """And no others. `no-new-privileges` would withhold those of the file."""
    (line,) = (command for command in commands() if command.startswith("setcap "))
    wanted = {name.removeprefix("cap_").upper() for name in line.split()[1].partition("=")[0].split(",")}
    for file in ("compose.yaml", "compose.fleet.yaml"):
        for name, service in backends(file).items():
            assert service["cap_drop"] == ["ALL"] and set(service["cap_add"]) == wanted, name
            assert "security_opt" not in service and "SHELL_SANDBOX" not in service["environment"]


def test_only_a_backend_whose_shells_are_elsewhere_has_the_docker_socket():
    for file in FILES:
        for name, service in services(file).items():
            if "docker.sock" in str(service):
                assert (file, name) == ("compose.container.yaml", "backend")
    (service,) = backends("compose.container.yaml").values()
    assert service["environment"]["SHELL_SANDBOX"] == "container" and service["environment"]["SHELL_IMAGE"]
    assert service["security_opt"] == ["no-new-privileges:true"]


def test_every_variable_is_a_setting():
    for file in FILES:
        for service in backends(file).values():
            for name in set(service["environment"]) - OTHERS:
                assert backend_has(name), name


def test_the_fleet_s_backends_find_each_other():
    found = backends("compose.fleet.yaml")
    assert len(found) == 2
    for name, service in found.items():
        assert service["environment"]["INSTANCE_URL"] == f"http://{name}:3001"
        assert re.fullmatch(r"redis://:\$\{REDIS_PASSWORD:\?.*\}@valkey:6379", service["environment"]["REDIS_URL"])
        assert "ports" not in service
    configs = yaml.safe_load(text("compose.fleet.yaml"))["configs"]
    assert "requirepass ${REDIS_PASSWORD}\n" in configs["valkey"]["content"]
    balancer = configs["balancer"]["content"]
    (targets,) = re.findall(r"reverse_proxy (.*) \{", balancer)
    assert targets.split() == [f"{name}:3001" for name in found]
    # AWS's name, which the function looks for.
    assert "lb_policy cookie AWSALB\n" in balancer
    assert services("compose.fleet.yaml")["gateway"]["environment"]["BACKEND_URL"] == "http://balancer:3001"
