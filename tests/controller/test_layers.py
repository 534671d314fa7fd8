"""The rooms of the controller import in one direction only, so that each can be replaced."""

from __future__ import annotations

import ast
from pathlib import Path

CONTROLLER = Path(__file__).parents[2] / "greenagent" / "controller"
ALLOWED = {
    "limits": set(),
    "json_parts": set(),
    "assignments": set(),
    "model": {"assignments", "json_parts"},
    "expiry": {"model"},
    "state": {"assignments", "expiry", "limits", "model", "json_parts"},
    "stores": {"model", "state"},
    "dispatch": {"assignments", "expiry", "limits", "model", "state", "stores", "json_parts"},
    "schedules": {"limits", "model", "state", "dispatch"},
    "backend": {"limits", "model", "state", "stores", "dispatch", "schedules"},
    "fleet": {"assignments", "limits", "model", "state", "dispatch", "schedules", "json_parts"},
    "services": {"limits", "state", "dispatch", "schedules", "backend"},
    "http": {"limits", "model", "json_parts", "state", "dispatch", "schedules", "services"},
    "clients": {"limits", "model", "state", "stores", "dispatch", "services"},
    "controller": {"state", "services", "http", "clients"},
}


def test_nothing_reaches_back() -> None:
    for path in CONTROLLER.rglob("*.py"):
        room = path.relative_to(CONTROLLER).parts[0].removesuffix(".py")
        if room == "__init__":
            continue
        imported = {
            node.module.split(".")[2]
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("greenagent.controller.")
        }
        assert imported - ALLOWED[room] <= {room}, f"{path.name} imports {imported}"
