"""The Makefile's helpers for deployments.

    stack.py saved ENV PARAMETER            prints its value in samconfig.toml, if any
    stack.py output NAME < OUTPUTS          prints one output of a stack
    stack.py backend ENV [KIND] < OUTPUTS   copies outputs and parameters of the API's stack to the backend's
    stack.py bundle BUCKET                  writes .aws-sam/bundle: code and templates for the console, with the code in BUCKET

OUTPUTS is the output of `sam list stack-outputs --output json`.
"""

from __future__ import annotations

import json
import shlex
import sys
import zipfile
from pathlib import Path

import tomlkit
from samtags import dump, load

ROOT = Path(__file__).resolve().parents[1]
# Parameter of the backend's templates -> output of the API's stack.
OF_OUTPUTS = {
    "ApiId": "ApiId",
    "StageName": "Stage",
    "CallbackUrl": "CallbackUrl",
    "WebSocketUrl": "WebSocketUrl",
    "AllowedOrigins": "BackendAllowedOrigins",
    "BridgeSecretArn": "BackendBridgeSecretArn",
}
# Parameters with the same value in both stacks. Roles differ, so they are not copied.
SHARED = (
    "JwtSecretArn", "JwtPublicKey", "JwksUrl", "JwtIssuer", "JwtAudience", "SecretsKmsKeyArn", "PermissionsBoundaryArn",
    "LogRetentionDays", "AlarmTopicArn",
)


def parameters(config: dict, environment: str) -> dict[str, str]:
    """Returns the parameters of an environment, from a handwritten list or the line that `sam deploy --guided` saves."""
    overrides = config.get(environment, {}).get("deploy", {}).get("parameters", {}).get("parameter_overrides", [])
    pairs = shlex.split(overrides) if isinstance(overrides, str) else [shlex.split(pair)[0] for pair in overrides]
    return dict(pair.split("=", 1) for pair in pairs)


def line(values: dict[str, str]) -> str:
    """Formats parameters as the line that SAM reads."""
    return " ".join(f'{name}="{value}"' for name, value in values.items())


def outputs(text: str) -> dict[str, str]:
    """Returns outputs by name. Exits on empty input: SAM failed and has reported why."""
    if not text.strip():
        sys.exit(1)
    return {item["OutputKey"]: item["OutputValue"] for item in json.loads(text)}


def configure_backend(config: dict, environment: str, kind: str | None, given: dict[str, str]) -> None:
    """Fills in `ENV-backend` from the API's stack, keeping all other parameters."""
    section = config[f"{environment}-backend"]["deploy"]["parameters"]
    api = parameters(config, environment)
    values = parameters(config, f"{environment}-backend")
    values |= {name: given[output] for name, output in OF_OUTPUTS.items()}
    values |= {name: api[name] for name in SHARED if api.get(name)}
    section["parameter_overrides"] = line(values)
    if kind:
        section["template_file"] = f"infra/backend-{kind}.yaml"


def bundle(bucket: str, build: Path, to: Path) -> None:
    """Writes the built function as a zip, and templates that load it from the bucket."""
    to.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(to / "function.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        # Lambda keeps the file mode of the archive, so it needs the execute bit.
        entry = zipfile.ZipInfo("bootstrap")
        entry.external_attr = 0o755 << 16
        entry.compress_type = zipfile.ZIP_DEFLATED
        archive.writestr(entry, (build / "Handler" / "bootstrap").read_bytes())
    for source in (ROOT / "template.yaml", *sorted((ROOT / "infra").glob("template-*.yaml"))):
        template = load(source.read_text())
        # Refers to files that are not in the bundle.
        del template["Metadata"]["AWS::ServerlessRepo::Application"]
        template["Resources"]["Handler"]["Properties"]["CodeUri"] = f"s3://{bucket}/function.zip"
        (to / source.name).write_text(dump(template))


def main(arguments: list[str]) -> None:
    path = Path("samconfig.toml")
    match arguments:
        case ["saved", environment, name]:
            print(parameters(tomlkit.parse(path.read_text()), environment).get(name, ""))
        case ["output", name]:
            print(outputs(sys.stdin.read())[name])
        case ["backend", environment, *kind]:
            config = tomlkit.parse(path.read_text())
            configure_backend(config, environment, *(kind or [None]), outputs(sys.stdin.read()))
            path.write_text(tomlkit.dumps(config))
        case ["bundle", bucket]:
            bundle(bucket, Path(".aws-sam/build"), Path(".aws-sam/bundle"))
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
