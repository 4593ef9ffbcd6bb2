"""Local language models that follow each user's own preferences, at run time, without training."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from linalign_integrations.engine import Engine, SamplingParams
    from linalign_integrations.preferences import (
        Preferences,
        Principle,
        open_profiles,
        use_preferences,
    )

__version__ = "0.1.0"

__all__ = [
    "Engine",
    "Preferences",
    "Principle",
    "SamplingParams",
    "open_profiles",
    "use_preferences",
]

_HOMES = {"Engine": "engine", "SamplingParams": "engine"}


def __getattr__(name: str) -> object:
    # torch and transformers take seconds to import; only what runs a model needs them.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = importlib.import_module(f"{__name__}.{_HOMES.get(name, 'preferences')}")
    return getattr(home, name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
