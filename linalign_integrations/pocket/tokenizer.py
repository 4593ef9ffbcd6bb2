"""The byte-level tokenizer of the embedded model and its chat template."""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

__all__ = ["CHAT_TEMPLATE", "END", "PAD", "START", "encode", "render", "train_tokenizer"]

START, END, PAD = "<|im_start|>", "<|im_end|>", "<|pad|>"
# Room for what later versions of the model learn, so that token ids need not move then.
RESERVED = ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")
CONTEXT = 1024

CHAT_TEMPLATE = (
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message['role'] + '\\n' }}"
    "{%- if message['role'] == 'assistant' %}"
    "{% generation %}{{- message['content'] + '<|im_end|>' }}{% endgeneration %}"
    "{%- else %}{{- message['content'] + '<|im_end|>' }}{%- endif %}"
    "{{- '\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)


def train_tokenizer(texts: Iterable[str], size: int = 2048) -> PreTrainedTokenizerFast:
    """Learn a byte-pair vocabulary that can write any text.

    Digits and line ends stay tokens of their own: numbers are copied digit by digit, and an
    answer's first token does not depend on the line end before it.
    """
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\n"), "isolated"),
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    control = [START, END, PAD, *RESERVED]
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=control,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    bpe.add_special_tokens([AddedToken(token, special=True) for token in control])
    tokenizer: PreTrainedTokenizerFast = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=bpe,
        eos_token=END,
        pad_token=PAD,
        additional_special_tokens=[START],
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def render(messages: Sequence[dict[str, str]]) -> str:
    """Write a conversation as the chat template does, many times faster."""
    return "".join(f"{START}{message['role']}\n{message['content']}{END}\n" for message in messages)


def encode(
    tokenizer: PreTrainedTokenizerBase, conversations: Sequence[Sequence[dict[str, str]]]
) -> list[tuple[NDArray[np.int16], NDArray[np.bool_]]]:
    """Encode conversations and mark the tokens that the assistant writes.

    Returns:
        For each conversation its token ids, and which of them belong to an answer.
    """
    start, end = (tokenizer.convert_tokens_to_ids(token) for token in (START, END))
    role = tokenizer("assistant\n", add_special_tokens=False)["input_ids"]
    encoded = []
    texts = [render(messages) for messages in conversations]
    for batch in tokenizer(texts, add_special_tokens=False)["input_ids"]:
        ids = np.array(batch, dtype=np.int16)
        own = np.zeros(len(ids), dtype=np.bool_)
        ends = np.flatnonzero(ids == end)
        for begin, stop in zip(np.flatnonzero(ids == start), ends, strict=True):
            first = begin + 1 + len(role)
            if batch[begin + 1 : first] == role:
                own[first : stop + 1] = True
        encoded.append((ids, own))
    return encoded
