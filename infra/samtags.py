"""Reads and writes CloudFormation YAML and preserves its short tags (`!Ref` and so on)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import yaml


@dataclass(frozen=True)
class Tag:
    """`!Name value`."""

    name: str
    value: Any


class _Loader(yaml.SafeLoader):
    """Leaves dates as strings: `2012-10-17` is a version."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, regexp) for tag, regexp in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def _construct(loader: _Loader, suffix: str, node: yaml.Node) -> Tag:
    if isinstance(node, yaml.ScalarNode):
        return Tag(suffix, loader.construct_scalar(node))
    if isinstance(node, yaml.SequenceNode):
        return Tag(suffix, loader.construct_sequence(node, deep=True))
    return Tag(suffix, loader.construct_mapping(node, deep=True))


_Loader.add_multi_constructor("!", _construct)


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


def _represent_tag(dumper: _Dumper, tag: Tag) -> yaml.Node:
    value, name = tag.value, f"!{tag.name}"
    if isinstance(value, dict):
        return dumper.represent_mapping(name, value)
    if isinstance(value, list):
        return dumper.represent_sequence(name, value)
    return dumper.represent_scalar(name, value, style="|" if "\n" in value else None)


def _represent_str(dumper: _Dumper, text: str) -> yaml.Node:
    style = "|" if "\n" in text else "'" if text == "2012-10-17" else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(Tag, _represent_tag)
_Dumper.add_representer(str, _represent_str)


def load(text: str) -> Any:
    """Parses a template, with short tags as `Tag`."""
    return yaml.load(text, _Loader)  # noqa: S506 - derived from SafeLoader


def dump(template: Any) -> str:
    """Formats a template."""
    return yaml.dump(template, Dumper=_Dumper, sort_keys=False, width=120, allow_unicode=True)


def long(value: Any) -> Any:
    """Converts short tags to the long form that every tool understands (`{"Ref": …}`)."""
    if isinstance(value, Tag):
        inner = long(value.value)
        if value.name in ("Ref", "Condition"):
            return {value.name: inner}
        if value.name == "GetAtt" and isinstance(inner, str):
            inner = inner.split(".", 1)
        return {f"Fn::{value.name}": inner}
    if isinstance(value, dict):
        return {key: long(item) for key, item in value.items()}
    if isinstance(value, list):
        return [long(item) for item in value]
    return value


def short(value: Any) -> Any:
    """Inverse of `long`."""
    if isinstance(value, dict):
        if len(value) == 1:
            ((key, inner),) = value.items()
            if key == "Ref":
                return Tag(key, inner)
            if key.startswith("Fn::"):
                if key == "Fn::GetAtt" and isinstance(inner, list):
                    return Tag("GetAtt", ".".join(inner))
                return Tag(key[4:], short(inner))
        return {key: short(item) for key, item in value.items()}
    if isinstance(value, list):
        return [short(item) for item in value]
    return value
