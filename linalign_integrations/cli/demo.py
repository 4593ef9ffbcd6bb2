"""``linalign demo``: two users ask the same, through LangChain and through LlamaIndex."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.markup import escape

from linalign_integrations.cli.compare import table, three_answers

if TYPE_CHECKING:
    from rich.console import Console

QUESTION = "What should I cook for dinner tonight?"
USERS = {
    "ann": "Answer like a pirate.",
    "bob": "Keep it very cheap.",
}
DOCUMENTS = (
    "The Lantern bakery opens at 7:30. The Lantern bakery sells bread.",
    "Entry to the Heron museum costs 12 euros. The Heron museum is closed on Monday.",
    "The Silver library is on Mill Street. The phone number of the Silver library is 4417.",
)
DOCUMENT_QUESTION = "What does the Heron museum cost?"
DOCUMENT_USERS = {
    "ann": "Answer like a pirate.",
    "cleo": "Talk like Shakespeare.",
}


def run(console: Console, *, model: str, ratio: float, seed: int, question: str) -> None:
    """Prints both tables.

    Raises:
        LinAlignError: the model cannot be loaded, or a value lies outside its range.
    """
    with console.status(escape(f"Loading {model} …")):
        rows = through_langchain(model, ratio, seed, question)
    console.print(table(f'A LangChain chain is asked: "{question}"', rows, ratio=ratio))
    with console.status("Asking the documents …"):
        rows = through_llama_index(model, ratio, seed)
    title = f'A LlamaIndex query engine over {len(DOCUMENTS)} documents: "{DOCUMENT_QUESTION}"'
    console.print(table(title, rows, ratio=ratio))
    console.print(
        "plain: no principles · prompted: principles in the prompt only · "
        "aligned: a step along what the principles change, token by token\n"
        "Next: [bold]linalign chat[/] to try your own, [bold]/compare[/] inside it for columns.",
        style="dim",
    )


def through_langchain(
    model: str, ratio: float, seed: int, question: str
) -> list[tuple[str, list[str]]]:
    """Answers of a prompt | model | parser chain, its preferences given in the config."""
    from langchain_core.output_parsers import StrOutputParser
    from langchain_core.prompts import ChatPromptTemplate

    from linalign_integrations.langchain import ChatLinAlign

    chat = ChatLinAlign(model=model, ratio=ratio, seed=seed, max_tokens=96)
    chain = ChatPromptTemplate.from_messages([("user", "{question}")]) | chat | StrOutputParser()

    def answer(fields: dict[str, object]) -> str:
        return chain.invoke({"question": question}, {"configurable": fields})

    return [
        (f"{user}: {principle}", three_answers(answer, {"principles": [principle]}))
        for user, principle in USERS.items()
    ]


def through_llama_index(model: str, ratio: float, seed: int) -> list[tuple[str, list[str]]]:
    """Answers of a query engine over a keyword index, inside ``use_preferences``."""
    from llama_index.core import Document, SimpleKeywordTableIndex

    from linalign_integrations import use_preferences
    from linalign_integrations.llama_index import LinAlign

    llm = LinAlign(model=model, ratio=ratio, seed=seed, max_tokens=96)
    documents = [Document(text=text) for text in DOCUMENTS]
    engine = SimpleKeywordTableIndex.from_documents(documents, llm=llm).as_query_engine(llm=llm)

    def answer(fields: dict[str, object]) -> str:
        with use_preferences(**fields):  # type: ignore[arg-type]
            return str(engine.query(DOCUMENT_QUESTION))

    return [
        (f"{user}: {principle}", three_answers(answer, {"principles": [principle]}))
        for user, principle in DOCUMENT_USERS.items()
    ]
