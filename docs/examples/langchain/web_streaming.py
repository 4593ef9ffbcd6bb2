"""A web handler that streams: run it with ``uvicorn web_streaming:app``."""

from collections.abc import AsyncIterator

from fastapi import FastAPI, Header
from fastapi.responses import StreamingResponse
from fastapi.testclient import TestClient

from linalign_integrations import open_profiles
from linalign_integrations.langchain import ChatLinAlign

profiles = open_profiles("memory://web")
profiles.put("ann", "Answer like a pirate.")
profiles.put("bob", "Be very formal.")

chat = ChatLinAlign(
    model="pocket", profiles=profiles, on_unknown_user="plain", max_tokens=60, timeout=60
)
app = FastAPI()


async def pieces(question: str, user: str) -> AsyncIterator[str]:
    # A client that goes away ends this generator, and with it the answer: its rows are free again.
    async for piece in chat.astream(question, {"configurable": {"user_id": user}}):
        yield piece.text


@app.get("/ask")
async def ask(question: str, x_user: str = Header()) -> StreamingResponse:
    # Take the user's name from your own authentication, never from what a client may write.
    return StreamingResponse(pieces(question, x_user), media_type="text/plain")


if __name__ == "__main__":
    client = TestClient(app)
    for user in ("ann", "bob"):
        answer = client.get("/ask?question=What should I cook tonight?", headers={"x-user": user})
        print(f"{user}: {answer.text}")
