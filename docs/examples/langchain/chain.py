"""A chain that answers each user as that user prefers."""

from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate

from linalign_integrations import open_profiles, use_preferences
from linalign_integrations.langchain import ChatLinAlign

profiles = open_profiles("memory://chain")  # "sqlite:///profiles.db" keeps them
profiles.put("ann", "Answer like a pirate.")
profiles.put("bob", "Be very formal.")

chat = ChatLinAlign(model="pocket", profiles=profiles, seed=1, max_tokens=60)
prompt = ChatPromptTemplate.from_messages([("user", "What gift should I buy for my {who}?")])
chain = prompt | chat | StrOutputParser()

# The configuration reaches every step of a chain; arguments of invoke reach the first one only.
for user in ("ann", "bob"):
    config = {"configurable": {"user_id": user}}
    print(f"{user}: {chain.invoke({'who': 'sister'}, config)}")

print("once:", chain.invoke({"who": "dad"}, {"configurable": {"principles": ["Keep it cheap."]}}))

# Code that passes no configuration on is called inside a block.
with use_preferences("Give me numbered steps.", ratio=3.0):
    print("block:", chain.invoke({"who": "friend"}))

# A copy for one user is cheap: it shares the weights.
print("copy:", (prompt | chat.for_user("ann")).invoke({"who": "aunt"}).text)
