"""Retrieval over the same documents, answered for each user in their own way."""

from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnablePassthrough
from langchain_core.vectorstores import InMemoryVectorStore

from linalign_integrations import open_profiles
from linalign_integrations.langchain import ChatLinAlign

profiles = open_profiles("memory://rag")
profiles.put("ann", "Answer like a pirate.")
profiles.put("bob", "Be very formal.")

# Stands for an embedding model of your own; with two documents every search finds both.
store = InMemoryVectorStore(DeterministicFakeEmbedding(size=32))
store.add_documents(
    [
        Document("The Lantern bakery opens at 7:30."),
        Document("Entry to the Heron museum costs 12 euros."),
    ]
)


def as_text(documents: list[Document]) -> str:
    return "\n".join(document.page_content for document in documents)


prompt = ChatPromptTemplate.from_messages(
    [("user", "Base your answer on this context alone:\n{context}\n\nQuestion: {question}")]
)
chat = ChatLinAlign(model="pocket", profiles=profiles, seed=1, max_tokens=60)
rag = (
    {"context": store.as_retriever() | as_text, "question": RunnablePassthrough()}
    | prompt
    | chat
    | StrOutputParser()
)

for user in ("ann", "bob"):
    config = {"configurable": {"user_id": user}}
    print(f"{user}: {rag.invoke('When does the Lantern bakery open?', config)}")
