"""``linalign chat``: a conversation in the terminal, its preferences changed as it goes."""

from __future__ import annotations

import secrets
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from linalign_integrations.cli.compare import table, three_answers
from linalign_integrations.errors import LinAlignError
from linalign_integrations.preferences import Preferences

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Console

    from linalign_integrations.engine import Engine, SamplingParams

HELP = """\
/principle TEXT   add a principle (several may hold at once)
/principles       show the preferences in force
/clear            drop all principles
/ratio NUMBER     largest step; 0 is plain prompting
/budget NUMBER    most nats per token; /budget off for none
/compare [TEXT]   plain, prompted and aligned answers to TEXT, or to your last message
/branches         the prompts that the model sees
/explain          from now on, or no longer: show what alignment did to each token
/reset            forget the conversation
/quit             leave"""


class Session:
    """A conversation, its preferences, and the commands that change them.

    Args:
        console: where everything is printed.
        engine: the model.
        preferences: in force at first.
        sampling: how answers are drawn; without a seed each answer gets a new one.
        explain: whether answers are shown with what alignment did to each of their tokens.
    """

    def __init__(
        self,
        console: Console,
        engine: Engine,
        preferences: Preferences,
        sampling: SamplingParams,
        *,
        explain: bool = False,
    ) -> None:
        self.console = console
        self.engine = engine
        self.preferences = preferences
        self.sampling = sampling
        self.explain = explain
        self.messages: list[dict[str, str]] = []
        self._commands: dict[str, Callable[[str], None]] = {
            "/help": lambda _: console.print(HELP, markup=False, highlight=False),
            "/principle": self._add,
            "/principles": lambda _: self._show(),
            "/clear": lambda _: self._change(principles=()),
            "/ratio": lambda text: self._change(ratio=text),
            "/budget": lambda text: self._change(kl_budget=None if text == "off" else text),
            "/compare": self._compare,
            "/branches": self._branches,
            "/explain": lambda _: self._toggle_explain(),
            "/reset": lambda _: self.messages.clear(),
        }

    def handle(self, line: str) -> bool:
        """Answers a message or obeys a command; False ends the session."""
        line = line.strip()
        command, _, text = line.partition(" ")
        if command in ("/quit", "/exit"):
            return False
        try:
            if command in self._commands:
                self._commands[command](text.strip())
            elif line.startswith("/"):
                self.console.print(f"unknown command {command}; /help lists them", markup=False)
            elif line:
                self._say(line)
        except LinAlignError as error:
            self.console.print(f"[red]{type(error).__name__}:[/] ", end="")
            self.console.print(str(error), markup=False)
        return True

    def _say(self, text: str) -> None:
        asked = [*self.messages, {"role": "user", "content": text}]
        request: dict[str, Any] = {"preferences": self.preferences, "sampling": self.sampling}
        answer = ""
        if self.explain:
            with self.console.status("Answering …"):
                result = self.engine.generate(asked, **request, explain=True)
            self.console.print(result.alignment)
            answer = result.text
        else:
            for piece in self.engine.stream(asked, **request):
                self.console.print(
                    piece.text, end="", markup=False, highlight=False, soft_wrap=True
                )
                answer += piece.text
            self.console.print()
        self.messages = [*asked, {"role": "assistant", "content": answer}]

    def _toggle_explain(self) -> None:
        self.explain = not self.explain
        self.console.print(f"explain: {'on' if self.explain else 'off'}", style="dim")

    def _add(self, text: str) -> None:
        self._change(principles=(*self.preferences.principles, text))

    def _change(self, **fields: object) -> None:
        self.preferences = Preferences(**{**dict(self.preferences), **fields})
        self._show()

    def _show(self) -> None:
        held = self.preferences
        principles = " · ".join(principle.text for principle in held.principles) or "none"
        budget = "none" if held.kl_budget is None else f"{held.kl_budget:g} nats per token"
        self.console.print(
            f"principles: {principles}\nratio: {held.ratio:g}   budget: {budget}",
            style="dim",
            markup=False,
        )

    def _compare(self, text: str) -> None:
        spoken = [message["content"] for message in self.messages if message["role"] == "user"]
        question = text or (spoken[-1] if spoken else "")
        if not question or not self.preferences.principles:
            self.console.print("add a /principle, then /compare a question")
            return
        history = self.messages if text else self.messages[:-2]
        # One seed, so that the columns differ by preferences and not by chance.
        seed = secrets.randbits(31) if self.sampling.seed is None else self.sampling.seed
        sampling = self.sampling.model_copy(update={"seed": seed})

        def answer(fields: dict[str, object]) -> str:
            return self.engine.generate(
                [*history, {"role": "user", "content": question}],
                preferences=Preferences(**fields),
                sampling=sampling,
            ).text

        label = "\n".join(principle.text for principle in self.preferences.principles)
        answers = three_answers(answer, dict(self.preferences))
        self.console.print(table(question, [(label, answers)], ratio=self.preferences.ratio))

    def _branches(self, _: str) -> None:
        # Up to the last question, as the model has seen it.
        messages = self.messages[:-1] or [{"role": "user", "content": "…"}]
        for branch in self.engine.branches(messages, preferences=self.preferences):
            self.console.print(f"{branch.name} ({len(branch.token_ids)} tokens)", style="bold")
            self.console.print(branch.text, markup=False, highlight=False)


def run(
    console: Console,
    *,
    model: str,
    principles: list[str],
    ratio: float,
    seed: int | None,
    max_tokens: int,
    explain: bool = False,
) -> None:
    """Talks until /quit or the end of input.

    Raises:
        LinAlignError: the model cannot be loaded, or a value lies outside its range.
    """
    preferences = Preferences(principles=principles, ratio=ratio)
    with console.status(escape(f"Loading {model} …")):
        from linalign_integrations.engine import Engine, SamplingParams

        sampling = SamplingParams(seed=seed, max_tokens=max_tokens)
        session = Session(console, Engine.load(model), preferences, sampling, explain=explain)
    console.print(
        f"{model} is ready. /help lists the commands, /quit leaves.", style="dim", markup=False
    )
    with suppress(ImportError):  # not everywhere
        import readline  # noqa: F401 - lines can be edited, and earlier ones come back
    while True:
        try:
            line = console.input("[bold green]> [/]")
        except (EOFError, KeyboardInterrupt):
            console.print()
            return
        try:
            if not session.handle(line):
                return
        except KeyboardInterrupt:
            console.print("\n(answer stopped)", style="dim")
