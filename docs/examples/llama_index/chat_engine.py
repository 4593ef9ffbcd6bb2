"""Conversations about documents, each with a memory and a user of its own."""

from llama_index.core import Document, SummaryIndex
from llama_index.core.memory import ChatMemoryBuffer

from linalign_integrations import open_profiles
from linalign_integrations.llama_index import LinAlign, answers_only

profiles = open_profiles("memory://chat_engine")
profiles.put("ann", "Answer like a pirate.")
profiles.put("bob", "Be very formal.")

llm = answers_only(LinAlign(model="pocket", profiles=profiles, seed=1, max_tokens=60))
index = SummaryIndex.from_documents(
    [Document(text="The Lantern bakery opens at 7:30. Entry to the Heron museum costs 12 euros.")]
)

for user in ("ann", "bob"):
    chat_engine = index.as_chat_engine(
        chat_mode="context",
        llm=llm.for_user(user),
        # The tokens that count are this model's.
        memory=ChatMemoryBuffer.from_defaults(token_limit=500, tokenizer_fn=llm.tokenize),
    )
    print(f"{user}: {chat_engine.chat('When does the Lantern bakery open?')}")
    print(f"{user}: ", end="")
    for piece in chat_engine.stream_chat("What does the Heron museum cost?").response_gen:
        print(piece, end="")
    print(f"\n{user}: {len(chat_engine.chat_history)} messages remembered")

# A user who changes their mind is obeyed from the next message on, in the same conversation.
profiles.put("bob", "Keep it short.")
print(f"bob: {chat_engine.chat('What does the Heron museum cost?')}")
