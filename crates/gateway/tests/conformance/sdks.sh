#!/bin/sh
# Installs the AWS SDKs for Python and JavaScript, which the conformance tests use, into cargo's target directory.
set -eu

root=$(cd "$(dirname "$0")/../../../.." && pwd)
directory=${CARGO_TARGET_DIR:-$root/target}/sdks
python=$directory/python
node=$directory/node

# awslambdaric only as a wheel: its source needs cmake and autotools.
if ! "$python/bin/python" -c 'import boto3, awslambdaric' 2>/dev/null; then
    python3 -m venv "$python"
    "$python/bin/pip" install --quiet --no-input --disable-pip-version-check \
        --only-binary awslambdaric 'boto3==1.43.11' 'awslambdaric==4.2.2'
fi

if ! NODE_PATH=$node/node_modules node -e '
    require("@aws-sdk/client-dynamodb"); require("@aws-sdk/client-apigatewaymanagementapi")' 2>/dev/null; then
    mkdir -p "$node"
    npm install --silent --no-audit --no-fund --no-package-lock --prefix "$node" \
        @aws-sdk/client-dynamodb@3.1169.0 @aws-sdk/client-apigatewaymanagementapi@3.1169.0
fi
