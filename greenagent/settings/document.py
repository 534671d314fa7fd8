"""docs/configuration.md, made from the table: ``python -m greenagent.settings.document``."""

from __future__ import annotations

import sys

from greenagent.settings import table
from greenagent.settings.declaration import REQUIRED, Section, Setting
from greenagent.settings.kinds import FLAG_WORDS, show

_INTRODUCTION = """\
# Configuration

This page is made from the table of settings: `python -m greenagent.settings.document > docs/configuration.md`.

The agent reads one TOML file (`-c FILE`). `greenagent -c FILE --check` names everything that is
wrong with it, one line each, and exits 0 or 1. `greenagent -c FILE --print-config` prints the
effective settings and where each came from.

- A flag beats an environment variable, which beats the file, which beats the default. Flags:
  {flags}.
- Environment variables exist for the sections with a fixed name: {sections}. Lists are
  comma-separated: `GREENAGENT_MAIN_ROLES=web,database`. For a setting that is true or false, {true}
  count as true and {false} as false, in capitals or not.
- Unknown sections and settings are refused, with the nearest known name.
- Relative paths are against the folder the agent was started in.
- SIGHUP reads the file again. Settings marked "live" change at once, without touching running
  jobs. Whole controllers and extensions may come and go; added or removed loggers and startup
  tasks need a restart. A broken file changes nothing.
"""

_ORIGINALS = """\
## What only the original agents know

These are accepted with a warning each, so that their files load:

{lines}
"""


def configuration_page() -> str:
    """The whole page."""
    flags = ", ".join(f"`--{name}`" for name in table.FLAGS)
    fixed = ", ".join(f"`{section.pattern}`" for section in table.SECTIONS if section.fixed)
    words = {
        truth: ", ".join(f"`{word}`" for word, meaning in FLAG_WORDS.items() if meaning is truth)
        for truth in (True, False)
    }
    parts = [_INTRODUCTION.format(flags=flags, sections=fixed, true=words[True], false=words[False])]
    parts += [_section(section) for section in table.SECTIONS]
    parts.append(_ORIGINALS.format(lines="\n".join(_ignored_lines())))
    return "\n".join(parts)


def _section(section: Section) -> str:
    lines = [f"## `[{section.pattern}]`" + (f' with `type = "{section.variant}"`' if section.variant else "")]
    lines += ["", section.help, ""]
    lines += ["| Setting | Type | Default | Unit | Meaning |" + (" Variable |" if section.fixed else "")]
    lines += ["|---|---|---|---|---|" + ("---|" if section.fixed else "")]
    if section.variant:
        lines.append(f'| `type` | text | required | | "{section.variant}", in capitals or not |')
    lines += [_row(section, setting) for setting in section.settings]
    return "\n".join([*lines, ""])


def _row(section: Section, setting: Setting) -> str:
    default = "required" if setting.default is REQUIRED else f"`{show(setting.default)}`"
    meaning = setting.help.replace("|", "\\|") + (" (live)" if setting.live else "")
    cells = [f"`{setting.name}`", setting.kind.name, default, setting.unit, meaning]
    if section.fixed:
        cells.append(f"`{table.variable_name(section, setting)}`")
    return "| " + " | ".join(cells).replace("|  |", "| |") + " |"


def _ignored_lines() -> list[str]:
    lines = []
    for section in table.SECTIONS:
        for setting in section.settings:
            lines += [f"- `{section.pattern}` `{name}`: read as `{setting.name}`" for name in setting.originals]
        lines += [f"- `{section.pattern}` `{name}`: {text}" for name, text in section.ignored]
    return lines + [f"- section `{name}`: {text}" for name, text in table.IGNORED_SECTIONS]


if __name__ == "__main__":
    sys.stdout.write(configuration_page())
