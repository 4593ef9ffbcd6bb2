"""How one model wants its conversations written: its chat template, probed once, and its tokens."""

from __future__ import annotations

import copy
import threading
import warnings
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError

from linalign_integrations.errors import InvalidMessages
from linalign_integrations.prompts.messages import Message, add_to

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedTokenizerBase

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
        self.has_system_role = True
        self.default_system = ""
        if self.has_template:
            self._probe_system_role()
        else:
            warnings.warn(
                f"{tokenizer.name_or_path or 'the tokenizer'} has no chat template: conversations "
                "are written as plain text to be continued. Use an instruction-tuned model, or set "
                "tokenizer.chat_template, for chat.",
                UserWarning,
                stacklevel=2,
            )

    def _probe_system_role(self) -> None:
        user = {"role": "user", "content": "a"}
        try:
            told = self._render([{"role": "system", "content": _PROBE}, user])
        except TemplateError:
            told = ""
        head, found, tail = told.partition(_PROBE)
        self.has_system_role = bool(found)
        if not found:
            return
        untold = self._render([user])
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

    def with_system(self, messages: list[Message], text: str) -> list[Message]:
        """The messages with ``text`` added to the system message, or to what stands in for it."""
        if messages[0]["role"] == "system":
            return [add_to(messages[0], text), *messages[1:]]
        return [add_to({"role": "system", "content": self.default_system}, text), *messages]

    def encode(self, messages: list[Message]) -> list[int]:
        """Token ids of the conversation and of the start of the model's turn.

        Raises:
            InvalidMessages: the model's template refuses the conversation; its reason is given.
        """
        if not self.has_template:
            ids: Any = self.tokenize(_as_plain_text(messages))
        else:
            if not self.has_system_role and messages[0]["role"] == "system":
                messages = _fold_system(messages)
            try:
                with self._lock:
                    ids = self._tokenizer.apply_chat_template(
                        messages,
                        add_generation_prompt=True,
                        return_dict=False,
                        sanitize_control_tokens=True,
                    )
            except TemplateError as error:
                raise InvalidMessages(
                    f"the model's chat template refuses this conversation: {error}"
                ) from error
        return self._with_one_bos(ids)

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

    def decode(self, token_ids: Sequence[int], *, special: bool = False) -> str:
        """Text of the tokens, without special tokens unless asked for."""
        with self._lock:
            return str(
                self._tokenizer.decode(
                    list(token_ids),
                    skip_special_tokens=not special,
                    clean_up_tokenization_spaces=False,
                )
            )


def _fold_system(messages: list[Message]) -> list[Message]:
    """The system message moved into the first user turn."""
    system, *rest = messages
    for place, message in enumerate(rest):
        if message["role"] == "user":
            rest[place] = add_to(message, system["content"], before=True)
            return rest
    return [{"role": "user", "content": system["content"]}, *rest]


def _as_plain_text(messages: list[Message]) -> str:
    """A text to be continued: verbatim for a single request, with speakers for a conversation."""
    turns = [message for message in messages if message["role"] != "system"]
    system = [message["content"] for message in messages if message["role"] == "system"]
    if len(turns) == 1 and turns[0]["role"] == "user":
        return "\n\n".join([*system, turns[0]["content"]])
    spoken = [f"{turn['role'].capitalize()}: {turn['content']}" for turn in turns]
    return "\n\n".join([*system, *spoken, "Assistant:"])
