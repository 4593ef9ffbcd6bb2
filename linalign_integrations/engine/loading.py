"""From a model's name to its weights and tokenizer: safetensors only, no code from the model."""

from __future__ import annotations

import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.utils import logging as hf_logging

from linalign_integrations import pocket
from linalign_integrations.errors import ModelNotFound, UnsupportedModel

if TYPE_CHECKING:
    from collections.abc import Iterator

    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

MODEL_VARIABLE = "LINALIGN_MODEL"


def model_name(model: str | os.PathLike[str] | None) -> str:
    """The model to use: the argument, or the environment's.

    Raises:
        ModelNotFound: neither names one.
    """
    name = os.fspath(model) if model is not None else os.environ.get(MODEL_VARIABLE, "")
    if not name:
        raise ModelNotFound(
            f"no model was named: pass model= or set {MODEL_VARIABLE} to a Hugging Face id, a "
            'folder, or "pocket" for the embedded demonstration model'
        )
    return name


def pick_device(device: str | torch.device | None) -> torch.device:
    """The device asked for, or the fastest here: CUDA, Apple's MPS, else the CPU."""
    if device is not None:
        return torch.device(device)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def pick_dtype(dtype: str | torch.dtype | None, device: torch.device) -> torch.dtype:
    """The dtype asked for, or bfloat16 where the device computes in it, else the next best.

    Raises:
        UnsupportedModel: the name is not a floating-point dtype of torch.
    """
    if dtype is not None:
        found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
        if not isinstance(found, torch.dtype) or not found.is_floating_point:
            raise UnsupportedModel(f"unknown dtype {dtype!r}: use 'float32', 'bfloat16' or similar")
        return found
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    if device.type == "mps":
        return torch.float16
    return torch.bfloat16 if torch.ops.mkldnn._is_mkldnn_bf16_supported() else torch.float32


def load_weights(
    name: str,
    *,
    revision: str | None,
    device: torch.device,
    dtype: torch.dtype,
    trust_remote_code: bool,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Model and tokenizer of ``"pocket"``, a folder or a Hugging Face id.

    Raises:
        ModelNotFound: there is no such folder or no such model within reach.
        UnsupportedModel: it is not a causal decoder, or has no complete safetensors weights.
    """
    folder = pocket.weights() if name == "pocket" else Path(name)
    local = folder.is_dir()
    if not local and (folder.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1):
        raise ModelNotFound(f"there is no folder {name!r}")
    if local and not (folder / "config.json").is_file():
        raise ModelNotFound(f"the folder {name!r} holds no model: it has no config.json")
    source = str(folder) if local else name
    common: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
    try:
        config = AutoConfig.from_pretrained(source, **common)
    except (OSError, ValueError, KeyError) as error:
        if local:
            raise UnsupportedModel(
                f"the config.json in {name!r} cannot be used: {_first_line(error)}"
            ) from error
        raise ModelNotFound(
            f"cannot find the model {name!r}: it is not a folder, and as a Hugging Face id it "
            f"gave: {_first_line(error)}"
        ) from error
    _require_decoder(name, config, trust_remote_code=trust_remote_code)
    if local and not any(folder.glob("*.safetensors")):
        raise UnsupportedModel(
            f"the folder {name!r} has no safetensors weights: convert them with "
            "model.save_pretrained(folder)"
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, **common)
        with _progress_bar(shown=name != "pocket"):
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                source,
                config=config,
                dtype=dtype,
                use_safetensors=True,
                output_loading_info=True,
                **common,
            )
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise UnsupportedModel(f"cannot load {name!r}: {_first_line(error)}") from error
    model, report = loaded
    if report["missing_keys"]:
        missing = ", ".join(sorted(report["missing_keys"])[:3])
        raise UnsupportedModel(f"the weights of {name!r} are incomplete: {missing} … are missing")
    return cast("PreTrainedModel", model.to(device).eval()), tokenizer


@contextmanager
def _progress_bar(*, shown: bool) -> Iterator[None]:
    """Hides transformers' progress bar where there is nothing to wait for."""
    before = hf_logging.is_progress_bar_enabled()
    if not shown:
        hf_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        if before:
            hf_logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def _require_decoder(name: str, config: PretrainedConfig, *, trust_remote_code: bool) -> None:
    named = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(config.model_type, ())
    known = {named} if isinstance(named, str) else set(named)
    built = set(config.architectures or known)
    own_code = getattr(config, "auto_map", None) or {}
    remote = trust_remote_code and "AutoModelForCausalLM" in own_code
    if config.is_encoder_decoder or not (known & built or remote):
        raise UnsupportedModel(
            f"{name!r} is not a causal language model ({config.model_type}: "
            f"{', '.join(sorted(built)) or 'no architecture named'}); choose a decoder such as a "
            "Llama, Qwen, Mistral, Gemma or Phi model"
        )


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
