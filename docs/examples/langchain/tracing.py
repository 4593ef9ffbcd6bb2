"""What a trace and a cache see of a user: that preferences differ, not what they say."""

from typing import Any

from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import BaseCallbackHandler

from linalign_integrations import open_profiles
from linalign_integrations.langchain import ChatLinAlign

profiles = open_profiles("memory://tracing")
profiles.put("ann", "Answer like a pirate.")
profiles.put("bob", "Be very formal.")


class Trace(BaseCallbackHandler):
    """Keeps what LangChain hands to tracers when a model is called."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def on_chat_model_start(self, serialized: Any, messages: Any, **about: Any) -> None:
        self.seen.append((serialized, about))


trace, cache = Trace(), InMemoryCache()
chat = ChatLinAlign(model="pocket", profiles=profiles, cache=cache, seed=1, max_tokens=60)

# Name the user: what stands in "configurable" itself is traced by LangChain as it is.
for user in ("ann", "bob", "ann"):
    answer = chat.invoke(
        "What should I read?", {"configurable": {"user_id": user}, "callbacks": [trace]}
    )
    print(f"{user}: {answer.text}")

assert len(cache._cache) == 2, "one entry each; the second question of ann's was not asked again"
assert "pirate" not in repr(trace.seen), "no principle is quoted in a trace"
assert "pirate" not in repr(list(cache._cache)), "nor in the key of a cache"
print("traced as:", trace.seen[0][1]["invocation_params"]["preferences"])
