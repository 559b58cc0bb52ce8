"""The rules of the source tree that no compiler checks: size of files, arrows between crates, no circle of modules."""
import re
import statistics
import subprocess
import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
# Generated, or of a form that cannot be divided: one template is one stack.
EXEMPT = {
    "template.yaml",
    "infra/backend-ecs-service.yaml",
    "infra/template-existing-role.yaml",
    "infra/template-long-form.yaml",
    "crates/web/src/protocol.gen.ts",
}
SOURCE = re.compile(r"\.(rs|tsx?|m?js|py|sh|css|html|ya?ml)$")
# Crate: the workspace's crates that it may depend on.
ARROWS = {
    "protocol": set(),
    "session": {"protocol"},
    "host": {"protocol", "session"},
    "outbound": {"protocol"},
    "fleet": {"protocol"},
    "web": set(),
    "lambda": {"protocol", "outbound"},
    "backend": {"protocol", "session", "outbound", "fleet", "web"},
    "gateway": {"protocol"},
    "bench": {"protocol"},
}

Module = tuple[str, ...]


def sources() -> dict[str, int]:
    names = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return {
        name: len((ROOT / name).read_text().splitlines())
        for name in names.splitlines()
        if SOURCE.search(name) and name not in EXEMPT and (ROOT / name).is_file()
    }


def test_no_source_file_is_longer_than_500_lines():
    assert {name: lines for name, lines in sources().items() if lines > 500} == {}


def test_half_of_the_source_files_have_at_most_150_lines():
    assert statistics.median(sources().values()) <= 150


def test_crates_depend_only_on_those_below_them():
    for crate, allowed in ARROWS.items():
        manifest = tomllib.loads((ROOT / "crates" / crate / "Cargo.toml").read_text())
        found = {name.removeprefix("shellbridge-") for name in manifest["dependencies"] if name.startswith("shellbridge-")}
        assert found == allowed, crate


def test_every_crate_has_its_arrows():
    crates = {path.parent.name for path in (ROOT / "crates").glob("*/Cargo.toml")}
    assert crates == set(ARROWS)


def modules(crate: Path) -> dict[Module, str]:
    """The text of each module, without comments and tests."""
    found = {}
    for file in sorted((crate / "src").rglob("*.rs")):
        path = file.relative_to(crate / "src").with_suffix("").parts
        if "tests" in path or path[0] in ("main", "bin"):
            continue
        text = re.sub(r"//[^\n]*", "", file.read_text()).split("#[cfg(test)]")[0]
        found[path[:-1] if path[-1] in ("mod", "lib") else path] = text
    return found


def leaves(tree: str) -> list[list[str]]:
    """The paths of a `use` tree."""
    head, brace, body = tree.partition("{")
    prefix = [part.strip() for part in head.split(" as ")[0].split("::") if part.strip()]
    if not brace:
        return [prefix]
    parts, depth, start = [], 0, 0
    body = body[: body.rindex("}")] + ","
    for at, char in enumerate(body):
        depth += {"{": 1, "}": -1}.get(char, 0)
        if char == "," and depth == 0:
            parts.append(body[start:at].strip())
            start = at + 1
    return [prefix + leaf for part in parts if part for leaf in leaves(part)]


def resolve(module: Module, path: list[str], texts: dict[Module, str]) -> tuple[Module, list[str]] | None:
    """The module that a path leads into, and the rest of the path. None: another crate."""
    base, rest = module, list(path)
    if rest[0] == "crate":
        base, rest = (), rest[1:]
    elif rest[0] == "self":
        rest = rest[1:]
    elif rest[0] == "super":
        while rest and rest[0] == "super":
            base, rest = base[:-1], rest[1:]
    elif module + (rest[0],) not in texts:
        return None
    while rest and base + (rest[0],) in texts:
        base, rest = base + (rest[0],), rest[1:]
    return base, rest


def edges(texts: dict[Module, str]) -> dict[Module, set[Module]]:
    uses = {
        module: [(bool(public), leaf) for public, tree in re.findall(r"\b(pub(?:\([^)]*\))?\s+)?use\s+([^;]+);", text) for leaf in leaves(tree)]
        for module, text in texts.items()
    }
    # What a module passes on from its children is theirs.
    passed_on: dict[tuple[Module, str], Module] = {}
    for module, found in uses.items():
        for public, leaf in found:
            target = resolve(module, leaf, texts) if public else None
            if target and target[1] and target[0] != module:
                passed_on[module, target[1][-1]] = target[0]
    graph: dict[Module, set[Module]] = {module: set() for module in texts}
    for module, text in texts.items():
        inline = [path.split("::") for path in re.findall(r"\b(?:crate|super)(?:::\w+)+", re.sub(r"\buse\s+[^;]+;", "", text))]
        for path in [leaf for _, leaf in uses[module]] + inline:
            target = resolve(module, path, texts)
            if not target:
                continue
            to, rest = target
            while rest and (to, rest[0]) in passed_on:
                to = passed_on[to, rest[0]]
            # A module is a part of those that contain it, and may use what they define.
            if to != module[: len(to)]:
                graph[module].add(to)
    return graph


def circles(graph: dict[Module, set[Module]]) -> list[set[Module]]:
    def reach(start: Module) -> set[Module]:
        seen, todo = set(), [start]
        while todo:
            for to in graph[todo.pop()] - seen:
                seen.add(to)
                todo.append(to)
        return seen

    reached = {module: reach(module) for module in graph}
    return [
        {other for other in reached[module] if module in reached[other]}
        for module in graph
        if module in reached[module]
    ]


def test_no_modules_import_each_other_in_a_circle():
    found = {crate: circles(edges(modules(ROOT / "crates" / crate))) for crate in ARROWS}
    assert {crate: circle for crate, circle in found.items() if circle} == {}


def test_a_circle_is_found():
    texts = {(): "mod a; mod b;", ("a",): "use crate::b::X;", ("b",): "pub use self::c::X; mod c;", ("b", "c"): "use crate::a::Y;"}
    assert circles(edges(texts)) == [{("a",), ("b", "c")}] * 2
    assert circles(edges(texts | {("b", "c"): "use super::Z;"})) == []


def test_a_release_that_has_the_backend_has_its_host():
    jobs = yaml.safe_load((ROOT / ".github/workflows/release.yml").read_text())["jobs"]
    packed = [row["programs"].split() for row in jobs["programs"]["strategy"]["matrix"]["include"]]
    assert any("backend" in programs for programs in packed)
    assert all("session-host" in programs for programs in packed if "backend" in programs)
