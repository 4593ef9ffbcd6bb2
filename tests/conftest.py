from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from models import model, tokenizer

if TYPE_CHECKING:
    from pathlib import Path

# The models here are tiny: threads cost more than they bring.
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny Llama model of random weights and a ChatML tokenizer."""
    path = tmp_path_factory.mktemp("tiny")
    model("llama").save_pretrained(path)
    tokenizer("chatml").save_pretrained(path)
    return path
