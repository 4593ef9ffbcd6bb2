"""Objects of a class from text: the grammar allows nothing that the class would refuse."""

from llama_index.core.prompts import PromptTemplate
from pydantic import BaseModel, Field

from linalign_integrations import use_preferences
from linalign_integrations.llama_index import LinAlign


class Shop(BaseModel):
    """A shop, as a text tells of it."""

    name: str = Field(max_length=40)
    opens: str = Field(pattern=r"^\d{1,2}:\d{2}$")


llm = LinAlign(model="pocket", temperature=0, max_tokens=80)
prompt = PromptTemplate("Return name and opens as JSON: {text}")
text = "The Lantern bakery opens at 7:30. The Lantern bakery was founded in 1873."

print(repr(llm.structured_predict(Shop, prompt, text=text)))

# A way to speak is no reason to fill fields otherwise: schemas are not steered unless asked for.
with use_preferences("Answer like a pirate."):
    print(repr(llm.structured_predict(Shop, prompt, text=text)))

# Half an object is an object whose fields may be missing.
for partial in llm.stream_structured_predict(Shop, prompt, text=text):
    print(partial)

# The same as an LLM, for what takes one and does not stream.
print(llm.as_structured_llm(Shop).complete(prompt.format(text=text)).text)
