"""Weights in the order in which the processor multiplies by them.

oneDNN, which computes torch's matrix products on CPUs, prefers weights in an order of its own, and
given plain ones it is held up at each product. With one or two rows, as in decoding, packed weights
take half the time in bfloat16 and a third in float32. In bfloat16 the result is the same to the
bit, in float32 up to rounding.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Below so many elements the call itself costs more than packing saves.
_SMALLEST = {torch.bfloat16: 1 << 14, torch.float32: 1 << 17}


class PackedLinear(nn.Module):
    """A linear layer with packed weights, which it cannot learn any more.

    Args:
        plain: the layer to take over from, on a CPU.
    """

    def __init__(self, plain: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = plain.in_features, plain.out_features
        packed = torch.ops.mkldnn._reorder_linear_weight(plain.weight.detach())
        self.packed = nn.Parameter(packed, requires_grad=False)
        self.bias = plain.bias

    @property
    def weight(self) -> Tensor:
        """The weights in the usual order, copied each time."""
        return self.packed.to_dense()

    def forward(self, inputs: Tensor) -> Tensor:
        """What ``nn.Linear`` returns."""
        made: Tensor = torch.ops.mkldnn._linear_pointwise(
            inputs, self.packed, self.bias, "none", [], ""
        )
        return made


@torch.inference_mode()
def pack(model: PreTrainedModel) -> PreTrainedModel:
    """Packs the linear layers of a model in place, where that makes it faster, and returns it.

    Nothing is packed on other devices, in other dtypes than bfloat16 and float32, and where torch
    was built without oneDNN. Each weight is let go of as it is packed, unless it is an embedding's
    as well.
    """
    # By name, so that nothing here holds a weight that is packed already.
    for name in [name for name, module in model.named_modules() if type(module) is nn.Linear]:
        module = model.get_submodule(name)
        assert isinstance(module, nn.Linear)  # noqa: S101 - it was picked as one
        if not _pays(module.weight):
            continue
        try:
            packed = PackedLinear(module)
            right = _agree(module, packed)
        except (RuntimeError, AttributeError):
            # These operators are torch's own: no promise is made that they stay.
            return model
        if not right:
            return model
        model.set_submodule(name, packed)
    return model


def _pays(weight: Tensor) -> bool:
    if weight.device.type != "cpu" or weight.dtype not in _SMALLEST:
        return False
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    if weight.dtype == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return False
    return weight.numel() >= _SMALLEST[weight.dtype]


def _agree(plain: nn.Linear, packed: PackedLinear) -> bool:
    inputs = torch.linspace(-1, 1, plain.in_features).to(plain.weight.dtype)[None]
    expected = linear(inputs, plain.weight, plain.bias)
    return torch.allclose(packed(inputs), expected, rtol=1e-2, atol=1e-2 * float(expected.std()))
