"""Settings: declared once, in ``models``; all else in this room derives from that.

``load_settings`` is the way in; the dataclasses of ``models`` are what comes out.
"""

from greenagent.settings.load import Loaded, load_settings
from greenagent.settings.problems import SettingsError

__all__ = ["Loaded", "SettingsError", "load_settings"]
