"""The engine: one model in memory, any number of requests, each with its own preferences."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from linalign_integrations.engine.answer import Piece, Result, gather
from linalign_integrations.engine.generation import Generation
from linalign_integrations.engine.loading import load_weights, model_name, pick_device, pick_dtype
from linalign_integrations.engine.rows import Rows, check_supported
from linalign_integrations.engine.sampling import SamplingParams
from linalign_integrations.errors import (
    EngineClosed,
    InvalidPreferences,
    InvalidSampling,
    PromptTooLong,
    UnsupportedModel,
)
from linalign_integrations.preferences.model import Preferences
from linalign_integrations.prompts import (
    Branch,
    BranchPlan,
    PromptFormat,
    normalise_messages,
    plan_branches,
)

if TYPE_CHECKING:
    import os

    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Messages = str | Iterable[Mapping[str, Any]]


class Engine:
    """A local causal language model that answers under each request's own preferences.

    Requests may come from any thread or task; the model runs one step of one request at a time. A
    request keeps nothing in the engine, so none can see another's text, preferences or cache.

    Use ``Engine.load`` for a model by name. The constructor takes one that is already in memory.

    Args:
        model: a causal decoder with full or sliding-window attention.
        tokenizer: its tokenizer.
        model_id: what to call it.

    Raises:
        UnsupportedModel: the model's attention cannot be run in rows.
    """

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, model_id: str
    ) -> None:
        self.tokenizer = tokenizer
        self.model_id = model_id
        self._config = model.config.get_text_config()
        check_supported(self._config)
        self._model: PreTrainedModel | None = model
        self._keeps_logits = "logits_to_keep" in inspect.signature(model.forward).parameters
        self._form = PromptFormat(tokenizer)
        self._end_tokens = _end_tokens(model, tokenizer)
        self._turn = threading.Lock()
        _check_rows(self)

    @classmethod
    def load(
        cls,
        model: str | os.PathLike[str] | None = None,
        *,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        revision: str | None = None,
        trust_remote_code: bool = False,
    ) -> Engine:
        """The process's engine for a model; weights are read on the first call only.

        Args:
            model: ``"pocket"`` (embedded), a folder, or a Hugging Face id; by default the
                environment variable ``LINALIGN_MODEL``.
            device: such as ``"cpu"`` or ``"cuda"``; by default the fastest one here.
            dtype: such as ``"float32"``; by default bfloat16 where the device computes in it.
            revision: branch, tag or commit of a Hugging Face id.
            trust_remote_code: run Python code that comes with the model. Only for models whose
                code you have read.

        Raises:
            InvalidArgument: there is no such device or dtype here.
            ModelNotFound: no model is named, or it cannot be found.
            UnsupportedModel: it is not a causal decoder with safetensors weights.
        """
        name = model_name(model)
        where = pick_device(device)
        kind = pick_dtype(dtype, where)
        key = (str(Path(name).resolve()) if Path(name).is_dir() else name, revision, kind, where)
        engine = _engines.get(key)
        if engine is not None and not engine.closed:
            return engine  # without waiting for another model that is being loaded
        with _loading:
            engine = _engines.get(key)
            if engine is None or engine.closed:
                weights, tokenizer = load_weights(
                    name,
                    revision=revision,
                    device=where,
                    dtype=kind,
                    trust_remote_code=trust_remote_code,
                )
                engine = _engines[key] = cls(weights, tokenizer, model_id=name)
            return engine

    @property
    def context_length(self) -> int:
        """Most tokens that prompt and answer may have together."""
        return int(
            getattr(self._config, "max_position_embeddings", None)
            or self.tokenizer.model_max_length
        )

    @property
    def closed(self) -> bool:
        """Whether ``close`` was called."""
        return self._model is None

    def close(self) -> None:
        """Gives the model's memory back. Running and later requests raise ``EngineClosed``."""
        with self._turn:
            self._model = None

    def tokenize(self, text: str) -> list[int]:
        """Tokens of a text by itself; what looks like a control token is read as text."""
        return self._form.tokenize(text)

    def branches(
        self, messages: Messages, *, preferences: Preferences | None = None
    ) -> list[Branch]:
        """The prompts that the model will see for a request, the prompted one first.

        Raises:
            InvalidMessages: the conversation is empty, malformed or refused by the template.
        """
        preferences, _ = _values(preferences, None)
        plan = plan_branches(normalise_messages(messages), preferences, self._form)
        return plan.branches(self._form)

    def generate(
        self,
        messages: Messages,
        *,
        preferences: Preferences | None = None,
        sampling: SamplingParams | None = None,
    ) -> Result:
        """The answer to a conversation, under the preferences of whoever asks.

        Args:
            messages: OpenAI-style messages; a string is one user turn.
            preferences: what the user wants; by default nothing beyond the messages.
            sampling: how to draw; by default ``SamplingParams()``.

        Raises:
            InvalidMessages: the conversation is empty, malformed or refused by the template.
            InvalidPreferences: a principle would forge control tokens through the template.
            PromptTooLong: a prompt leaves no room for an answer.
            EngineClosed: the engine was closed.
            GenerationFailed: the model gave no usable logits.
        """
        return gather(self.stream(messages, preferences=preferences, sampling=sampling))

    async def agenerate(
        self,
        messages: Messages,
        *,
        preferences: Preferences | None = None,
        sampling: SamplingParams | None = None,
    ) -> Result:
        """``generate`` without blocking the event loop."""
        pieces = self.astream(messages, preferences=preferences, sampling=sampling)
        return gather([piece async for piece in pieces])

    def stream(
        self,
        messages: Messages,
        *,
        preferences: Preferences | None = None,
        sampling: SamplingParams | None = None,
    ) -> Iterator[Piece]:
        """The answer piece by piece; input is checked now, work starts with the first piece.

        Arguments and errors are those of ``generate``.
        """
        return self._start(messages, preferences, sampling)

    def astream(
        self,
        messages: Messages,
        *,
        preferences: Preferences | None = None,
        sampling: SamplingParams | None = None,
    ) -> AsyncIterator[Piece]:
        """``stream`` for ``async for``; the event loop stays free while the model works.

        A task that is cancelled stops the answer at its next token.
        """
        return _in_threads(self._start(messages, preferences, sampling))

    def _start(
        self,
        messages: Messages,
        preferences: Preferences | None,
        sampling: SamplingParams | None,
    ) -> Generation:
        self._open_model()
        preferences, sampling = _values(preferences, sampling)
        plan = plan_branches(normalise_messages(messages), preferences, self._form)
        self._require_room(plan)
        return Generation(self, plan, preferences, sampling)

    def _require_room(self, plan: BranchPlan) -> None:
        longest = max(map(len, plan.token_ids))
        most = self.context_length - 1
        if longest > most:
            principles = longest - len(plan.token_ids[plan.plain])
            raise PromptTooLong(
                f"the prompt is {longest} tokens long"
                + (f", {principles} of them principles" if principles else "")
                + f"; {self.model_id} takes at most {most} before its answer: shorten it",
                prompt_tokens=longest,
                context_length=self.context_length,
            )

    def _open_model(self) -> PreTrainedModel:
        if self._model is None:
            raise EngineClosed(
                f"the engine of {self.model_id!r} was closed: call Engine.load again"
            )
        return self._model

    def _new_rows(self, capacity: int) -> Rows:
        return Rows(self._config, self._open_model().dtype, capacity, self.context_length)

    def _forward(self, rows: Rows, new: list[tuple[int, ...]], lengths: Tensor) -> Tensor:
        """Logits ``[rows, vocab]`` after new tokens were appended to every row."""
        width = max(map(len, new))
        with self._turn, torch.inference_mode():
            model = self._open_model()
            token_ids = torch.tensor(
                [[*tokens, *[0] * (width - len(tokens))] for tokens in new], device=model.device
            )
            last = torch.tensor([len(tokens) - 1 for tokens in new], device=model.device)[:, None]
            inputs = rows.inputs(token_ids, lengths.to(model.device))
            if self._keeps_logits:
                inputs["logits_to_keep"] = last
            logits: Tensor = model(**inputs).logits
            if not self._keeps_logits:
                logits = logits.take_along_dim(last[..., None], dim=1)
            logits = logits[:, 0].float()
            # MPS has no float64, in which the step is computed.
            return logits.cpu() if logits.device.type == "mps" else logits


async def _in_threads(generation: Generation) -> AsyncIterator[Piece]:
    try:
        while (piece := await asyncio.to_thread(next, generation, None)) is not None:
            yield piece
    finally:
        generation.close()


def _values(preferences: object, sampling: object) -> tuple[Preferences, SamplingParams]:
    """The two values of a request, defaults in place of None."""
    preferences = Preferences() if preferences is None else preferences
    sampling = SamplingParams() if sampling is None else sampling
    if not isinstance(preferences, Preferences):
        raise InvalidPreferences(
            f"preferences= takes Preferences, not {type(preferences).__name__}: "
            "wrap principles as Preferences(principles=[...])"
        )
    if not isinstance(sampling, SamplingParams):
        raise InvalidSampling(f"sampling= takes SamplingParams, not {type(sampling).__name__}")
    return preferences, sampling


def _end_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """All tokens that end an answer; chat models often have more than one."""
    ends: set[int] = set()
    for said in (
        getattr(model.generation_config, "eos_token_id", None),
        getattr(model.config.get_text_config(), "eos_token_id", None),
        tokenizer.eos_token_id,
    ):
        ends.update([said] if isinstance(said, int) else said or ())
    return frozenset(ends)


def _check_rows(engine: Engine) -> None:
    """Compares rows of unequal length with the model's own forward pass, once per load.

    Attention that rows cannot express (recurrent state, position biases computed from a padding
    mask) would otherwise give wrong answers without a word.
    """
    model = engine._open_model()
    known = ((1, 2, 3), (4,))
    try:
        rows = engine._new_rows(2)
        engine._forward(rows, list(known), torch.tensor([0, 0]))
        stepped = engine._forward(rows, [(5,), (5,)], torch.tensor([3, 1]))
        with torch.inference_mode():
            whole = [torch.tensor([[*row, 5]], device=model.device) for row in known]
            expected = torch.stack([model(ids).logits[0, -1] for ids in whole]).to(stepped)
    except (TypeError, ValueError, RuntimeError, AttributeError, IndexError) as error:
        raise UnsupportedModel(
            f"{engine.model_id!r} ({engine._config.model_type}) cannot run several prompts at "
            f"once: {error}"
        ) from error
    # Loose enough for the rounding of half precision, far below what a wrong mask would do.
    if float((stepped - expected).norm()) > 0.1 * float(expected.norm()):
        raise UnsupportedModel(
            f"{engine.model_id!r} ({engine._config.model_type}) gives other answers when several "
            "prompts run at once; it is not a causal decoder of a supported kind"
        )


_engines: dict[tuple[str, str | None, torch.dtype, torch.device], Engine] = {}
_loading = threading.Lock()
