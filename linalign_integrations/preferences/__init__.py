"""Who wants what: principles, preferences, where they come from and where they are kept."""

from linalign_integrations.preferences.model import Placement, Preferences, Principle
from linalign_integrations.preferences.profiles import Profiles, open_profiles
from linalign_integrations.preferences.records import Profile
from linalign_integrations.preferences.scope import as_preferences, resolve, use_preferences

__all__ = [
    "Placement",
    "Preferences",
    "Principle",
    "Profile",
    "Profiles",
    "as_preferences",
    "open_profiles",
    "resolve",
    "use_preferences",
]
