"""How one model wants its conversations written: its chat template, probed once, and its tokens."""

from __future__ import annotations

import copy
import threading
import warnings
from functools import cached_property
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError

from linalign_integrations.errors import InvalidMessages, InvalidTools
from linalign_integrations.prompts.formats import AnswerFormat, find_format, spelt_out
from linalign_integrations.prompts.messages import Message, add_to, fold_system
from linalign_integrations.prompts.tools import instructions

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from transformers import PreTrainedTokenizerBase

    from linalign_integrations.prompts.tools import Tools

# What templates raise when a conversation is not to their liking.
_REFUSALS = (TemplateError, TypeError, ValueError, KeyError)
# What stands for bytes that are no character.
_REPLACEMENT = "\ufffd"
_PROBE = "linalign probe of the system message"


class PromptFormat:
    """Turns messages into token ids and token ids into text, for one tokenizer.

    Text that a user supplied, principles included, is never read as control tokens: a forged
    ``<|im_end|>`` inside it is encoded as the plain characters. Safe to use from many threads.

    Args:
        tokenizer: a Hugging Face tokenizer. It is copied, since encoding changes its state.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = copy.deepcopy(tokenizer)
        self._lock = threading.Lock()
        self._bos = tokenizer.bos_token_id
        plain = tokenizer("a")["input_ids"]
        self._wants_bos = self._bos is not None and plain[:1] == [self._bos]
        self.has_template = bool(tokenizer.chat_template)
        template = str(tokenizer.chat_template)
        self.control_tokens = {
            token.content: token_id
            for token_id, token in tokenizer.added_tokens_decoder.items()
            if token.special or (token.content in template and not token.content.isspace())
        }
        self._control_ids = frozenset(self.control_tokens.values())
        self.special_tokens = {
            token.content: token_id
            for token_id, token in tokenizer.added_tokens_decoder.items()
            if token.special
        }
        self._special_ids = frozenset(self.special_tokens.values())
        self._control_starts = frozenset(text[:1] for text in self.control_tokens)
        vocabulary = tokenizer.get_vocab()
        names = (f"<0x{byte:02X}>" for byte in range(256))
        self.byte_tokens = frozenset(vocabulary[name] for name in names if name in vocabulary)
        self._anchor = self.tokenize("a")[-1:]
        self._token_names: dict[int, str] = {}
        self.has_system_role = True
        self.default_system = ""
        if self.has_template:
            self._probe_system_role()
        else:
            warnings.warn(
                f"{tokenizer.name_or_path or 'the tokenizer'} has no chat template: conversations "
                "are written as plain text to be continued. For chat use an instruction-tuned "
                "model, or set tokenizer.chat_template before Engine(model, tokenizer).",
                UserWarning,
                stacklevel=4,
            )

    def _probe_system_role(self) -> None:
        user = {"role": "user", "content": "a"}
        try:
            told = self._render([{"role": "system", "content": _PROBE}, user])
        except _REFUSALS:
            told = ""
        head, found, tail = told.partition(_PROBE)
        self.has_system_role = bool(found)
        if not found:
            return
        try:
            untold = self._render([user])
        except _REFUSALS:
            return
        # A template that fills in a system message of its own must keep it beside principles, or
        # the branches would differ by more than those.
        if untold.startswith(head) and untold.endswith(tail) and len(untold) > len(head + tail):
            self.default_system = untold[len(head) : len(untold) - len(tail)]

    def _render(self, messages: Sequence[Message]) -> str:
        return str(
            self._tokenizer.apply_chat_template(
                list(messages), tokenize=False, add_generation_prompt=True
            )
        )

    @cached_property
    def answers(self) -> AnswerFormat:
        """How the model writes tool calls and reasoning; found out on first use."""
        vocabulary = self._tokenizer.added_tokens_encoder
        template = self._tokenizer.chat_template
        own = getattr(self._tokenizer, "response_template", None)
        return find_format(self._try, own, lambda text: text in vocabulary or text in str(template))

    def _try(self, messages: list[Message], tools: list[Any] | None, begin: bool) -> str:
        if not self.has_template:
            raise ValueError("there is no chat template")
        try:
            with self._lock:
                return str(
                    self._tokenizer.apply_chat_template(
                        messages, tools=tools, tokenize=False, add_generation_prompt=begin
                    )
                )
        except Exception as error:
            raise ValueError(str(error)) from error

    def with_system(self, messages: list[Message], text: str) -> list[Message]:
        """The messages with ``text`` added to the system message, or to what stands in for it."""
        if messages[0]["role"] == "system":
            return [add_to(messages[0], text), *messages[1:]]
        return [add_to({"role": "system", "content": self.default_system}, text), *messages]

    def encode(
        self,
        messages: list[Message],
        tools: Tools | None = None,
        answers: AnswerFormat | None = None,
    ) -> list[int]:
        """Token ids of the conversation and of the start of the model's turn.

        Args:
            messages: a normalised conversation.
            tools: what the model may call; told in the system message where the template has no
                place for them.
            answers: how calls are to be written, if not as usual.

        Raises:
            InvalidMessages: the model's template refuses the conversation; its reason is given. Or
                arguments of a call in it spell control tokens in their names.
            InvalidTools: a tool's parameters do.
        """
        offered: Any = None
        if tools is not None or any(_uses_tools(message) for message in messages):
            answers = answers or self.answers
            self._require_plain_keys(messages, tools)
            if tools is not None and answers.native:
                offered = list(tools.definitions)
            elif tools is not None:
                messages = self.with_system(messages, instructions(tools))
            messages = spelt_out(messages, answers)
        if not self.has_template:
            ids: Any = self.tokenize(_as_plain_text(messages))
        else:
            if not self.has_system_role:
                messages = fold_system(messages)
            try:
                with self._lock:
                    ids = self._tokenizer.apply_chat_template(
                        messages,
                        tools=offered,
                        add_generation_prompt=True,
                        return_dict=False,
                        sanitize_control_tokens=True,
                    )
            except _REFUSALS as error:
                raise InvalidMessages(
                    f"the model's chat template refuses this conversation: {error}"
                ) from error
        prompt: list[int] = self._with_one_bos(list(ids))
        if not prompt:
            raise InvalidMessages("the prompt is empty: say something in the messages")
        return prompt

    def _require_plain_keys(self, messages: list[Message], tools: Tools | None) -> None:
        """Refuses keys that spell control tokens: templates write keys as they are."""
        calls = [call for message in messages for call in message.get("tool_calls", ())]
        for where, error, value in (
            ("the arguments of a call", InvalidMessages, [one["function"] for one in calls]),
            ("a tool's parameters", InvalidTools, list(tools.definitions) if tools else []),
        ):
            if any(mark in key for key in _keys(value) for mark in self.control_tokens):
                raise error(f"a name in {where} spells a control token of the model: rename it")

    def may_forge(self, text: str) -> bool:
        """Whether a text could possibly spell a control token; plain words never do."""
        return not self._control_starts.isdisjoint(text)

    def structure(self, token_ids: Sequence[int]) -> list[int]:
        """The control tokens among these, in order."""
        return [token for token in token_ids if token in self._control_ids]

    def _with_one_bos(self, ids: list[int]) -> list[int]:
        start = 0
        while self._bos is not None and ids[start : start + 1] == [self._bos]:
            start += 1
        return ([self._bos] if start or self._wants_bos else []) + ids[start:]

    def tokenize(self, text: str) -> list[int]:
        """Tokens of a text that contains no control tokens, whatever it looks like."""
        with self._lock:
            return list(
                self._tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
            )

    def tokens_of(self, text: str) -> tuple[int, ...]:
        """Tokens of a text in which control tokens count as such."""
        with self._lock:
            return tuple(self._tokenizer.encode(text, add_special_tokens=False))

    def decode(
        self,
        token_ids: Sequence[int],
        *,
        special: bool = False,
        shown: frozenset[int] = frozenset(),
    ) -> str:
        """Text of the tokens, without special tokens unless asked for.

        Args:
            token_ids: the tokens.
            special: whether to show all special tokens.
            shown: special tokens to show anyway.
        """
        if shown and not special:
            hidden = self._special_ids - shown
            token_ids, special = [one for one in token_ids if one not in hidden], True
        with self._lock:
            return str(
                self._tokenizer.decode(
                    list(token_ids),
                    skip_special_tokens=not special,
                    clean_up_tokenization_spaces=False,
                )
            )

    def token_name(self, token_id: int) -> str:
        """What a token writes; the vocabulary's name for it where that is no text of its own.

        Such are control tokens and those that are only a part of a character.
        """
        name = self._token_names.get(token_id)
        if name is None:
            # Behind another token, since a space at the start of a text may be dropped.
            known = self.decode(self._anchor)
            name = self.decode([*self._anchor, token_id])[len(known) :]
            if not name or _REPLACEMENT in name:
                name = str(self._tokenizer.convert_ids_to_tokens(token_id) or f"<{token_id}>")
            self._token_names[token_id] = name
        return name


def _keys(value: Any) -> Iterator[str]:
    """All keys of a JSON value."""
    if isinstance(value, dict):
        yield from value
        value = list(value.values())
    for one in value if isinstance(value, list) else ():
        yield from _keys(one)


def _uses_tools(message: Message) -> bool:
    return message["role"] == "tool" or "tool_calls" in message


def _as_plain_text(messages: list[Message]) -> str:
    """A text to be continued: verbatim for a single request, with speakers for a conversation."""
    turns = [message for message in messages if message["role"] != "system"]
    system = [message["content"] for message in messages if message["role"] == "system"]
    if len(turns) == 1 and turns[0]["role"] == "user":
        return "\n\n".join([*system, turns[0]["content"]])
    spoken = [f"{turn['role'].capitalize()}: {turn['content']}" for turn in turns]
    return "\n\n".join([*system, *spoken, "Assistant:"])
