"""Answers that are values: the grammar allows nothing that the schema would refuse."""

from pydantic import BaseModel, Field

from linalign_integrations.langchain import ChatLinAlign


class Booking(BaseModel):
    """What a guest asks for."""

    name: str = Field(max_length=20)
    guests: int = Field(ge=1, le=20)


chat = ChatLinAlign(model="pocket", seed=1, max_tokens=80)
booking = chat.with_structured_output(Booking)
text = "Extract name and guests as JSON: A table for 4 guests, please. My name is Nora."
print(booking.invoke(text))

# The principles of a user are told to the model here as well, but pull no values towards them.
print(booking.invoke(text, {"configurable": {"principles": ["Be very formal."]}}))

answer = chat.with_structured_output(Booking, include_raw=True).invoke(text)
print(answer["raw"].text, answer["parsing_error"])
