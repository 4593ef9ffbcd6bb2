"""What LangChain may expect of a model, without reading its weights."""

from __future__ import annotations

from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from linalign_integrations.errors import LinAlignError

if TYPE_CHECKING:
    from langchain_core.language_models import ModelProfile


@lru_cache(maxsize=64)
def _context_length(model: str, revision: str | None) -> int | None:
    """Most tokens of prompt and answer, where a config on this machine says so."""
    from huggingface_hub import try_to_load_from_cache

    from linalign_integrations.engine.loading import context_length

    if model != "pocket" and not Path(model).is_dir():
        # Making an object asks no hub.
        found = try_to_load_from_cache(model, "config.json", revision=revision)
        if not isinstance(found, str):
            return None
        model = str(Path(found).parent)
    try:
        return context_length(model, None, False)
    except LinAlignError:
        return None


def model_profile(model: str, revision: str | None) -> ModelProfile:
    """What a local text model can do here; its context where its config is on this machine."""
    enforced = find_spec("llguidance") is not None
    made: ModelProfile = {
        "name": model,
        "open_weights": True,
        "text_inputs": True,
        "image_inputs": False,
        "audio_inputs": False,
        "video_inputs": False,
        "pdf_inputs": False,
        "text_outputs": True,
        "temperature": True,
        "tool_calling": True,
        "tool_choice": enforced,
        "tool_call_streaming": True,
        "structured_output": enforced,
    }
    if (length := _context_length(model, revision)) is not None:
        made["max_input_tokens"] = made["max_output_tokens"] = length
    return made
