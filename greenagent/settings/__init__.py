"""Settings: one declared table, the loader, its checks, and what derives from them.

``load_settings`` is the way in; the dataclasses of ``models`` are what comes out.
"""

from greenagent.settings.loader import Loaded, load_settings
from greenagent.settings.models import (
    ChannelSettings,
    ConsoleLogger,
    ControllerLogger,
    ControllerSettings,
    DatabaseLogger,
    ExtensionSettings,
    Logger,
    MainSettings,
    MetricsSettings,
    SecuritySettings,
    Settings,
    StartupTask,
    StatsSettings,
)
from greenagent.settings.problems import SettingsError

__all__ = [
    "ChannelSettings",
    "ConsoleLogger",
    "ControllerLogger",
    "ControllerSettings",
    "DatabaseLogger",
    "ExtensionSettings",
    "Loaded",
    "Logger",
    "MainSettings",
    "MetricsSettings",
    "SecuritySettings",
    "Settings",
    "SettingsError",
    "StartupTask",
    "StatsSettings",
    "load_settings",
]
