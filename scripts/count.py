"""Counts the package: lines, statements (without docstrings), documented public names, modules by size.

``python scripts/count.py [--rooms] [FOLDER]``; FOLDER is the package of another checkout.
"""

from __future__ import annotations

import argparse
import ast
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent / "greenagent"
MAX_LINES = 400
MIN_LINES = 40


def is_docstring(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def statements(tree: ast.AST) -> int:
    return sum(isinstance(node, ast.stmt) and not is_docstring(node) for node in ast.walk(tree))


def public_names(tree: ast.Module) -> list[bool]:
    """Whether each public module, class, function and method has a docstring."""
    found = [ast.get_docstring(tree) is not None]
    waiting: list[ast.AST] = [tree]
    while waiting:
        for node in ast.iter_child_nodes(waiting.pop()):
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith(
                "_"
            ):
                found.append(ast.get_docstring(node) is not None)
                if isinstance(node, ast.ClassDef):
                    waiting.append(node)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rooms", action="store_true", help="a line for each folder")
    parser.add_argument("folder", nargs="?", type=Path, default=PACKAGE)
    options = parser.parse_args()
    modules: dict[Path, tuple[int, int]] = {}
    documented: list[bool] = []
    for path in sorted(options.folder.rglob("*.py")):
        text = path.read_text()
        tree = ast.parse(text)
        modules[path.relative_to(options.folder)] = (len(text.splitlines()), statements(tree))
        documented += public_names(tree)
    if options.rooms:
        for room in sorted({path.parts[0] for path in modules}):
            inside = [sizes for path, sizes in modules.items() if path.parts[0] == room]
            lines, count = (sum(column) for column in zip(*inside, strict=True))
            print(f"{room:<14}{len(inside):>4} modules {lines:>7} lines {count:>7} statements")
    lines, count = (sum(column) for column in zip(*modules.values(), strict=True))
    print(f"{'all':<14}{len(modules):>4} modules {lines:>7} lines {count:>7} statements")
    print(f"public names documented: {sum(documented)} of {len(documented)} ({sum(documented) / len(documented):.1%})")
    for path, (length, _) in modules.items():
        if length > MAX_LINES or (0 < length < MIN_LINES and path.name not in {"__init__.py", "__main__.py"}):
            print(f"{length:>4} lines: {path}")


if __name__ == "__main__":
    main()
