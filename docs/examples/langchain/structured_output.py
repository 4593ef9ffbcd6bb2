"""Answers that are values: the grammar allows nothing that the schema would refuse."""

from pydantic import BaseModel, Field

from linalign_integrations.langchain import ChatLinAlign


class Shop(BaseModel):
    """A shop, as a text tells of it."""

    name: str = Field(max_length=30)
    founded: int = Field(ge=1000, le=2100)


chat = ChatLinAlign(model="pocket", seed=1, max_tokens=80)
shop = chat.with_structured_output(Shop)
text = "Give me JSON with the fields name and founded: The Lantern bakery was founded in 1873."
print(shop.invoke(text))

# The principles of a user are told to the model here as well, but pull no values towards them.
print(shop.invoke(text, {"configurable": {"principles": ["Be very formal."]}}))

answer = chat.with_structured_output(Shop, include_raw=True).invoke(text)
print(answer["raw"].text, answer["parsing_error"])
