"""An agent with a tool: the call is nobody's to bend, the answer is the user's."""

import asyncio

from llama_index.core.agent.workflow import FunctionAgent, ToolCallResult

from linalign_integrations import open_profiles
from linalign_integrations.llama_index import LinAlign

profiles = open_profiles("memory://llama_agent")
profiles.put("ann", "Answer like a pirate.")
profiles.put("bob", "Be very formal.")
llm = LinAlign(model="pocket", profiles=profiles, seed=1, temperature=0, max_tokens=80)


def get_bus_fare(city: str) -> str:
    """get the bus fare"""
    return "4 euros"


async def ask(user: str) -> str:
    agent = FunctionAgent(tools=[get_bus_fare], llm=llm.for_user(user))
    handler = agent.run("What is the bus fare to Rome?")
    async for event in handler.stream_events():
        if isinstance(event, ToolCallResult):
            print(f"{user}: {event.tool_name}({event.tool_kwargs}) gave {event.tool_output}")
    return f"{user}: {await handler}"


async def main() -> None:
    # Both run at once, in one batch.
    print("\n".join(await asyncio.gather(ask("ann"), ask("bob"))))


asyncio.run(main())
