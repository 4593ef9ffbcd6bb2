"""From a model's name to its weights and tokenizer: safetensors only, no code from the model."""

from __future__ import annotations

import os
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.utils import logging as hf_logging

from linalign_integrations import pocket
from linalign_integrations.engine.packing import pack
from linalign_integrations.errors import InvalidArgument, ModelNotFound, UnsupportedModel

if TYPE_CHECKING:
    from collections.abc import Iterator

    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

_DTYPES = (torch.bfloat16, torch.float16, torch.float32, torch.float64)
# What transformers and its parts raise on a model they cannot read.
_UNREADABLE = (
    OSError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    RuntimeError,
    ImportError,
    SafetensorError,
    StrictDataclassError,
)
MODEL_VARIABLE = "LINALIGN_MODEL"


def model_name(model: str | os.PathLike[str] | None) -> str:
    """The model to use: the argument, or the environment's.

    Raises:
        ModelNotFound: neither names one.
        InvalidArgument: the argument is not a name.
    """
    if model is not None and not isinstance(model, (str, os.PathLike)):
        raise InvalidArgument(f"model= takes a name or a folder, not {model!r}")
    name = os.fspath(model) if model is not None else os.environ.get(MODEL_VARIABLE, "")
    if not name:
        raise ModelNotFound(
            f"no model was named: pass model= or set {MODEL_VARIABLE} to a Hugging Face id, a "
            'folder, or "pocket" for the embedded demonstration model'
        )
    return name


def pick_device(device: str | torch.device | None) -> torch.device:
    """The device asked for, or the fastest here: CUDA, Apple's MPS, else the CPU.

    Raises:
        InvalidArgument: there is no such device here.
    """
    here = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    try:
        found = torch.device(device or next((kind for kind, has in here.items() if has), "cpu"))
    except (RuntimeError, TypeError) as error:
        raise InvalidArgument(f"unknown device {device!r}: use 'cpu' or 'cuda'") from error
    if not here.get(found.type, True):
        raise InvalidArgument(f"device {device!r} was asked for, but this machine has none")
    # "cuda" and "cuda:0" must be the same engine.
    if found.type == "cuda":
        return torch.device("cuda", found.index or 0)
    return torch.device(found.type)


def pick_dtype(dtype: str | torch.dtype | None, device: torch.device) -> torch.dtype:
    """The dtype asked for, or bfloat16 where the device computes in it, else the next best.

    Raises:
        InvalidArgument: models are not computed in such a dtype.
    """
    if dtype is not None:
        found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
        if found not in _DTYPES:
            raise InvalidArgument(
                f"unknown dtype {dtype!r}: use bfloat16, float16, float32 or float64"
            )
        return cast("torch.dtype", found)
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    if device.type == "mps":
        return torch.float16
    return torch.bfloat16 if torch.ops.mkldnn._is_mkldnn_bf16_supported() else torch.float32


def read_config(
    name: str, *, revision: str | None, trust_remote_code: bool
) -> tuple[str, PretrainedConfig]:
    """Where a model is read from, and what its config.json says; reads no weights.

    Raises:
        ModelNotFound: there is no such folder or no such model within reach.
        UnsupportedModel: it is an adapter, or its config cannot be used.
    """
    folder = pocket.weights() if name == "pocket" else Path(name).expanduser()
    local = folder.is_dir()
    if folder.is_file():
        raise ModelNotFound(f"{name!r} is a file: name the folder that holds the model")
    if not local and (folder.is_absolute() or name.startswith(".") or name.count("/") > 1):
        raise ModelNotFound(f"there is no folder {name!r}")
    if local and (folder / "adapter_config.json").is_file():
        raise UnsupportedModel(
            f"{name!r} holds an adapter, not a whole model: merge it into its base model first"
        )
    if local and not (folder / "config.json").is_file():
        raise ModelNotFound(f"the folder {name!r} holds no model: it has no config.json")
    source = str(folder) if local else name
    try:
        config = AutoConfig.from_pretrained(
            source, revision=revision, trust_remote_code=trust_remote_code
        )
    except _UNREADABLE as error:
        if local:
            raise UnsupportedModel(
                f"the config.json in {name!r} cannot be used: {_first_line(error)}"
            ) from error
        raise ModelNotFound(
            f"cannot find the model {name!r}: it is not a folder, and as a Hugging Face id it "
            f"gave: {_first_line(error)}"
        ) from error
    return source, config


def most_positions(config: PretrainedConfig) -> int | None:
    """Most tokens that prompt and answer may have together; None where the config is silent."""
    said = getattr(config.get_text_config(), "max_position_embeddings", None)
    return int(said) if said else None


@lru_cache(maxsize=64)
def context_length(name: str, revision: str | None, trust_remote_code: bool) -> int | None:
    """``most_positions`` of a model by name, without reading its weights."""
    _, config = read_config(name, revision=revision, trust_remote_code=trust_remote_code)
    return most_positions(config)


def load_weights(
    name: str,
    *,
    revision: str | None,
    device: torch.device,
    dtype: torch.dtype,
    trust_remote_code: bool,
    packed: bool = True,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Model and tokenizer of ``"pocket"``, a folder or a Hugging Face id.

    Args:
        name: the model.
        revision: branch, tag or commit of a Hugging Face id.
        device: where it is to compute.
        dtype: in what it is to compute.
        trust_remote_code: run Python code that comes with the model.
        packed: whether to pack its weights for the processor, as ``packing.pack`` does.

    Raises:
        ModelNotFound: there is no such folder or no such model within reach.
        UnsupportedModel: it is not a causal decoder, or has no complete safetensors weights.
    """
    common: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
    source, config = read_config(name, **common)
    _require_decoder(name, config, trust_remote_code=trust_remote_code)
    folder = Path(source)
    if folder.is_dir() and not any(folder.glob("*.safetensors")):
        raise UnsupportedModel(
            f"the folder {name!r} has no safetensors weights: convert them with "
            "model.save_pretrained(folder)"
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, **common)
    except _UNREADABLE as error:
        raise UnsupportedModel(
            f"{name!r} has no usable tokenizer: save one beside the weights with "
            f"tokenizer.save_pretrained(folder) ({_first_line(error)})"
        ) from error
    try:
        with _progress_bar(shown=name != "pocket"):
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                source,
                config=config,
                dtype=dtype,
                use_safetensors=True,
                output_loading_info=True,
                **common,
            )
    except _UNREADABLE as error:
        raise UnsupportedModel(f"cannot load {name!r}: {_first_line(error)}") from error
    model, report = loaded
    if report["missing_keys"]:
        missing = ", ".join(sorted(report["missing_keys"])[:3])
        raise UnsupportedModel(f"the weights of {name!r} are incomplete: {missing} … are missing")
    model = cast("PreTrainedModel", model.to(device).eval())
    return pack(model) if packed else model, tokenizer


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
