"""A module of the service can be read without having read what imports it: none imports itself, by whatever way."""

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

APP = Path(__file__).resolve().parents[3] / "app"
MODULES = {
    ".".join(path.relative_to(APP.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in APP.rglob("*.py")
}


def statements(tree: ast.Module) -> Iterator[ast.AST]:
    """Yield what a module does when it is imported: nothing of its functions, and nothing that only mypy reads."""
    rest: list[ast.AST] = [*tree.body]
    while rest:
        node = rest.pop()
        yield node
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            rest.extend(ast.iter_child_nodes(node))


def imported(name: str) -> set[str]:
    """Return the modules of the service that a module imports at once."""
    package = MODULES[name].relative_to(APP.parent).parent.parts
    found: set[str] = set()
    for node in statements(ast.parse(MODULES[name].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = ".".join([*package[: len(package) + 1 - node.level], base]).strip(".")
            names = [f"{base}.{alias.name}" for alias in node.names]
            found |= {name if name in MODULES else base for name in names}
    return found & MODULES.keys()


def test_imports_lead_in_one_direction() -> None:
    graph = {name: imported(name) for name in MODULES}
    assert "app.settings" in graph["app.__main__"]
    assert "app.errors" in graph["app.models.labels"]
    assert len([*TopologicalSorter(graph).static_order()]) == len(MODULES)
