#!/bin/sh
# Installs the Autobahn fuzzing client (wstest), which needs Python 2.7, into a virtual environment.
#
#     setup.sh [DIRECTORY]        default: autobahn in cargo's target directory
#
# Python 2.7 is taken from $PYTHON27, from PATH, or from pyenv. Nothing is done if wstest is there already.
set -eu

root=$(cd "$(dirname "$0")/../../../.." && pwd)
directory=${1:-${CARGO_TARGET_DIR:-$root/target}/autobahn}

if [ -x "$directory/bin/wstest" ]; then
    echo "$directory/bin/wstest"
    exit 0
fi

python=${PYTHON27:-}
if [ -z "$python" ]; then
    for candidate in "$(command -v python2.7 || true)" "${PYENV_ROOT:-$HOME/.pyenv}"/versions/2.7*/bin/python2.7; do
        if [ -n "$candidate" ] && "$candidate" -c '' 2>/dev/null; then
            python=$candidate
            break
        fi
    done
fi
if [ -z "$python" ]; then
    echo "setup.sh: no Python 2.7 (set PYTHON27, or: pyenv install 2.7.18)" >&2
    exit 1
fi

# The last virtualenv that makes 2.7 environments. It runs from a directory of its own, so that no Python is touched.
"$python" -m pip install --quiet --no-input --disable-pip-version-check --target "$directory/virtualenv" 'virtualenv==20.15.1' 2>&1 |
    grep -v DEPRECATION >&2 || true
PYTHONPATH="$directory/virtualenv" "$python" -m virtualenv --quiet "$directory" >&2
"$directory/bin/pip" install --quiet --no-input --disable-pip-version-check 'autobahntestsuite==25.10.1' 2>&1 |
    grep -v DEPRECATION >&2 || true
"$directory/bin/wstest" --help >/dev/null
echo "$directory/bin/wstest"
