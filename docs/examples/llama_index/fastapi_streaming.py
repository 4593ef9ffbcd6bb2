"""A web handler that streams a query engine's answers; the weights are loaded once."""

from collections.abc import AsyncIterator

from fastapi import FastAPI, Header
from fastapi.responses import StreamingResponse
from fastapi.testclient import TestClient
from llama_index.core import Document, SummaryIndex

from linalign_integrations import open_profiles
from linalign_integrations.llama_index import LinAlign, answers_only

profiles = open_profiles("memory://fastapi_streaming")
profiles.put("ann", "Answer like a pirate.")
profiles.put("bob", "Be very formal.")

llm = answers_only(LinAlign(model="pocket", profiles=profiles, seed=1, max_tokens=60))
index = SummaryIndex.from_documents([Document(text="The Lantern bakery opens at 7:30.")])
app = FastAPI()


@app.get("/ask")
async def ask(question: str, user: str = Header()) -> StreamingResponse:
    # The stream is read after this function has returned: a copy keeps its user, a block would not.
    engine = index.as_query_engine(llm=llm.for_user(user), streaming=True)
    response = await engine.aquery(question)

    async def pieces() -> AsyncIterator[str]:
        async for piece in response.async_response_gen():
            yield piece

    # A client that goes away closes the stream, and its rows are free at the engine's next step.
    return StreamingResponse(pieces(), media_type="text/plain")


# In production: uvicorn module:app
client = TestClient(app)
for user in ("ann", "bob"):
    url = "/ask?question=When does the Lantern bakery open?"
    with client.stream("GET", url, headers={"user": user}) as answer:
        print(f"{user}: {''.join(answer.iter_text())}")
