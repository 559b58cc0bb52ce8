"""No parent process of the backend holds its secrets, because any shell could read them there (infra/Containerfile)."""

import pathlib
import re

import yaml

INFRA = pathlib.Path(__file__).parent.parent


def instructions():
    text = (INFRA / "Containerfile").read_text()
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def test_the_images_start_the_programs_directly():
    starts = [line for line in instructions() if re.match(r"\s*(ENTRYPOINT|CMD)\b", line)]
    assert len(starts) == 2
    assert starts[0].startswith('ENTRYPOINT ["gateway", ')
    assert starts[1] == 'ENTRYPOINT ["backend", "--init"]'
    assert not [line for line in instructions() if "tini" in line or "HEALTHCHECK" in line]


def test_compose_adds_no_init_or_health_check_to_containers_with_secrets():
    for path, names in {
        "compose.yaml": {"backend", "gateway"},
        "compose.container.yaml": {"backend"},
        "compose.fleet.yaml": {"backend-1", "backend-2", "gateway"},
    }.items():
        services = yaml.safe_load((INFRA / path).read_text())["services"]
        assert names <= set(services)
        for name in names:
            assert not {"init", "healthcheck", "entrypoint", "command"} & set(services[name]), name


def test_templates_add_no_init():
    templates = [*INFRA.glob("*.yaml"), INFRA.parent / "template.yaml"]
    assert len(templates) > 4
    for template in templates:
        assert not re.search(r"initProcessEnabled|HealthCheck:\s*\n\s*Command", template.read_text(), re.I), template
