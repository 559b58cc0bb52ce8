#!/bin/bash
# Lints template.yaml, samconfig.toml and infra/, offline and without credentials.
# Usage: infra/lint.sh VENV, a virtual environment with infra/requirements.txt installed.
set -u
usage="usage: infra/lint.sh VENV"
bin=$(cd "${1:?$usage}/bin" && pwd) || exit 2
cd "$(dirname "$0")/.." || exit 2
# Ignore the caller's AWS account: findings must not depend on it.
unset AWS_PROFILE AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY AWS_SESSION_TOKEN
export AWS_DEFAULT_REGION=us-east-1 AWS_REGION=us-east-1 AWS_EC2_METADATA_DISABLED=true
export AWS_CONFIG_FILE=/dev/null AWS_SHARED_CREDENTIALS_FILE=/dev/null
export SAM_CLI_TELEMETRY=0 SAM_CLI_CHECK_VERSION=0

failed=0
check() { # what, command…: prints one line on success, the whole output on failure.
    local what=$1 output
    shift
    if output=$("$@" 2>&1); then
        printf 'ok      %s\n' "$what"
    else
        failed=1
        printf 'FAILED  %s\n' "$what"
        sed 's/^/        /' <<<"$output"
    fi
}

for environment in default prod; do
    check "sam validate --lint, $environment" "$bin/sam" validate --lint --template-file template.yaml --config-env "$environment"
done
for template in infra/template-*.yaml; do
    check "sam validate --lint $template" "$bin/sam" validate --lint --template-file "$template"
done
for template in template.yaml infra/template-*.yaml infra/backend-*.yaml; do
    check "cfn-lint $template" "$bin/cfn-lint" --template "$template"
done
check "generated files are current" "$bin/python" infra/generate.py --check
check "policy scan (exceptions: infra/policy-exceptions.txt)" "$bin/python" infra/scan.py
exit $failed
