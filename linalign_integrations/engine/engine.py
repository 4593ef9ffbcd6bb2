"""The engine: one model in memory, any number of requests, each with its own preferences."""

from __future__ import annotations

import os
import secrets
import threading
import warnings
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict

import torch

from linalign_integrations.engine.answer import Result, gather
from linalign_integrations.engine.call_grammar import call_grammar, no_call_grammar
from linalign_integrations.engine.generation import AsyncGeneration, Generation
from linalign_integrations.engine.grammar import Constraint, Grammar, GrammarCompiler
from linalign_integrations.engine.loading import (
    load_weights,
    model_name,
    most_positions,
    pick_device,
    pick_dtype,
)
from linalign_integrations.engine.prefixes import PrefixStore
from linalign_integrations.engine.record import count_alternatives
from linalign_integrations.engine.request import Request
from linalign_integrations.engine.rows import Rows, check_supported
from linalign_integrations.engine.sampling import SamplingParams
from linalign_integrations.engine.scheduler import Scheduler
from linalign_integrations.engine.solo_rows import SoloRows
from linalign_integrations.engine.steering import Steering
from linalign_integrations.errors import (
    EngineClosed,
    InvalidArgument,
    InvalidGrammar,
    InvalidPreferences,
    InvalidSampling,
    MissingExtra,
    PromptTooLong,
    UnsupportedModel,
)
from linalign_integrations.preferences.model import Preferences
from linalign_integrations.prompts import (
    Branch,
    BranchPlan,
    Message,
    PromptFormat,
    Tools,
    normalise_messages,
    plan_branches,
    read_tools,
)
from linalign_integrations.prompts.messages import short_id

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Unpack

    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from linalign_integrations.prompts import AnswerFormat

    RowStore = Rows | SoloRows

# Characters of a conversation, principles included, that take no more than about 2 ms to tokenise,
# which an event loop can spare; most conversations have two prompts at most.
_QUICK = 2_000
# Where the system does not say.
_USUAL_MEMORY = 8 * 2**30


class Limits(TypedDict, total=False):
    """What an engine may hold, as ``Engine`` describes it."""

    max_rows: int
    max_bytes: int
    reuse_bytes: int
    max_waiting: int


class _Asked(NamedTuple):
    """What a request asks for, before its prompts and its grammar are read."""

    messages: list[Message]
    preferences: Preferences
    sampling: SamplingParams
    grammar: Grammar | Constraint | None
    user: str | None
    alternatives: int
    tools: Tools | None


Messages = str | Iterable[Mapping[str, Any]]
ToolSchemas = Iterable[Mapping[str, Any]]


class Engine:
    """A local causal language model that answers under each request's own preferences.

    Requests may come from any thread or task and run together: one forward pass per token for all
    branches of all of them. What one user sends changes nothing but the speed of what others get.

    Use ``Engine.load`` for a model by name. The constructor takes one that is already in memory.

    Args:
        model: a causal decoder. Those with full or sliding-window attention run all rows at once;
            others, such as recurrent ones, row by row, which a warning says.
        tokenizer: its tokenizer.
        model_id: what to call it.
        max_rows: most rows that run together; a request with principles needs two or more.
        max_bytes: most bytes of keys and values that running requests may come to need; by
            default a quarter of the machine's memory, on an accelerator half of what is free.
        reuse_bytes: most bytes of keys and values to keep of finished requests, so that their
            beginnings need not be computed again; by default an eighth of ``max_bytes``.
        max_waiting: most requests that wait while the engine is full.

    Raises:
        InvalidArgument: a limit leaves room for nothing.
        UnsupportedModel: the model cannot go on from a prompt it has read.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        model_id: str,
        max_rows: int = 64,
        max_bytes: int | None = None,
        reuse_bytes: int | None = None,
        max_waiting: int = 256,
    ) -> None:
        self.tokenizer = tokenizer
        self.model_id = model_id
        self._config = model.config.get_text_config()
        self._form = PromptFormat(tokenizer)
        self._end_tokens = _end_tokens(model, tokenizer)
        head: Any = model.get_output_embeddings()  # type: ignore[no-untyped-call]
        # Not by its weight, which a packed head would have to copy.
        self._grammars = GrammarCompiler(tokenizer, head.out_features, self._end_tokens)
        share = 2 if model.device.type == "cuda" else 4
        max_bytes = _memory(model.device) // share if max_bytes is None else max_bytes
        reuse_bytes = max_bytes // 8 if reuse_bytes is None else reuse_bytes
        self._limits = {
            "max_rows": max_rows,
            "max_bytes": max_bytes,
            "reuse_bytes": reuse_bytes,
            "max_waiting": max_waiting,
        }
        for name, value in self._limits.items():
            least = 0 if name == "reuse_bytes" else 1
            if not isinstance(value, int) or value < least:
                raise InvalidArgument(f"{name} is a number of at least {least}, not {value!r}")
        new_rows, position_bytes = _rows_for(model, model_id, self.context_length, max_bytes)
        self._model: PreTrainedModel | None = model
        self._scheduler = Scheduler(
            new_rows,
            PrefixStore(reuse_bytes),
            position_bytes=position_bytes,
            max_rows=max_rows,
            max_bytes=max_bytes,
            max_waiting=max_waiting,
        )

    @classmethod
    def load(
        cls,
        model: str | os.PathLike[str] | None = None,
        *,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        revision: str | None = None,
        trust_remote_code: bool = False,
        **limits: Unpack[Limits],
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
            **limits: ``max_rows``, ``max_bytes``, ``reuse_bytes`` and ``max_waiting``, as the
                constructor takes them. They are set when weights are read.

        Raises:
            InvalidArgument: there is no such device or dtype here, or the model is in memory
                already with other limits.
            ModelNotFound: no model is named, or it cannot be found.
            UnsupportedModel: it is not a causal decoder with safetensors weights.
        """
        name = model_name(model)
        where = pick_device(device)
        kind = pick_dtype(dtype, where)
        if name.startswith("~"):
            name = str(Path(name).expanduser())
        key = (str(Path(name).resolve()) if Path(name).is_dir() else name, revision, kind, where)
        engine = _engines.get(key)
        if engine is not None and not engine.closed:
            # Without waiting for another model that is being loaded.
            return engine._require_limits(limits)
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
                engine = _engines[key] = cls(weights, tokenizer, model_id=name, **limits)
            return engine._require_limits(limits)

    def _require_limits(self, limits: Limits) -> Engine:
        for name, value in limits.items():
            if self._limits[name] != value:
                raise InvalidArgument(
                    f"{self.model_id!r} is in memory with {name}={self._limits[name]}, not "
                    f"{value}: close that engine first, or leave {name} out"
                )
        return self

    @property
    def context_length(self) -> int:
        """Most tokens that prompt and answer may have together."""
        return most_positions(self._config) or int(self.tokenizer.model_max_length)

    @property
    def closed(self) -> bool:
        """Whether ``close`` was called."""
        return self._model is None

    def close(self) -> None:
        """Gives the model's memory back. Running and later requests raise ``EngineClosed``."""
        for key, engine in list(_engines.items()):
            if engine is self:
                _engines.pop(key, None)
        self._scheduler.close()
        self._model = None

    def tokenize(self, text: str) -> list[int]:
        """Tokens of a text by itself; what looks like a control token is read as text."""
        return self._form.tokenize(text)

    def branches(
        self,
        messages: Messages,
        *,
        preferences: Preferences | None = None,
        tools: ToolSchemas | None = None,
    ) -> list[Branch]:
        """The prompts that the model will see for a request, the prompted one first.

        Raises:
            InvalidMessages: the conversation is empty, malformed or refused by the template.
            InvalidTools: tools are malformed.
        """
        preferences, _ = _values(preferences, None)
        called = read_tools(tools)
        plan = plan_branches(normalise_messages(messages), preferences, self._form, called)
        return plan.branches(self._form)

    def generate(
        self,
        messages: Messages,
        *,
        preferences: Preferences | None = None,
        sampling: SamplingParams | None = None,
        grammar: Grammar | Constraint | None = None,
        tools: ToolSchemas | None = None,
        tool_choice: str | None = None,
        parallel_tool_calls: bool = True,
        user: str | None = None,
        timeout: float | None = None,
        explain: bool | int = False,
    ) -> Result:
        """The answer to a conversation, under the preferences of whoever asks.

        Args:
            messages: OpenAI-style messages; a string is one user turn.
            preferences: what the user wants; by default nothing beyond the messages.
            sampling: how to draw; by default ``SamplingParams()``.
            grammar: what the answer must be: a ``Grammar``, or a fresh ``Constraint`` of your own.
                Beside tools it holds for an answer that calls none.
            tools: what the model may call: function schemas in the OpenAI style.
            tool_choice: ``"auto"`` (by default), ``"none"``, ``"required"``, or the name of the
                tool to call. Unless there is no extra ``grammar``, calls are well-formed and their
                arguments valid; calls end the answer.
            parallel_tool_calls: whether there may be several calls in one answer; a tool that is
                chosen by its name is called once.
            user: who asks. Users take turns when requests have to wait, and are told of reuse of
                what they sent themselves only. Requests that name none count as one user.
            timeout: most seconds from the start to the end of the answer.
            explain: whether to record what alignment did to each token, in the result's (or the
                last piece's) ``alignment``; a number from 1 to 20 is how many alternatives to
                keep per token, True keeps 3.

        Raises:
            InvalidMessages: the conversation is empty, malformed or refused by the template, or a
                principle would forge control tokens through it.
            InvalidGrammar: the grammar, or the schema of a tool that has to be called, cannot be
                read or enforced.
            InvalidTools: tools are malformed, or ``tool_choice`` names none of them.
            InvalidArgument: ``timeout`` is not a time, or ``explain`` out of range.
            MissingExtra: a grammar, or a call that has to be made, needs the extra ``grammar``.
            PromptTooLong: a prompt leaves no room for an answer.
            RequestTooLarge: the engine is too small for the request.
            QueueFull: too many requests wait already.
            EngineClosed: the engine was closed.
            GenerationTimeout: the time was up before the answer was.
            GenerationFailed: the model or the grammar failed for this request.
        """
        return gather(
            self.stream(
                messages,
                preferences=preferences,
                sampling=sampling,
                grammar=grammar,
                tools=tools,
                tool_choice=tool_choice,
                parallel_tool_calls=parallel_tool_calls,
                user=user,
                timeout=timeout,
                explain=explain,
            )
        )

    async def agenerate(
        self,
        messages: Messages,
        *,
        preferences: Preferences | None = None,
        sampling: SamplingParams | None = None,
        grammar: Grammar | Constraint | None = None,
        tools: ToolSchemas | None = None,
        tool_choice: str | None = None,
        parallel_tool_calls: bool = True,
        user: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - it counts from the start of the work
        explain: bool | int = False,
    ) -> Result:
        """``generate`` without blocking the event loop."""
        pieces = self.astream(
            messages,
            preferences=preferences,
            sampling=sampling,
            grammar=grammar,
            tools=tools,
            tool_choice=tool_choice,
            parallel_tool_calls=parallel_tool_calls,
            user=user,
            timeout=timeout,
            explain=explain,
        )
        return gather([piece async for piece in pieces])

    def stream(
        self,
        messages: Messages,
        *,
        preferences: Preferences | None = None,
        sampling: SamplingParams | None = None,
        grammar: Grammar | Constraint | None = None,
        tools: ToolSchemas | None = None,
        tool_choice: str | None = None,
        parallel_tool_calls: bool = True,
        user: str | None = None,
        timeout: float | None = None,
        explain: bool | int = False,
    ) -> Generation:
        """The answer piece by piece; input is checked now, work starts with the first piece.

        Arguments and errors are those of ``generate``. The answer goes on while its pieces are not
        read; ``close`` (or forgetting the iterator) ends it.
        """
        called = read_tools(tools, tool_choice, parallel=parallel_tool_calls)
        asked = self._checked(messages, preferences, sampling, grammar, user, explain, called)
        return Generation(self._scheduler, self._request(asked), timeout)

    def astream(
        self,
        messages: Messages,
        *,
        preferences: Preferences | None = None,
        sampling: SamplingParams | None = None,
        grammar: Grammar | Constraint | None = None,
        tools: ToolSchemas | None = None,
        tool_choice: str | None = None,
        parallel_tool_calls: bool = True,
        user: str | None = None,
        timeout: float | None = None,
        explain: bool | int = False,
    ) -> AsyncGeneration:
        """``stream`` for ``async for``; the event loop stays free while the model works.

        A long conversation is tokenised, and a grammar or tools are read, in another thread when
        the first piece is asked for: what only shows then is raised then. A task that is
        cancelled ends the answer at its next token.
        """
        called = read_tools(tools, tool_choice, parallel=parallel_tool_calls)
        asked = self._checked(messages, preferences, sampling, grammar, user, explain, called)
        make = partial(self._request, asked)
        told = asked.preferences.principles
        characters = sum(len(str(one)) for one in (*asked.messages, *told))
        # Principles of different weights repeat it in a prompt each.
        characters = max(2, 1 + len(told)) * characters // 2
        compiled = not isinstance(grammar, Grammar)
        quick = compiled and called is None and characters <= _QUICK
        return AsyncGeneration(self._scheduler, make() if quick else make, timeout)

    def _checked(
        self,
        messages: Messages,
        preferences: Preferences | None,
        sampling: SamplingParams | None,
        grammar: Grammar | Constraint | None,
        user: str | None,
        explain: bool | int = False,
        tools: Tools | None = None,
    ) -> _Asked:
        """What a request asks for, as far as that can be checked at once."""
        if self._model is None:
            raise EngineClosed(
                f"the engine of {self.model_id!r} was closed: call Engine.load again"
            )
        if not (grammar is None or isinstance(grammar, Grammar) or hasattr(grammar, "advance")):
            raise InvalidGrammar(
                "grammar= takes a Grammar, such as Grammar.json_schema(...), or a Constraint, not "
                f"{type(grammar).__name__}"
            )
        if not isinstance(user, str | None):
            raise InvalidArgument(f"user= is the name of whoever asks, not {user!r:.80}")
        return _Asked(
            normalise_messages(messages),
            *_values(preferences, sampling),
            grammar,
            user,
            count_alternatives(explain),
            tools,
        )

    def _request(self, asked: _Asked) -> Request:
        """Tokenises the prompts and compiles the grammar, which takes its time."""
        messages, preferences, sampling, grammar, user, alternatives, tools = asked
        answers = self._form.answers
        if tools is not None and tools.forced and answers.syntax is None and answers.fallback:
            # Calls that are not written as JSON can be read, but not forced.
            answers = answers.fallback
        plan = plan_branches(messages, preferences, self._form, tools, answers)
        self._require_room(plan)
        if tools is None and grammar is not None and not answers.begins_in_reasoning:
            # The grammar says what the answer is from its first character on.
            steering, reader = self._plain_steering(preferences, grammar), None
        elif tools is None and answers.reasoning is None:
            steering, reader = self._plain_steering(preferences, grammar), None
        else:
            seed = secrets.randbits(63) if sampling.seed is None else sampling.seed
            call_id = partial(short_id, seed, plan.token_ids[0])
            steering = self._steering(preferences, grammar, tools, answers)
            reader = answers.reader(tools, call_id)
        return Request(
            plan,
            preferences,
            sampling,
            steering=steering,
            reader=reader,
            user=user,
            form=self._form,
            ends=self._end_tokens,
            context_length=self.context_length,
            explain=alternatives,
        )

    def _plain_steering(
        self, preferences: Preferences, grammar: Grammar | Constraint | None
    ) -> Steering:
        """For an answer that is nothing but an answer."""
        constraint = self._grammars.start(grammar) if isinstance(grammar, Grammar) else grammar
        return Steering(None, preferences, constraint=constraint, as_data=_is_data(grammar))

    def _steering(
        self,
        preferences: Preferences,
        grammar: Grammar | Constraint | None,
        tools: Tools | None,
        answers: AnswerFormat,
    ) -> Steering:
        whole, in_call = grammar, None
        if tools is not None:
            if grammar is not None and not isinstance(grammar, Grammar):
                raise InvalidArgument("grammar= beside tools= takes a Grammar, not a Constraint")
            whole, in_call = self._call_grammars(grammar, tools, answers)
        if isinstance(whole, Grammar):
            try:
                whole = self._grammars.start(whole, within=answers.begins_in_reasoning)
            except InvalidGrammar:
                self._blame(tools)
                raise
        closing = answers.reasoning[1] if answers.reasoning else ""
        return Steering(
            answers,
            preferences,
            shown=answers.shown(self._form.special_tokens),
            constraint=whole,
            in_call=in_call,
            calls="no" if tools is None else "only" if tools.forced else "maybe",
            as_data=_is_data(grammar),
            close_reasoning=self._form.tokens_of(closing),
            ends=self._end_tokens,
        )

    def _call_grammars(
        self, grammar: Grammar | None, tools: Tools, answers: AnswerFormat
    ) -> tuple[Grammar | None, Constraint | None]:
        """What the whole answer must be, and what calls in it must be."""
        if tools.forced:
            special = self._grammars.special_tokens()
            return call_grammar(tools, answers, special, after="nothing"), None
        try:
            special = self._grammars.special_tokens()
            if tools.choice == "none":
                return grammar or self._started(no_call_grammar(answers, special)), None
            if answers.syntax is None:
                return grammar, None
            if grammar is not None:
                made = call_grammar(tools, answers, special, after="nothing", answer=grammar)
                return self._started(made), None
            made = call_grammar(tools, answers, special, after="text")
            return None, self._grammars.start(made, within=True)
        except (MissingExtra, UnsupportedModel):
            return grammar, None
        except InvalidGrammar:
            try:
                self._blame(tools)
            except InvalidGrammar as error:
                warnings.warn(
                    f"calls are read, but their arguments are not enforced: {error}", stacklevel=5
                )
            return grammar, None

    def _blame(self, tools: Tools | None) -> None:
        """Raises ``InvalidGrammar`` for the first tool whose schema cannot be enforced."""
        if tools is None:
            return
        for name in tools.callable_names:
            try:
                self._grammars.start(Grammar.json_schema(tools.schemas[name]))
            except InvalidGrammar as error:
                raise InvalidGrammar(f"tool {name!r}: {error}") from error

    def _started(self, grammar: Grammar) -> Grammar:
        """The grammar, known to be one that can be enforced."""
        self._grammars.start(grammar)
        return grammar

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


def _is_data(grammar: object) -> bool:
    return isinstance(grammar, Grammar) and grammar.kind == "json_schema"


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


def _rows_for(
    model: PreTrainedModel, name: str, max_positions: int, max_bytes: int
) -> tuple[Callable[[], RowStore], int]:
    """What makes rows for a model, and the bytes that a position of one takes."""
    new_rows = partial(Rows, model, max_positions=max_positions, max_bytes=max_bytes)
    try:
        check_supported(model)
        rows = new_rows()
        _check_rows(rows, model, name)
    except UnsupportedModel as reason:
        _check_rows(SoloRows(model), model, name)
        warnings.warn(
            f"{name!r} runs row by row, so that several users and principles cost as much as one "
            f"after the other: {reason}",
            stacklevel=3,
        )
        return partial(SoloRows, model), 0
    return new_rows, rows.position_bytes


def _check_rows(rows: RowStore, model: PreTrainedModel, name: str) -> None:
    """Compares rows of unequal length with the model's own forward pass, once per load.

    Attention that rows cannot express (recurrent state, position biases computed from a padding
    mask) would otherwise give wrong answers without a word.
    """
    known: list[tuple[int, ...]] = [(1, 2, 3), (4,)]
    more = [(5,), (5,)]
    kind = model.config.get_text_config().model_type
    try:
        with torch.inference_mode():
            rows.add(2)
            rows.forward(known)
            rows.extend(known)
            stepped = rows.forward(more)
            rows.drop(2)
            whole = [torch.tensor([[*row, 5]], device=model.device) for row in known]
            expected = torch.stack([model(ids).logits[0, -1] for ids in whole]).to(stepped)
    except (TypeError, ValueError, RuntimeError, AttributeError, IndexError) as error:
        raise UnsupportedModel(f"{name!r} ({kind}) cannot be run: {error}") from error
    # Loose enough for the rounding of half precision, far below what a wrong mask would do.
    if float((stepped - expected).norm()) > 0.1 * float(expected.norm()):
        raise UnsupportedModel(
            f"{name!r} ({kind}) gives other answers when several prompts run at once; it is not a "
            "causal decoder of a supported kind"
        )


def _memory(device: torch.device) -> int:
    """Bytes of memory that are there: free on an accelerator, physical on the processor's side."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if hasattr(os, "sysconf"):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return _USUAL_MEMORY


_engines: dict[tuple[str, str | None, torch.dtype, torch.device], Engine] = {}
_loading = threading.Lock()
