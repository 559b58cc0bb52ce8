#!/bin/sh
# Makes a Python with boto3 for the conformance tests, unless the system's has it.
#
#     boto3.sh [DIRECTORY]        default: boto3 in cargo's target directory
set -eu

root=$(cd "$(dirname "$0")/../../../.." && pwd)
directory=${1:-${CARGO_TARGET_DIR:-$root/target}/boto3}

if python3 -c 'import boto3' 2>/dev/null || "$directory/bin/python" -c 'import boto3' 2>/dev/null; then
    exit 0
fi
python3 -m venv "$directory"
"$directory/bin/pip" install --quiet --no-input --disable-pip-version-check 'boto3==1.43.11'
