"""docs/configuration.md, made from the declarations: ``python -m greenagent.settings.document``."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import Any

from greenagent.settings.load import FLAGS, IGNORED_SECTIONS
from greenagent.settings.models import MODELS
from greenagent.settings.schema import FLAG_WORDS, REQUIRED, Section, declared
from greenagent.settings.show import show

_INTRODUCTION = """\
# Configuration

This page is made from the declarations in `greenagent/settings/models.py` and `destinations.py`:
`python -m greenagent.settings.document > docs/configuration.md`.

The agent reads one TOML file: that of `-c FILE`, else of the variable `GREENAGENT_CONFIG`, else
/etc/greenagent.toml; so do `greenagent-logs` and its sub-commands. `greenagent --check` names everything that is
wrong with it, one line each, and exits 0 or 1. `greenagent --print-config` prints the
effective settings and where each came from; `env`, `args`, `data`, `headers` and passwords in URLs show as `***`
without `--show-secrets`.

- A flag beats an environment variable, which beats the file, which beats the default. Flags:
  {flags}.
- Environment variables exist for the sections with a fixed name: {sections}. Lists are
  comma-separated: `GREENAGENT_MAIN_ROLES=web,database`, `GREENAGENT_MAIN_ENV=LANG=C.UTF-8,TZ=UTC`.
  For a setting that is true or false, {true}
  count as true and {false} as false, in capitals or not.
- Unknown sections and settings are refused, with the nearest known name.
- The file must be TOML for the `toml` library and for Python's `tomllib` (on Python 3.10 for the
  package `tomli`: `pip install tomli`). All items of a list are of one type.
- Controllers and sinks are reached through the proxy that the environment names (`http_proxy`, `https_proxy`,
  `all_proxy`, with `no_proxy`, as for curl), but never those on the loopback interface. `--check` and `--print-config`
  say for which.
- Relative paths in the file, and the defaults here, are against the file's folder; those of variables and flags against
  the folder the agent was started in. `cwd` and `binary` of an extension are as its jobs see them. Version 0.1 took the
  folder the agent was started in for all of them: state that lies only there is used there, which is said; state
  in both places is refused.
- SIGHUP reads the file again. Settings marked "live" change at once, without touching running
  jobs. Whole controllers, sinks and extensions may come and go; added or removed loggers and startup
  tasks need a restart. A broken file changes nothing.
"""

_ORIGINALS = """\
## What only the original agents know

These are accepted with a warning each, so that their files load:

{lines}
"""


def configuration_page() -> str:
    """The whole page."""
    fixed = [model.section.pattern for model in MODELS if "<" not in model.section.pattern]
    parts = [
        _INTRODUCTION.format(
            flags=_quoted(f"--{name}" for name in FLAGS),
            sections=_quoted(fixed),
            true=_quoted(word for word, meaning in FLAG_WORDS.items() if meaning),
            false=_quoted(word for word, meaning in FLAG_WORDS.items() if not meaning),
        )
    ]
    parts += [_section(model) for model in MODELS]
    parts.append(_ORIGINALS.format(lines="\n".join(_original_names())))
    return "\n".join(parts)


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _section(model: Any) -> str:
    section: Section = model.section
    fixed = "<" not in section.pattern
    lines = [f"## `[{section.pattern}]`" + (f' with `type = "{section.variant}"`' if section.variant else "")]
    lines += ["", " ".join(model.__doc__.split()), ""]
    lines += ["| Setting | Type | Default | Unit | Meaning |" + (" Variable |" if fixed else "")]
    lines += ["|---|---|---|---|---|" + ("---|" if fixed else "")]
    if section.variant:
        lines.append(f'| `type` | text | required | | "{section.variant}", in capitals or not |')
    for name, setting in declared(model).items():
        default = "required" if setting.default is REQUIRED else f"`{show(setting.default)}`"
        meaning = setting.help.replace("|", "\\|") + (" (live)" if setting.live else "")
        cells = [f"`{name}`", setting.kind.name, default, setting.unit, meaning]
        cells += [f"`{section.variable(name)}`"] if fixed else []
        lines.append("| " + " | ".join(cells).replace("|  |", "| |") + " |")
    return "\n".join([*lines, ""])


def _original_names() -> Iterator[str]:
    for model in MODELS:
        for name, setting in declared(model).items():
            yield from (f"- `{model.section.pattern}` `{other}`: read as `{name}`" for other in setting.originals)
        yield from (f"- `{model.section.pattern}` `{name}`: {text}" for name, text in model.section.ignored.items())
    yield from (f"- section `{name}`: {text}" for name, text in IGNORED_SECTIONS.items())


if __name__ == "__main__":
    sys.stdout.write(configuration_page())
