"""Evaluates a template as CloudFormation would: parameters, conditions and the intrinsic functions used here."""

from __future__ import annotations

import re
from typing import Any

PSEUDO = {
    "AWS::AccountId": "123456789012",
    "AWS::Partition": "aws",
    "AWS::Region": "us-east-1",
    "AWS::StackName": "shellbridge",
    "AWS::URLSuffix": "amazonaws.com",
}
_GONE = object()


class Evaluation:
    """A template in its long form (`{"Ref": …}`) with values for its parameters.

    References to resources become `<Name>` and `<Name.Attribute>`, unless `names` says otherwise.
    """

    def __init__(self, template: dict[str, Any], parameters: dict[str, Any], names: dict[str, str] | None = None):
        self.template = template
        self.names = {**PSEUDO, **(names or {})}
        self.parameters = {}
        for name, parameter in template.get("Parameters", {}).items():
            value = parameters.get(name, parameter.get("Default"))
            if value is None:
                raise KeyError(f"parameter {name} has no value")
            if parameter["Type"].startswith(("CommaDelimitedList", "List<")):
                value = value.split(",") if isinstance(value, str) else value
            self.parameters[name] = value if isinstance(value, list) else str(value)
        unknown = set(parameters) - set(self.parameters)
        if unknown:
            raise KeyError(f"no such parameters: {sorted(unknown)}")

    def condition(self, name: str) -> bool:
        """Evaluates a named condition."""
        return self._holds(self.template["Conditions"][name])

    def rules(self) -> list[str]:
        """Returns the descriptions of violated rules."""
        return [
            assertion["AssertDescription"]
            for rule in self.template.get("Rules", {}).values()
            if self._holds(rule.get("RuleCondition", {"Fn::Equals": ["", ""]}))
            for assertion in rule["Assertions"]
            if not self._holds(assertion["Assert"])
        ]

    def section(self, name: str) -> dict[str, Any]:
        """Evaluates `Resources` or `Outputs`, without those whose condition is false."""
        return {
            key: self.value({k: v for k, v in item.items() if k != "Condition"})
            for key, item in self.template[name].items()
            if "Condition" not in item or self.condition(item["Condition"])
        }

    def value(self, value: Any) -> Any:
        """Evaluates `value`."""
        result = self._value(value)
        return None if result is _GONE else result

    def _holds(self, condition: Any) -> bool:
        ((function, argument),) = condition.items()
        match function:
            case "Condition":
                return self.condition(argument)
            case "Fn::Equals":
                left, right = (self._value(side) for side in argument)
                return str(left) == str(right)
            case "Fn::Not":
                return not self._holds(argument[0])
            case "Fn::And":
                return all(self._holds(part) for part in argument)
            case "Fn::Or":
                return any(self._holds(part) for part in argument)
        raise NotImplementedError(function)

    def _reference(self, name: str) -> Any:
        if name == "AWS::NoValue":
            return _GONE
        if name in self.names:
            return self.names[name]
        return self.parameters[name] if name in self.parameters else f"<{name}>"

    def _attribute(self, name: str) -> str:
        return self.names.get(name, f"<{name}>")

    def _sub(self, argument: Any) -> str:
        text, variables = (argument, {}) if isinstance(argument, str) else argument

        def replace(match: re.Match[str]) -> str:
            name = match[1]
            if name in variables:
                return str(self._value(variables[name]))
            if name in self.names:
                return self.names[name]
            return self._attribute(name) if "." in name else str(self._reference(name))

        return re.sub(r"\$\{([^!}]+)\}", replace, text)

    def _value(self, value: Any) -> Any:
        if isinstance(value, list):
            return [item for item in map(self._value, value) if item is not _GONE]
        if not isinstance(value, dict):
            return value
        if len(value) == 1:
            ((function, argument),) = value.items()
            match function:
                case "Ref":
                    return self._reference(argument)
                case "Fn::GetAtt":
                    return self._attribute(argument if isinstance(argument, str) else ".".join(argument))
                case "Fn::Sub":
                    return self._sub(argument)
                case "Fn::If":
                    name, yes, no = argument
                    return self._value(yes if self.condition(name) else no)
                case "Fn::Join":
                    return argument[0].join(str(self._value(item)) for item in self._value(argument[1]))
                case "Fn::Split":
                    return str(self._value(argument[1])).split(argument[0])
            if function.startswith("Fn::"):
                raise NotImplementedError(function)
        items = ((key, self._value(item)) for key, item in value.items())
        return {key: item for key, item in items if item is not _GONE}
