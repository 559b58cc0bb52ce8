"""Puts values into a policy: `STAGE=prod … python3 fill.py function-policy.json`.

Every `${NAME}` is taken from the environment. One that is set but empty drops the resource it is part of, such as
`JWT_SECRET_ARN=` where tokens are verified with a public key. One that is not set is an error.
"""

import json
import os
import re
import sys


def fill(text: str) -> str | None:
    """`text` with values; `None` if one is empty."""
    values = {name: os.environ[name] for name in re.findall(r"\$\{(\w+)\}", text)}
    if "" in values.values():
        return None
    return re.sub(r"\$\{(\w+)\}", lambda match: values[match[1]], text)


def filled(value):
    """A document with values."""
    if isinstance(value, dict):
        return {key: filled(item) for key, item in value.items()}
    if isinstance(value, list):
        return [item for item in map(filled, value) if item is not None]
    return fill(value)


def main() -> None:
    try:
        with open(sys.argv[1], encoding="utf-8") as file:
            print(json.dumps(filled(json.load(file)), indent=2))
    except KeyError as missing:
        sys.exit(f"{missing.args[0]} is not set; set it empty if you have none")
    except IndexError:
        sys.exit("usage: fill.py POLICY")


if __name__ == "__main__":
    main()
