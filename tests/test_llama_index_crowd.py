"""Many users at once over one index, and one framework without the other."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from llama_index.core import SummaryIndex
from llama_index.core.schema import TextNode

from linalign_integrations import Preferences, open_profiles
from linalign_integrations.llama_index import LinAlign

if TYPE_CHECKING:
    from pathlib import Path

NODES = [TextNode(text="The bakery sells bread."), TextNode(text="The bakery opens at 7:30.")]


async def test_32_users_at_once_get_what_each_gets_alone(folder: Path) -> None:
    users = [f"user{number}" for number in range(32)]
    profiles = open_profiles("memory://")
    for number, user in enumerate(users):
        profiles.put(user, Preferences(principles=[f"Say {number}."], ratio=1 + number % 3))
    llm = LinAlign(
        model=str(folder),
        dtype="float32",
        seed=3,
        max_tokens=12,
        profiles=profiles,
        temperature=1.5,
        plausibility=0.99,
    )
    index = SummaryIndex(NODES)

    async def ask(user: str) -> str:
        engine = index.as_query_engine(llm=llm.for_user(user))
        return str(await engine.aquery("What does the bakery sell?"))

    alone = [await ask(user) for user in users]
    assert len(set(alone)) > 16
    assert await asyncio.gather(*map(ask, users)) == alone


REFUSING = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {refused!r}:
            raise ModuleNotFoundError(f"{{name}} is not installed here")

sys.meta_path.insert(0, Refuse())
from linalign_integrations import Preferences, open_profiles, use_preferences
fields = dict(model={folder!r}, dtype="float32", seed=3, max_tokens=4)
"""
LANGCHAIN = """
profiles = fields["profiles"] = open_profiles("memory://")
profiles.put("ann", "Answer like a pirate.")
from langchain_core.prompts import ChatPromptTemplate
from linalign_integrations.langchain import ChatLinAlign, LinAlignLLM

chat = ChatLinAlign(**fields)
chain = ChatPromptTemplate.from_messages([("user", "{q}")]) | chat
assert chain.invoke({"q": "Hi"}, {"configurable": {"user_id": "ann"}}).content
with use_preferences("Be formal."):
    assert "".join(piece.content for piece in chain.stream({"q": "Hi"}))
assert LinAlignLLM(**fields).for_user("ann").invoke("Hi")
"""
# URLs open LangGraph's stores, which need langchain-core; LlamaIndex has stores of its own.
LLAMA_INDEX = """
import asyncio
from llama_index.core import SummaryIndex
from llama_index.core.schema import TextNode
from llama_index.core.storage.kvstore import SimpleKVStore
from linalign_integrations.llama_index import LinAlign

profiles = fields["profiles"] = open_profiles(SimpleKVStore())
profiles.put("ann", "Answer like a pirate.")
assert profiles.list() == ["ann"]
llm = LinAlign(**fields)
index = SummaryIndex([TextNode(text="The bakery sells bread.")])
ann = LinAlign(**fields, principles=["Answer like a pirate."])
assert str(index.as_query_engine(llm=ann).query("Hi"))
with use_preferences("Be formal."):
    assert asyncio.run(llm.acomplete("Hi")).text
assert str(index.as_query_engine(llm=llm.for_user("ann")).query("Hi"))
assert asyncio.run(llm.for_user("ann").acomplete("Hi")).text
profiles.delete("ann")
"""


@pytest.mark.parametrize(
    ("app", "refused"),
    [
        (LANGCHAIN, {"llama_index", "llama_index_instrumentation", "workflows"}),
        (LLAMA_INDEX, {"langchain", "langchain_core", "langgraph", "langsmith"}),
    ],
    ids=["LangChain only", "LlamaIndex only"],
)
def test_an_app_of_one_framework_works_where_the_other_is_not_installed(
    app: str, refused: set[str], folder: Path
) -> None:
    script = REFUSING.format(refused=refused, folder=str(folder)) + app
    done = subprocess.run(  # noqa: S603 - our own text
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
