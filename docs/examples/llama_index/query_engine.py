"""One index, one model in memory, and a query engine for each user."""

from llama_index.core import Document, SimpleKeywordTableIndex

from linalign_integrations import open_profiles, use_preferences
from linalign_integrations.llama_index import LinAlign, answers_only

profiles = open_profiles("memory://query_engine")  # "sqlite:///profiles.db" keeps them
profiles.put("ann", "Answer like a pirate.")
profiles.put("bob", "Be very formal.")

# What LlamaIndex asks for itself, here keywords, is not for users to bend.
llm = answers_only(LinAlign(model="pocket", profiles=profiles, seed=1, max_tokens=60))
documents = [
    Document(text="The Lantern bakery opens at 7:30."),
    Document(text="Entry to the Heron museum costs 12 euros."),
]
index = SimpleKeywordTableIndex.from_documents(documents, llm=llm)
question = "When does the Lantern bakery open?"

for user in ("ann", "bob"):
    query_engine = index.as_query_engine(llm=llm.for_user(user))
    print(f"{user}: {query_engine.query(question)}")

# An engine that everybody shares answers for whoever's block it is asked in.
shared = index.as_query_engine(llm=llm)
with use_preferences("Give me numbered steps."):
    print(f"block: {shared.query(question)}")

# A stream may ask the model only when it is read: with a copy that does not matter.
streaming = index.as_query_engine(llm=llm.for_user("ann"), streaming=True)
print("stream: ", end="")
for piece in streaming.query(question).response_gen:
    print(piece, end="")
print()
