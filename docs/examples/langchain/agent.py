"""An agent with a tool, an organisation's house rules, and users with wishes of their own."""

from dataclasses import dataclass

from langchain.agents import create_agent
from langchain_core.tools import tool

from linalign_integrations import open_profiles
from linalign_integrations.langchain import ChatLinAlign, PreferencesMiddleware

profiles = open_profiles("memory://agent")
profiles.put("ann", "Answer like a pirate.")
profiles.put("bob", "Keep it short.")


@dataclass
class Context:
    user_id: str


@tool
def get_bus_fare(city: str) -> str:
    """get the bus fare"""
    return "4 euros"


agent = create_agent(
    ChatLinAlign(model="pocket", seed=1, max_tokens=80),
    [get_bus_fare],
    middleware=[PreferencesMiddleware(profiles, house_rules="Be very formal.")],
    context_schema=Context,
)
for user in ("ann", "bob"):
    question = {"messages": [{"role": "user", "content": "What is the bus fare to Rome?"}]}
    for message in agent.invoke(question, context=Context(user_id=user))["messages"][1:]:
        for call in getattr(message, "tool_calls", ()):
            print(f"{user}: calls {call['name']}({call['args']})")
        if message.text:
            print(f"{user}: {message.type}: {message.text}")
