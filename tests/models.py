"""Tiny models with random weights, and tokenizers with known templates."""

from __future__ import annotations

import math
from functools import cache
from typing import TYPE_CHECKING

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoXConfig,
    GptOssConfig,
    LlamaConfig,
    MistralConfig,
    Phi3Config,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

from linalign_integrations import Engine, Preferences, SamplingParams
from linalign_integrations.pocket import measure

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedTokenizerBase

    from linalign_integrations.engine import Result

ADAPTER = {"dtype": "float32", "seed": 3, "max_tokens": 12}

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CHATML_WITH_DEFAULT = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nYou are Tiny.<|im_end|>\n"
    "{% endif %}" + CHATML
)
CHATML_STRICT = (
    "{% for m in messages %}{% if m['role'] == 'system' and not loop.first %}"
    "{{ raise_exception('System message must be at the beginning.') }}{% endif %}{% endfor %}"
    + CHATML
)
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n"
    "{{ m['content'] | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}"
    "{% endif %}<start_of_turn>{{ 'model' if m['role'] == 'assistant' else m['role'] }}\n"
    "{{ m['content'] | trim }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
# The essential parts of the families' templates that know tools.
_SYSTEM = (
    "{% if tools or messages[0].role == 'system' %}<|im_start|>system\n"
    "{{ messages[0].content if messages[0].role == 'system' }}"
    "{% for t in tools or [] %}\n{{ t | tojson }}{% endfor %}<|im_end|>\n{% endif %}"
)
HERMES = _SYSTEM + (
    "{% for m in messages if m.role != 'system' %}{% if m.role == 'tool' %}<|im_start|>user\n"
    "<tool_response>\n{{ m.content }}\n</tool_response>{% else %}<|im_start|>{{ m.role }}\n"
    "{{ m.content }}{% for c in m.tool_calls or [] %}{{ '\n' if m.content or not loop.first }}"
    '<tool_call>\n{"name": "{{ c.function.name }}", "arguments": '
    "{{ c.function.arguments | tojson }}}\n</tool_call>{% endfor %}{% endif %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
QWEN3 = HERMES.replace(
    "{{ m.content }}{% for c",
    "{% if m.role == 'assistant' %}<think>\n{{ m.reasoning_content or '' }}\n</think>\n\n"
    "{% endif %}{{ m.content }}{% for c",
)
R1 = HERMES.replace("assistant\n{% endif %}", "assistant\n<think>\n{% endif %}{# </think> #}")
XML = HERMES.replace(
    '{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}\n',
    "<function={{ c.function.name }}>{% for k, v in c.function.arguments | items %}\n"
    "<parameter={{ k }}>\n{{ v if v is string else v | tojson }}\n</parameter>{% endfor %}\n"
    "</function>\n",
)
XML_RESPONSE = {
    "start_anchor": "<|im_start|>assistant\n",
    "fields": {
        "content": {"content": "text"},
        "tool_calls": {
            "open_pattern": r"\s*<tool_call>\s*<function=(?P<name>[^>\n]+)>",
            "close_pattern": r"</function>\s*</tool_call>",
            "repeats": True,
            "content": "xml-inline",
            "content_args": {
                "tag_pattern": r"<parameter=(?P<key>[^>\n]+)>\n(?P<value>.*?)\n</parameter>"
            },
            "transform": {"function": {"name": "{name}", "arguments": "{content}"}},
        },
    },
}
LLAMA_TOOLS = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'tool' %}<|start_header_id|>ipython"
    "<|end_header_id|>\n\n{{ m.content | tojson }}<|eot_id|>{% elif m.tool_calls %}"
    "{% if m.tool_calls | length > 1 %}{{ raise_exception('One call at once!') }}{% endif %}"
    "<|start_header_id|>assistant<|end_header_id|>\n\n"
    '{"name": "{{ m.tool_calls[0].function.name }}", "parameters": '
    "{{ m.tool_calls[0].function.arguments | tojson }}}<|eot_id|>{% else %}"
    "<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{% if tools and loop.first %}"
    "{% for t in tools %}{{ t | tojson }}\n{% endfor %}{% endif %}{{ m.content }}<|eot_id|>"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
_MISTRAL = (
    "{{ bos_token }}{% set last = messages | selectattr('role', 'equalto', 'user') | list | last %}"
    "{% for m in messages %}{% if m.role in ['user', 'system'] %}{% if m == last and tools %}"
    "[AVAILABLE_TOOLS]{{ tools | tojson }}[/AVAILABLE_TOOLS]{% endif %}[INST]{{ m.content }}[/INST]"
    "{% elif m.role == 'tool' %}{% if m.tool_call_id | length != 9 %}"
    "{{ raise_exception('ids have nine letters') }}{% endif %}"
    '[TOOL_RESULTS]{"content": {{ m.content | tojson }}, "call_id": "{{ m.tool_call_id }}"}'
    "[/TOOL_RESULTS]{% else %}{{ m.content }}{% if m.tool_calls %}CALLS{% endif %}{{ eos_token }}"
    "{% endif %}{% endfor %}"
)
MISTRAL = _MISTRAL.replace(
    "CALLS",
    "[TOOL_CALLS] [{% for c in m.tool_calls %}{{ ', ' if not loop.first }}"
    '{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}, '
    '"id": "{{ c.id }}"}{% endfor %}]',
)
MISTRAL_NEW = _MISTRAL.replace(
    "CALLS",
    "{% for c in m.tool_calls %}[TOOL_CALLS]{{ c.function.name }}[ARGS]"
    "{{ c.function.arguments | tojson }}{% endfor %}",
)
_CHATML_TOKENS = ["<|im_start|>", "<|im_end|>"]
_MISTRAL_TOKENS = ["<s>", "[INST]", "[/INST]", "[TOOL_CALLS]", "[TOOL_RESULTS]", "</s>"]
SPECIAL = {
    "hermes": _CHATML_TOKENS,
    "qwen3": _CHATML_TOKENS,
    "r1": _CHATML_TOKENS,
    "xml": _CHATML_TOKENS,
    "llama3.1": [
        "<|begin_of_text|>",
        "<|start_header_id|>",
        "<|end_header_id|>",
        "<|python_tag|>",
        "<|eot_id|>",
    ],
    "mistral": _MISTRAL_TOKENS,
    "mistral-new": [*_MISTRAL_TOKENS[:-1], "[ARGS]", "</s>"],
    "chatml": ["<|im_start|>", "<|im_end|>"],
    "chatml-strict": ["<|im_start|>", "<|im_end|>"],
    "llama3": ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
    "gemma": ["<bos>", "<start_of_turn>", "<end_of_turn>"],
    "none": ["<|endoftext|>"],
}
TEMPLATES = {
    "chatml": CHATML,
    "chatml-strict": CHATML_STRICT,
    "llama3": LLAMA3,
    "gemma": GEMMA,
    "none": None,
    "hermes": HERMES,
    "qwen3": QWEN3,
    "r1": R1,
    "xml": XML,
    "llama3.1": LLAMA_TOOLS,
    "mistral": MISTRAL,
    "mistral-new": MISTRAL_NEW,
}
BOS = {
    "llama3": "<|begin_of_text|>",
    "llama3.1": "<|begin_of_text|>",
    "gemma": "<bos>",
    "mistral": "<s>",
    "mistral-new": "<s>",
}
# Added tokens that are not special: Qwen's way.
ADDED = {"qwen3": ["<tool_call>", "</tool_call>", "<think>", "</think>"]}
VOCAB = 300


@cache
def tokenizer(style: str = "chatml") -> PreTrainedTokenizerFast:
    """A tokenizer with a token per byte, a few merges, and the style's control tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("Ġ", "t"), ("h", "e"), ("Ġt", "he"), ("i", "n"), ("e", "r"), ("Ġ", "a")]
    words = [*alphabet, *("".join(pair) for pair in merges)]
    core = Tokenizer(models.BPE({word: i for i, word in enumerate(words)}, merges))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    special = SPECIAL[style]
    made = PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token=special[-1],
        bos_token=BOS.get(style),
        additional_special_tokens=special,
        clean_up_tokenization_spaces=False,
    )
    made.add_tokens([AddedToken(text, special=False) for text in ADDED.get(style, ())])
    made.chat_template = TEMPLATES[style]
    if style == "xml":
        made.response_template = XML_RESPONSE
    return made


_SIZE = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 2048,
    # Random models end at random; the tests want answers of a known length.
    "eos_token_id": VOCAB - 1,
    "bos_token_id": None,
    "pad_token_id": None,
    # Tied embeddings of random models repeat the last token for ever.
    "tie_word_embeddings": False,
}
_DECODER = {**_SIZE, "intermediate_size": 64, "num_key_value_heads": 2}

CONFIGS: dict[str, PretrainedConfig] = {
    "llama": LlamaConfig(**_DECODER),
    "qwen2": Qwen2Config(**_DECODER),
    "qwen3": Qwen3Config(**_DECODER, head_dim=8),
    "mistral": MistralConfig(**_DECODER, sliding_window=24),
    "gemma3": Gemma3TextConfig(
        **{**_DECODER, "num_hidden_layers": 4},
        head_dim=8,
        sliding_window=12,
        layer_types=[
            "sliding_attention",
            "sliding_attention",
            "full_attention",
            "sliding_attention",
        ],
    ),
    "gemma2": Gemma2Config(
        **_DECODER,
        head_dim=8,
        sliding_window=12,
        attn_logit_softcapping=3.0,
        query_pre_attn_scalar=8,
    ),
    "gpt_oss": GptOssConfig(
        **_DECODER, head_dim=8, sliding_window=12, num_local_experts=4, num_experts_per_tok=2
    ),
    "phi3": Phi3Config(**_DECODER, sliding_window=24),
    "gpt2": GPT2Config(**_SIZE),
    "gpt_neox": GPTNeoXConfig(**_SIZE, intermediate_size=64),
}


@cache
def model(kind: str = "llama") -> PreTrainedModel:
    """A model of that architecture whose next-token distributions are far from flat."""
    torch.manual_seed(sum(map(ord, kind)))
    made = AutoModelForCausalLM.from_config(CONFIGS[kind], dtype=torch.float32).eval()
    with torch.no_grad():
        # Freshly initialised logits are nearly equal; spread them as a trained model's are.
        for parameter in made.parameters():
            if parameter.dim() > 1:
                parameter.mul_(6.0)
        head = made.get_output_embeddings().weight
        for _ in range(3):
            spread = made(torch.arange(20, 60)[None]).logits.std()
            head.mul_(2.5 / spread)
    return made


@cache
def engine(kind: str = "llama", style: str = "chatml") -> Engine:
    """An engine over the two."""
    return Engine(model(kind), tokenizer(style), model_id=f"tiny-{kind}")


@cache
def endless() -> Engine:
    """An engine whose answers end by length only, whatever random weights draw."""
    made = Engine(model(), tokenizer(), model_id="tiny-endless")
    made._end_tokens = frozenset()
    return made


def same(first: Result, second: Result) -> bool:
    """Whether two answers are the same, whatever was reused for them and up to rounding."""
    return (
        (first.text, first.token_ids, first.finish_reason)
        == (second.text, second.token_ids, second.finish_reason)
        and first.usage.total_tokens == second.usage.total_tokens
        and math.isclose(first.kl, second.kl, rel_tol=1e-3, abs_tol=1e-4)
    )


def bare_answer(folder: Path, principles: object, question: object = "Hi", **fields: object) -> str:
    """What the bare engine answers, with the settings that the adapters' tests give them."""
    preferences = Preferences(principles=principles, **fields)
    sampling = SamplingParams(seed=ADAPTER["seed"], max_tokens=ADAPTER["max_tokens"])
    made = Engine.load(folder, dtype=ADAPTER["dtype"])
    return made.generate(question, preferences=preferences, sampling=sampling).text


def as_answer(tokenizer: PreTrainedTokenizerBase, text: str) -> measure.Answer:
    """An answer as the model would write it, read by the tokenizer's own response template."""
    try:
        message = tokenizer.parse_response(text, prefix="")
    except ValueError:
        return measure.Answer(text, None)
    calls = tuple(call["function"] for call in message.get("tool_calls", ()))
    return measure.Answer(message["content"] or "", calls)
