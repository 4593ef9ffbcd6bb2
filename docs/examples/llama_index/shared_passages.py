"""Where principles stand decides whether users share the reading of the same passages.

In the system message they come before the passages: each user's prompt differs from its first token
on. After the question, with placement="last_user", all prompts begin with the same passages, which
are then read once, whoever asks.
"""

import time
from statistics import median
from typing import Any

from llama_index.core import Document, SummaryIndex
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.instrumentation.events.llm import LLMChatEndEvent

from linalign_integrations.llama_index import LinAlign

WISHES = ("Answer like a pirate.", "Be very formal.", "Give me numbered steps.", "Keep it short.")
PLACES = ("bakery", "museum", "library", "market", "garden", "theatre", "school", "harbour")
usages: list[dict[str, Any]] = []


class Usage(BaseEventHandler):
    def handle(self, event: Any, **kwargs: Any) -> None:
        if isinstance(event, LLMChatEndEvent) and event.response is not None:
            usages.append(event.response.raw["usage"])


handler = Usage()
get_dispatcher().add_event_handler(handler)


def ask(placement: str, number: int) -> list[float]:
    """Seconds of each user's question over passages that nobody has read before."""
    passages = [
        f"Hall {number}: the {place} in row {row} opens at 7:30."
        for row in range(4)
        for place in PLACES
    ]
    index = SummaryIndex.from_documents([Document(text=" ".join(passages))])
    seconds = []
    for wish in WISHES:
        # With for_user, usage would tell each user only what they sent themselves; who asks
        # without a name is one and the same, so that here the reuse can be seen.
        llm = LinAlign(
            model="pocket", principles=[wish], placement=placement, temperature=0, max_tokens=1
        )
        begun = time.perf_counter()
        index.as_query_engine(llm=llm).query("When does the museum in row 2 open?")
        seconds.append(time.perf_counter() - begun)
    return seconds


ask("system", 0)  # loads the model
for placement in ("system", "last_user"):
    usages.clear()
    # Passages differ from their first word on between repetitions.
    times = [ask(placement, number + 1000 * len(placement)) for number in range(3)]
    first = median(seconds[0] for seconds in times)
    later = median(second for seconds in times for second in seconds[1:])
    print(
        f'placement="{placement}": of {usages[1]["prompt_tokens"]} tokens the second user reuses '
        f"{usages[1]['prompt_tokens_details']['cached_tokens']}; "
        f"answers begin after {later / first:.2f} of the first user's time"
    )
get_dispatcher().event_handlers.remove(handler)
