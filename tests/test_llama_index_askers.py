"""Parts of LlamaIndex that ask their LLM in ways of their own: each gets what it can work with."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from llama_index.core import Document, SummaryIndex, get_response_synthesizer
from llama_index.core.agent.workflow import FunctionAgent, ReActAgent
from llama_index.core.embeddings import MockEmbedding
from llama_index.core.indices.property_graph import (
    DynamicLLMPathExtractor,
    SchemaLLMPathExtractor,
    SimpleLLMPathExtractor,
)
from llama_index.core.indices.query.query_transform.base import StepDecomposeQueryTransform
from llama_index.core.postprocessor import LLMRerank
from llama_index.core.postprocessor.structured_llm_rerank import StructuredLLMRerank
from llama_index.core.query_engine import CitationQueryEngine, MultiStepQueryEngine
from llama_index.core.retrievers import QueryFusionRetriever
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode
from llama_index.core.tools import FunctionTool
from pydantic import BaseModel

from linalign_integrations.llama_index import LinAlign, answers_only

if TYPE_CHECKING:
    from collections.abc import Callable

    from llama_index.core.agent.workflow import AgentOutput

TEXT = "The Lantern bakery opens at 7:30."
QUESTION = "When does the Lantern bakery open?"


class Person(BaseModel):
    name: str
    age: int


def roll(sides: int) -> str:
    """Roll a die."""
    return f"{sides}"


def index() -> SummaryIndex:
    return SummaryIndex.from_documents([Document(text=TEXT)])


def ran(agent: FunctionAgent | ReActAgent, said: str, **options: Any) -> AgentOutput:
    async def run() -> AgentOutput:
        output: AgentOutput = await agent.run(said, **options)
        return output

    return asyncio.run(run())


def gives_a_person(kind: type[FunctionAgent | ReActAgent], llm: LinAlign) -> bool:
    output = ran(kind(tools=[roll], llm=llm, output_cls=Person), "Hello", max_iterations=3)
    return isinstance(output.get_pydantic_model(Person), Person)


def ends_early(llm: LinAlign) -> bool:
    agent = FunctionAgent(tools=[roll], llm=llm, early_stopping_method="generate")
    output = ran(agent, "Roll a die with sides 6", max_iterations=1)
    return bool(output.response.content)


def finds_paths(llm: LinAlign) -> bool:
    kinds: tuple[Any, ...] = (
        SimpleLLMPathExtractor,
        SchemaLLMPathExtractor,
        DynamicLLMPathExtractor,
    )
    return all(len(kind(llm=llm, num_workers=1)([TextNode(text=TEXT)])) == 1 for kind in kinds)


def ranks(kind: type[LLMRerank | StructuredLLMRerank], llm: LinAlign) -> bool:
    nodes = [NodeWithScore(node=TextNode(text=TEXT), score=1.0)]
    return isinstance(kind(llm=llm).postprocess_nodes(nodes, QueryBundle(QUESTION)), list)


def cites(llm: LinAlign) -> bool:
    return "7:30" in str(CitationQueryEngine.from_args(index(), llm=llm).query(QUESTION))


def goes_step_by_step(llm: LinAlign) -> bool:
    engine = MultiStepQueryEngine(
        index().as_query_engine(llm=llm),
        StepDecomposeQueryTransform(llm=llm),
        num_steps=1,
        response_synthesizer=get_response_synthesizer(llm=llm),
    )
    return "Lantern" in str(engine.query(QUESTION))


def fuses(llm: LinAlign) -> bool:
    retriever = QueryFusionRetriever([index().as_retriever()], llm=llm, num_queries=2)
    return [one.text for one in retriever.retrieve(QUESTION)] == [TEXT]


def calls_at_once(llm: LinAlign) -> bool:
    tools = [FunctionTool.from_defaults(roll)]
    said = "Roll a die with sides 6"
    made = llm.predict_and_call(tools, said), asyncio.run(llm.apredict_and_call(tools, said))
    return [one.sources[0].tool_name for one in made] == ["roll", "roll"]


def answers_in_every_mode(llm: LinAlign) -> bool:
    modes = ("accumulate", "compact_accumulate", "tree_summarize", "refine", "simple_summarize")
    engines = [index().as_query_engine(llm=llm, response_mode=mode) for mode in modes]
    engines.append(
        index().as_query_engine(llm=llm, response_mode="refine", structured_answer_filtering=True)
    )
    return all("7:30" in str(engine.query(QUESTION)) for engine in engines)


def gives_an_object(llm: LinAlign) -> bool:
    engine = index().as_query_engine(llm=llm.as_structured_llm(Person))
    return isinstance(engine.query("Who?").response, Person)  # type: ignore[union-attr]


ASKERS: dict[str, Callable[[LinAlign], bool]] = {
    "a function agent with output_cls": lambda llm: gives_a_person(FunctionAgent, llm),
    "a ReAct agent with output_cls": lambda llm: gives_a_person(ReActAgent, llm),
    "an agent that took too many turns": ends_early,
    "path extractors": finds_paths,
    "a reranker": lambda llm: ranks(LLMRerank, llm),
    "a structured reranker": lambda llm: ranks(StructuredLLMRerank, llm),
    "citations": cites,
    "questions step by step": goes_step_by_step,
    "fused questions": fuses,
    "predict_and_call": calls_at_once,
    "synthesizers": answers_in_every_mode,
    "a structured LLM in a query engine": gives_an_object,
}


@pytest.fixture
def llm(monkeypatch: pytest.MonkeyPatch) -> LinAlign:
    monkeypatch.setattr("llama_index.core.Settings._embed_model", MockEmbedding(8))
    return LinAlign(
        model="pocket", dtype="float32", principles=["Be brief."], max_tokens=80, temperature=0
    )


@pytest.mark.parametrize("asker", ASKERS)
@pytest.mark.parametrize("align", ["everything", "answers"])
def test_what_asks_gets_what_it_can_work_with(asker: str, align: str, llm: LinAlign) -> None:
    assert ASKERS[asker](answers_only(llm) if align == "answers" else llm)
