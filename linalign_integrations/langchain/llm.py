"""LinAlignLLM: text in, text out, under each user's preferences."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Self

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import LanguageModelInput
from langchain_core.language_models.base import LangSmithParams
from langchain_core.language_models.llms import BaseLLM
from langchain_core.outputs import Generation, GenerationChunk, LLMResult
from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.runnables.config import ContextThreadPoolExecutor
from pydantic import PrivateAttr

from linalign_integrations.adapter import Adapter, fingerprint
from linalign_integrations.errors import InvalidArgument
from linalign_integrations.langchain.bindings import Bound
from linalign_integrations.langchain.errors import langchain_errors
from linalign_integrations.langchain.scope import (
    CROWD,
    atake_preferences,
    by_value,
    in_crowds,
    named_user,
    require_reusable,
    settled_first,
    take_preferences,
)
from linalign_integrations.preferences import Preferences

if TYPE_CHECKING:
    from linalign_integrations.engine import Engine, Piece, Result, Usage

_CALL_FIELDS = ("model", "temperature", "top_p", "top_k", "seed", "max_tokens")
_TOOLS = ("tools", "tool_choice", "parallel_tool_calls", "response_format")
# LangChain's own, which bear on no answer.
_TRACING = ("callbacks", "tags", "metadata", "run_name", "run_id")


class LinAlignLLM(Adapter, BaseLLM):
    """A local Hugging Face model as a LangChain LLM with per-user preferences.

    A prompt is one user turn of the model's chat template, or plain text to be continued where the
    model has none. Preferences are looked up as in ``ChatLinAlign``.
    """

    _takes = ("grammar", "timeout")

    def bind(self, **kwargs: Any) -> BoundLLM:
        """The model with call arguments, which it keeps in every way to ask."""
        return BoundLLM(bound=self, kwargs=kwargs, config={})

    def for_user(self, user_id: str) -> LinAlignLLM:
        """A cheap copy that answers for one user; behind ``with_fallbacks`` all of them do."""
        # Not ``Self``: LangChain's fallbacks ask by this type whether a model comes back.
        return super().for_user(user_id)

    def with_config(self, config: RunnableConfig | None = None, **kwargs: Any) -> BoundLLM:
        """The model under a configuration, which it keeps as well."""
        merged: Any = {**(config or {}), **kwargs}
        return BoundLLM(bound=self, config=merged, kwargs={})

    _settled: Preferences | None = PrivateAttr(default=None)
    _user: str | None = PrivateAttr(default=None)
    _call: str | None = PrivateAttr(default=None)

    @property
    def _llm_type(self) -> str:
        return "linalign"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        settled = {"preferences": fingerprint(self._settled), "call": self._call}
        return {**self._identity(), **settled}

    def _settle(self, config: RunnableConfig | None, call: dict[str, Any]) -> Self:
        """A copy that carries all that the call says, since LangChain's cache sees nothing else."""
        return self._with(take_preferences(self, config, call), config, call)

    async def _asettle(self, config: RunnableConfig | None, call: dict[str, Any]) -> Self:
        return self._with(await atake_preferences(self, config, call), config, call)

    def _with(
        self, preferences: Preferences, config: RunnableConfig | None, call: dict[str, Any]
    ) -> Self:
        said = {name: call.pop(name, None) for name in _CALL_FIELDS}
        said["model"] = said["model"] or None
        refused = sorted(name for name in _TOOLS if call.get(name))
        with langchain_errors():
            if refused:
                raise InvalidArgument(
                    f"LinAlignLLM writes text and calls no tools, so that {', '.join(refused)} "
                    "would be in vain: use ChatLinAlign"
                )
            copy = self._copy(**{name: value for name, value in said.items() if value is not None})
        copy._settled = preferences
        copy._user = named_user(config)
        copy._call = _key(call)
        return copy

    def _asked(self, call: dict[str, Any], stop: list[str] | None) -> tuple[Engine, dict[str, Any]]:
        """The engine and its arguments, with the preferences that were settled for the call."""
        engine, request = self._request({"preferences": self._settled, **call}, stop=stop)
        return engine, {**request, "user": self._user or self.user_id}

    def invoke(
        self,
        input: LanguageModelInput,
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> str:
        """Answers one prompt; ``principles=``, ``ratio=``, ... set this call's preferences."""
        settled = self._settle(config, kwargs)
        return super(LinAlignLLM, settled).invoke(input, config, stop=stop, **kwargs)

    async def ainvoke(
        self,
        input: LanguageModelInput,
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> str:
        """``invoke`` without blocking the event loop."""
        settled = await self._asettle(config, kwargs)
        return await super(LinAlignLLM, settled).ainvoke(input, config, stop=stop, **kwargs)

    def stream(
        self,
        input: LanguageModelInput,
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> Iterator[str]:
        """Answers one prompt piece by piece."""
        settled = self._settle(config, kwargs)
        return super(LinAlignLLM, settled).stream(input, config, stop=stop, **kwargs)

    def astream(
        self,
        input: LanguageModelInput,
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[str]:
        """``stream`` for ``async for``."""
        if self.profiles is None:
            settled = self._settle(config, kwargs)
            return super(LinAlignLLM, settled).astream(input, config, stop=stop, **kwargs)
        return settled_first(
            lambda: self._settle(config, kwargs),
            lambda settled: BaseLLM.astream(settled, input, config, stop=stop, **kwargs),
        )

    # LangChain answers a batch of LLM prompts in one call with one set of arguments, which would
    # give every item the first item's user. Here each is a call of its own, with its own config,
    # and the engine runs them together.
    def batch(
        self,
        inputs: list[LanguageModelInput],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[str]:
        """Answers several prompts at once, each under the preferences of its own config."""
        configs = in_crowds(config, len(inputs))
        return Runnable.batch(self, inputs, configs, return_exceptions=return_exceptions, **kwargs)

    async def abatch(
        self,
        inputs: list[LanguageModelInput],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[str]:
        """``batch`` without blocking the event loop."""
        configs = in_crowds(config, len(inputs))
        return await Runnable.abatch(
            self, inputs, configs, return_exceptions=return_exceptions, **kwargs
        )

    def generate(
        self, prompts: list[str], stop: list[str] | None = None, *args: Any, **kwargs: Any
    ) -> LLMResult:
        """Answers several prompts at once, all under the same preferences."""
        settled = self if self._settled else self._settle(None, kwargs)
        return super(LinAlignLLM, settled).generate(prompts, stop, *args, **kwargs)

    async def agenerate(
        self, prompts: list[str], stop: list[str] | None = None, *args: Any, **kwargs: Any
    ) -> LLMResult:
        """``generate`` without blocking the event loop."""
        settled = self if self._settled else await self._asettle(None, kwargs)
        return await super(LinAlignLLM, settled).agenerate(prompts, stop, *args, **kwargs)

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        params = super()._get_ls_params(stop=stop, **kwargs)
        params["ls_provider"] = "linalign"
        params["ls_model_name"] = self.model
        return params

    def get_token_ids(self, text: str) -> list[int]:
        """Tokens of a text, by the model's own tokenizer."""
        return self._engine().tokenize(text)

    def _generate(
        self,
        prompts: list[str],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> LLMResult:
        with langchain_errors():
            engine, request = self._asked(kwargs, stop)
            if len(prompts) == 1:
                return _llm_result(engine, [engine.generate(prompts[0], **request)])
            require_reusable(request.get("grammar"), len(prompts))
            with ContextThreadPoolExecutor(min(len(prompts), CROWD) or 1) as threads:
                answers = threads.map(lambda prompt: engine.generate(prompt, **request), prompts)
                return _llm_result(engine, list(answers))

    async def _agenerate(
        self,
        prompts: list[str],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> LLMResult:
        with langchain_errors():
            engine, request = await asyncio.to_thread(self._asked, kwargs, stop)
            require_reusable(request.get("grammar"), len(prompts))
            room = asyncio.Semaphore(CROWD)

            async def answer(prompt: str) -> Result:
                async with room:
                    return await engine.agenerate(prompt, **request)

            tasks = [asyncio.create_task(answer(prompt)) for prompt in prompts]
            try:
                return _llm_result(engine, await asyncio.gather(*tasks))
            finally:
                # Where one fails, nobody waits for the others any more.
                for task in tasks:
                    task.cancel()

    def _stream(
        self,
        prompt: str,
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[GenerationChunk]:
        with langchain_errors():
            engine, request = self._asked(kwargs, stop)
            for piece in engine.stream(prompt, **request):
                chunk = _chunk(engine, piece)
                if run_manager:
                    run_manager.on_llm_new_token(piece.text, chunk=chunk)
                yield chunk

    async def _astream(
        self,
        prompt: str,
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[GenerationChunk]:
        with langchain_errors():
            engine, request = await asyncio.to_thread(self._asked, kwargs, stop)
            async for piece in engine.astream(prompt, **request):
                chunk = _chunk(engine, piece)
                if run_manager:
                    await run_manager.on_llm_new_token(piece.text, chunk=chunk)
                yield chunk


class BoundLLM(Bound[LanguageModelInput, str]):  # type: ignore[no-redef]
    """A text model with arguments, which it keeps."""


def _key(call: dict[str, Any]) -> str | None:
    """What tells a call's remaining arguments from another's, for LangChain's cache."""
    said = by_value({name: value for name, value in call.items() if name not in _TRACING})
    return fingerprint(sorted(said.items())) if said else None


def _tokens(usage: Usage) -> dict[str, int]:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
    }


def _info(engine: Engine, of: Result | Piece) -> dict[str, Any]:
    """What ``generation_info`` says of an answer; nothing before its end."""
    if of.usage is None or of.strength is None:
        return {}
    return {
        "finish_reason": of.finish_reason,
        "model_name": engine.model_id,
        "model_provider": "linalign",
        "token_usage": {
            **_tokens(of.usage),
            "reused_tokens": of.usage.reused_tokens,
            "reasoning_tokens": of.usage.reasoning_tokens,
            "branch_tokens": of.usage.branch_tokens,
        },
        "alignment": {"mean_kl": of.strength.mean_kl, "mean_ratio": of.strength.mean_ratio},
    }


def _chunk(engine: Engine, piece: Piece) -> GenerationChunk:
    return GenerationChunk(text=piece.text, generation_info=_info(engine, piece) or None)


def _llm_result(engine: Engine, results: Sequence[Result]) -> LLMResult:
    if not results:
        return LLMResult(generations=[])
    counts = [_tokens(result.usage) for result in results]
    return LLMResult(
        generations=[
            [Generation(text=result.text, generation_info=_info(engine, result))]
            for result in results
        ],
        llm_output={
            "model_name": engine.model_id,
            "token_usage": {name: sum(one[name] for one in counts) for name in counts[0]},
        },
    )
