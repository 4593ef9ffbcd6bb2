"""LinAlignLLM: text in, text out, under each user's preferences."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Self

from langchain_core.language_models.llms import BaseLLM
from langchain_core.outputs import Generation, GenerationChunk, LLMResult
from langchain_core.runnables import Runnable
from pydantic import PrivateAttr

from linalign_integrations.adapter import Adapter, fingerprint
from linalign_integrations.langchain.scope import atake_preferences, take_preferences
from linalign_integrations.preferences import Preferences

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
    from langchain_core.language_models import LanguageModelInput
    from langchain_core.language_models.base import LangSmithParams
    from langchain_core.runnables import RunnableConfig

    from linalign_integrations.engine import Engine, Result

_CALL_FIELDS = ("model", "temperature", "top_p", "top_k", "seed", "max_tokens")


class LinAlignLLM(Adapter, BaseLLM):
    """A local Hugging Face model as a LangChain LLM with per-user preferences.

    A prompt is one user turn of the model's chat template, or plain text to be continued where the
    model has none. Preferences are looked up as in ``ChatLinAlign``.
    """

    _settled: Preferences | None = PrivateAttr(default=None)

    @property
    def _llm_type(self) -> str:
        return "linalign"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {**self._identity(), "preferences": fingerprint(self._settled)}

    def _settle(self, config: RunnableConfig | None, call: dict[str, Any]) -> Self:
        """A copy that carries all that the call says, since LangChain's cache sees nothing else."""
        return self._with(take_preferences(self, config, call), call)

    async def _asettle(self, config: RunnableConfig | None, call: dict[str, Any]) -> Self:
        return self._with(await atake_preferences(self, config, call), call)

    def _with(self, preferences: Preferences, call: dict[str, Any]) -> Self:
        said = {name: call.pop(name, None) for name in _CALL_FIELDS}
        copy = self._copy(**{name: value for name, value in said.items() if value is not None})
        copy._settled = preferences
        return copy

    def _said(self, call: dict[str, Any]) -> dict[str, Any]:
        """The call's arguments with the preferences that were settled for it."""
        return {"preferences": self._settled, **call}

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
        settled = self._settle(config, kwargs)
        return super(LinAlignLLM, settled).astream(input, config, stop=stop, **kwargs)

    # LangChain answers a batch of LLM prompts in one call with one set of arguments, which would
    # give every item the first item's user; the general way takes each with its own config.
    def batch(self, inputs: list[Any], *args: Any, **kwargs: Any) -> list[str]:
        """Answers several prompts, each under the preferences of its own config."""
        return Runnable.batch(self, inputs, *args, **kwargs)

    async def abatch(self, inputs: list[Any], *args: Any, **kwargs: Any) -> list[str]:
        """``batch`` without blocking the event loop."""
        return await Runnable.abatch(self, inputs, *args, **kwargs)

    def generate(
        self, prompts: list[str], stop: list[str] | None = None, *args: Any, **kwargs: Any
    ) -> LLMResult:
        """Answers several prompts, one after the other."""
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
        engine, request = self._request(self._said(kwargs), stop=stop)
        return _llm_result(engine, [engine.generate(prompt, **request) for prompt in prompts])

    async def _agenerate(
        self,
        prompts: list[str],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> LLMResult:
        engine, request = await asyncio.to_thread(self._request, self._said(kwargs), stop=stop)
        results = [await engine.agenerate(prompt, **request) for prompt in prompts]
        return _llm_result(engine, results)

    def _stream(
        self,
        prompt: str,
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[GenerationChunk]:
        engine, request = self._request(self._said(kwargs), stop=stop)
        for piece in engine.stream(prompt, **request):
            chunk = GenerationChunk(text=piece.text)
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
        engine, request = await asyncio.to_thread(self._request, self._said(kwargs), stop=stop)
        async for piece in engine.astream(prompt, **request):
            chunk = GenerationChunk(text=piece.text)
            if run_manager:
                await run_manager.on_llm_new_token(piece.text, chunk=chunk)
            yield chunk


def _llm_result(engine: Engine, results: list[Result]) -> LLMResult:
    return LLMResult(
        generations=[
            [Generation(text=result.text, generation_info={"finish_reason": result.finish_reason})]
            for result in results
        ],
        llm_output={
            "model_name": engine.model_id,
            "token_usage": {
                "prompt_tokens": sum(result.usage.prompt_tokens for result in results),
                "completion_tokens": sum(result.usage.completion_tokens for result in results),
                "total_tokens": sum(result.usage.total_tokens for result in results),
            },
        },
    )
