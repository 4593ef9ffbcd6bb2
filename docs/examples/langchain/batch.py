"""Many users in one batch, each under their own preferences."""

import asyncio

from linalign_integrations import open_profiles
from linalign_integrations.langchain import ChatLinAlign, LinAlignLLM

profiles = open_profiles("memory://batch")
wishes = {
    "ann": "Answer like a pirate.",
    "bob": "Be very formal.",
    "eve": "Keep it short.",
    "max": "Give me numbered steps.",
}
for user, wish in wishes.items():
    profiles.put(user, wish)

settings = {"model": "pocket", "profiles": profiles, "seed": 1, "max_tokens": 60}
questions = ["What should I do this weekend?"] * len(wishes)
configs = [{"configurable": {"user_id": user}} for user in wishes]

# All of them run in one crowd: the engine draws a token of each answer in one forward pass.
answers = asyncio.run(ChatLinAlign(**settings).abatch(questions, configs))
for user, answer in zip(wishes, answers, strict=True):
    print(f"{user}: {answer.text}")

# Text in, text out; one user whose profile is missing does not spoil the others' answers.
configs[0] = {"configurable": {"user_id": "nobody"}}
for text in LinAlignLLM(**settings).batch(questions, configs, return_exceptions=True):
    print(repr(text))
