"""Scans the templates and the Containerfile with checkov and compares the findings with policy-exceptions.txt."""

from __future__ import annotations

import fnmatch
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

INFRA = Path(__file__).resolve().parent
TEMPLATES = [INFRA.parent / "template.yaml", *sorted(INFRA.glob("template-*.yaml")), *sorted(INFRA.glob("backend-*.yaml"))]


def exceptions() -> dict[tuple[str, str], str]:
    """Returns the reason of each exception by check and resource."""
    lines = (INFRA / "policy-exceptions.txt").read_text().splitlines()
    fields = [line.split(maxsplit=2) for line in lines if line and not line.startswith("#")]
    return {(check, resource): why for check, resource, why in fields}


def scan(framework: str, files: list[Path]) -> tuple[int, list[tuple[str, str, str, str]]]:
    """Returns the number of passed checks, and file, check, resource and name of each failed one."""
    command = [str(Path(sys.executable).parent / "checkov"), "--framework", framework, "--output", "json", "--quiet"]
    command += ["--skip-download", "--soft-fail", "--file", *map(str, files)]
    environment = {**os.environ, "BC_SKIP_MAPPING": "TRUE", "CHECKOV_RUN_SCA_PACKAGE_SCAN_V2": "false", "LOG_LEVEL": "ERROR"}
    run = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    try:
        report = json.loads(run.stdout)
    except json.JSONDecodeError:
        sys.exit(f"checkov produced no report:\n{run.stdout}{run.stderr}")
    report = report[0] if isinstance(report, list) else report
    summary = report["summary"]
    if summary["parsing_errors"] or not summary["passed"]:
        sys.exit(f"checkov could not parse every file: {summary}")
    failed = report["results"]["failed_checks"]
    return summary["passed"], [
        (Path(item["file_path"]).name, item["check_id"], item["resource"], item["check_name"]) for item in failed
    ]


def main() -> int:
    passed, findings = scan("cloudformation", TEMPLATES)
    with tempfile.TemporaryDirectory() as directory:
        # checkov recognises only this file name.
        containerfile = Path(directory) / "Dockerfile"
        shutil.copy(INFRA / "Containerfile", containerfile)
        more, further = scan("dockerfile", [containerfile])
    allowed = exceptions()
    used, bad = set(), 0
    for file, check, resource, words in findings + further:
        keys = [key for key in allowed if key[0] == check and fnmatch.fnmatchcase(resource, key[1])]
        used.update(keys)
        if not keys:
            bad += 1
            print(f"{file}: {check} {resource}: {words}")
    for check, resource in allowed.keys() - used:
        bad += 1
        print(f"policy-exceptions.txt: unused exception {check} {resource}")
    print(f"checkov: {passed + more} checks passed, {len(used)} exceptions, {bad} findings")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
