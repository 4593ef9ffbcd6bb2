"""Packed weights: the same answers, sooner."""

import copy

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from linalign_integrations.engine import packing
from linalign_integrations.engine.loading import load_weights, pick_device
from linalign_integrations.engine.packing import PackedLinear, pack

HERE = ["float32"] + (["bfloat16"] if torch.ops.mkldnn._is_mkldnn_bf16_supported() else [])
pytestmark = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(),  # type: ignore[no-untyped-call]
    reason="torch was built without oneDNN",
)


def model_in(dtype: str) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=600,
        hidden_size=256,
        intermediate_size=704,
        num_hidden_layers=2,
        num_attention_heads=8,
        tie_word_embeddings=True,
        attention_bias=True,
    )
    return LlamaForCausalLM(config).to(getattr(torch, dtype)).eval()  # type: ignore[arg-type]


def packed_layers(model: nn.Module) -> list[str]:
    return [name for name, one in model.named_modules() if isinstance(one, PackedLinear)]


@pytest.mark.parametrize("dtype", HERE)
@pytest.mark.parametrize("tokens", [1, 2, 7, 100])
def test_a_packed_model_computes_what_it_computed_before(dtype: str, tokens: int) -> None:
    plain = model_in(dtype)
    packed = pack(copy.deepcopy(plain))
    ids = torch.arange(tokens)[None]
    with torch.inference_mode():
        before, after = plain(ids).logits, packed(ids).logits
    assert packed_layers(packed)
    if dtype == "bfloat16":
        assert torch.equal(before, after)
    torch.testing.assert_close(before, after, rtol=1e-4, atol=1e-4)


def test_large_layers_are_packed_the_tied_head_too_and_small_ones_are_not() -> None:
    packed = packed_layers(pack(model_in("float32")))
    assert {name.rsplit(".", 1)[-1] for name in packed} == {
        "gate_proj",
        "up_proj",
        "down_proj",
        "lm_head",
    }


def test_packed_weights_can_be_read_and_counted() -> None:
    plain = model_in("float32")
    count, weight = plain.num_parameters(), plain.model.layers[0].mlp.up_proj.weight.clone()
    packed = pack(plain)
    assert torch.equal(packed.model.layers[0].mlp.up_proj.weight, weight)
    # What was tied is there twice now.
    assert packed.num_parameters() == count + plain.get_input_embeddings().weight.numel()
    assert packed.dtype == torch.float32


@pytest.mark.parametrize("dtype", ["float64"])
def test_what_the_processor_cannot_pack_stays_as_it_is(dtype: str) -> None:
    assert not packed_layers(pack(model_in(dtype)))


def test_a_model_stays_plain_where_packing_fails_or_gives_something_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("no such operator")

    with monkeypatch.context() as patched:
        patched.setattr(packing.PackedLinear, "__init__", fails)
        assert not packed_layers(pack(model_in("float32")))
    monkeypatch.setattr(packing.PackedLinear, "forward", lambda self, x: x @ self.weight.T * 1.1)
    assert not packed_layers(pack(model_in("float32")))


def test_models_that_are_loaded_by_name_are_packed() -> None:
    about = {
        "revision": None,
        "device": pick_device("cpu"),
        "dtype": torch.float32,
        "trust_remote_code": False,
    }
    assert packed_layers(load_weights("pocket", **about)[0])  # type: ignore[arg-type]
    assert not packed_layers(load_weights("pocket", packed=False, **about)[0])  # type: ignore[arg-type]
