"""Settings: options, variables and TOML files, read once into frozen values.

Precedence, highest first: command-line option, `GUESTLAUNCH_*` variable, the file named by `--config`
(or `GUESTLAUNCH_CONFIG`), `$XDG_CONFIG_HOME/guestlaunch/config.toml`, `/etc/guestlaunch/config.toml`, default.
Standard library only, and cheap to import: every command and every launch starts here. What a value
means for a launch is decided elsewhere.
"""

from orchestrator.settings.directories import (
    SYSTEM_CONFIG,
    default_runtime_dir,
    default_state_dir,
    private_directory,
    private_state,
    remove_own_folder,
    user_config,
)
from orchestrator.settings.sources import (
    OWN_VARIABLES,
    PER_LAUNCH,
    PREFIX,
    for_launch,
    is_setting,
    keys,
    load,
    merged,
    to_environ,
    variable,
)
from orchestrator.settings.values import Deadlines, Settings

__all__ = [
    "OWN_VARIABLES",
    "PER_LAUNCH",
    "PREFIX",
    "SYSTEM_CONFIG",
    "Deadlines",
    "Settings",
    "default_runtime_dir",
    "default_state_dir",
    "for_launch",
    "is_setting",
    "keys",
    "load",
    "merged",
    "private_directory",
    "private_state",
    "remove_own_folder",
    "to_environ",
    "user_config",
    "variable",
]
