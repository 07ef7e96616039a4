"""What a client asks for: a JSON body checked field by field, and what is refused by name."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import isfinite
from typing import Any, TypeAlias

from taicang import reading

Check: TypeAlias = Callable[[Any], Any]
MOST_PROMPTS = 1024
MOST_CHOICES = 128
MOST_STOPS = 16
MOST_TOKEN = 1 << 62


class Refused(Exception):
    """An answer with an HTTP status in place of what was asked for; ``param`` names the field."""

    def __init__(
        self, message: str, *, status: int = 400, param: str | None = None, code: str | None = None,
        kind: str = "invalid_request_error",
    ) -> None:  # fmt: skip
        super().__init__(message)
        self.status, self.param, self.code, self.kind = status, param, code, kind

    def body(self) -> bytes:
        """In the form of the OpenAI API."""
        error = {"message": str(self), "type": self.kind, "param": self.param, "code": self.code}
        return json.dumps({"error": error}).encode()


def whole(low: int, high: int = 1 << 62) -> Check:
    """A whole number in a range."""

    def check(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise ValueError("expected a whole number")
        if not low <= value <= high:
            raise ValueError(f"expected {low:,} or more" if value < low else f"expected at most {high:,}")
        return value

    return check


def number(low: float, high: float) -> Check:
    """A number in a range."""

    def check(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
            raise ValueError("expected a number")
        if not low <= value <= high:
            raise ValueError(f"expected a number from {low:g} to {high:g}")
        return float(value)

    return check


def kind_of(kind: type | tuple[type, ...], named: str) -> Check:
    """A value of one JSON type."""

    def check(value: Any) -> Any:
        if not isinstance(value, kind):
            raise ValueError(f"expected {named}")
        return value

    return check


flag, word, mapping = kind_of(bool, "true or false"), kind_of(str, "a string"), kind_of(dict, "an object")


def stops(value: Any) -> list[str]:
    """One text or several."""
    found = [value] if isinstance(value, str) else value
    if not isinstance(found, list) or not all(isinstance(each, str) for each in found):
        raise ValueError("expected a string or a list of strings")
    if len(found) > MOST_STOPS:
        raise ValueError(f"at most {MOST_STOPS} texts")
    if not all(found):
        raise ValueError("an empty text stops nothing")
    return found


def stream_options(value: Any) -> dict[str, Any]:
    """What a stream tells of the tokens that it took."""
    mapping(value)
    for name in ("include_usage", "continuous_usage_stats"):
        if not isinstance(value.get(name), bool | None):
            raise ValueError(f"{name}: expected true or false")
    found: dict[str, Any] = value
    return found


def only_text(value: Any) -> dict[str, Any]:
    """Answers are words, whatever grammar is asked for."""
    mapping(value)
    if value.get("type", "text") != "text":
        raise ValueError("this machine answers with filler, which follows no schema: only text is given")
    found: dict[str, Any] = value
    return found


SHARED: Mapping[str, Check] = {
    "model": word, "stream": flag, "stream_options": stream_options, "n": whole(1, MOST_CHOICES), "stop": stops,
    "seed": whole(-(1 << 63), (1 << 63) - 1), "max_tokens": whole(1), "min_tokens": whole(0), "ignore_eos": flag,
    "temperature": number(0.0, 2.0), "top_p": number(0.0, 1.0), "top_k": whole(-1), "min_p": number(0.0, 1.0),
    "frequency_penalty": number(-2.0, 2.0), "presence_penalty": number(-2.0, 2.0),
    "repetition_penalty": number(0.0, 1e3), "user": word, "priority": whole(-(1 << 31), 1 << 31),
    "logit_bias": mapping, "response_format": only_text,
}  # fmt: skip
TEMPLATED: Mapping[str, Check] = {
    "messages": kind_of(list, "a list of messages"), "chat_template_kwargs": mapping, "add_generation_prompt": flag,
    "add_special_tokens": flag,
}  # fmt: skip
FIELDS: Mapping[str, Mapping[str, Check]] = {
    "chat": {**SHARED, **TEMPLATED, "max_completion_tokens": whole(1)},
    "text": {**SHARED, "prompt": kind_of((str, list), "a string or a list"), "add_special_tokens": flag},
    "response": {
        **{name: SHARED[name] for name in ("model", "stream", "temperature", "top_p", "user", "seed")},
        "input": kind_of((str, list), "a string or a list"),
        "instructions": word, "max_output_tokens": whole(1),
    },
}  # fmt: skip
"""What is read, by the kind of request; other fields are passed over, as engines do."""
NEEDED = {"chat": "messages", "text": "prompt", "response": "input"}
REFUSED: Mapping[str, tuple[str, tuple[Any, ...]]] = {
    "logprobs": ("tokens here have no probabilities", (False, 0)),
    "top_logprobs": ("tokens here have no probabilities", (0,)),
    "prompt_logprobs": ("tokens here have no probabilities", (0,)),
    "tools": ("no tools are called here", ([],)),
    "tool_choice": ("no tools are called here", ("none", "auto")),
    "functions": ("no tools are called here", ([],)),
    "suffix": ("nothing is filled in between", ("",)),
    "chat_template": ("templates of clients are not run", ("",)),
    "continue_final_message": ("an answer begins anew", (False,)),
    "best_of": ("answers are not ranked", (1,)),
    "use_beam_search": ("answers are not ranked", (False,)),
    "echo": ("the prompt is not given back; start with --echo to have it as the answer", (False,)),
    "previous_response_id": ("no conversation is kept", ("",)),
    "background": ("answers are given at once", (False,)),
    "guided_json": ("filler follows no grammar", ()),
    "guided_regex": ("filler follows no grammar", ()),
    "guided_choice": ("filler follows no grammar", ()),
    "guided_grammar": ("filler follows no grammar", ()),
    "structured_outputs": ("filler follows no grammar", ()),
}
"""What would be a lie if it were passed over: why, and the values that ask for nothing."""


def parsed(body: bytes) -> dict[str, Any]:
    """A JSON object. Raises ``Refused``."""
    try:
        found = json.loads(body)
        json.dumps(found, ensure_ascii=False).encode()  # half a character (a lone surrogate) is no text
    except reading.FAULTS as error:
        raise Refused(f"the body is not JSON: {str(error)[:200]}") from None
    if not isinstance(found, dict):
        raise Refused("the body is not a JSON object")
    return found


def checked(body: Mapping[str, Any], fields: Mapping[str, Check]) -> dict[str, Any]:
    """The known ``fields`` of ``body`` that are given (null: not). Raises ``Refused`` that names the field."""
    made = {}
    for name, check in fields.items():
        value = body.get(name)
        if value is not None:
            try:
                made[name] = check(value)
            except ValueError as error:
                raise Refused(f"{name}: {error}", param=name) from None
    return made


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """``text`` is what it says, ``said`` the part that an answer on record or an echo goes by; or token ids.
    ``messages`` and the further ``words`` go through the chat template, where there is one."""

    text: str = ""
    said: str = ""
    ids: tuple[int, ...] = ()
    messages: tuple[Mapping[str, Any], ...] = ()
    words: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One call, whose ``prompts`` have ``n`` answers each."""

    kind: str
    model: str
    prompts: tuple[Prompt, ...]
    n: int
    most: int | None
    least: int
    stop: tuple[str, ...]
    seed: int
    stream: bool
    usage: bool
    """Also tell the tokens that it took at the stream's end,"""
    always: bool
    """and in each part of it."""
    ignore_eos: bool
    marks: bool
    """What the tokenizer puts before and after a text counts."""
    priority: int


def asked(kind: str, body: Mapping[str, Any]) -> Asked:
    """The call in ``body``. Raises ``Refused``."""
    for name, (why, fine) in REFUSED.items():
        value = body.get(name)
        if value is not None and not any(value == each and type(value) is type(each) for each in fine):
            raise Refused(f"{name} is not given: {why}", param=name, code="unsupported_parameter")
    given = checked(body, FIELDS[kind])
    need = NEEDED[kind]
    if need not in given:
        raise Refused(f"{need} is missing", param=need)
    if "model" not in given:
        raise Refused("model is missing", param="model")
    options = given.get("stream_options") or {}
    stream = given.get("stream", False)
    if options and not stream:
        raise Refused("stream_options: only with stream", param="stream_options")
    limits = (given.get(name) for name in ("max_completion_tokens", "max_output_tokens", "max_tokens"))
    most = next((limit for limit in limits if limit is not None), 16 if kind == "text" else None)
    least = given.get("min_tokens", 0)
    if most is not None and least > most:
        raise Refused(f"min_tokens: {least} are more than the {most} allowed", param="min_tokens")
    read = {"chat": _chat, "text": _text, "response": _response}[kind]
    prompts = tuple(read(given))
    if len(prompts) * given.get("n", 1) > MOST_PROMPTS:
        raise Refused(f"n: at most {MOST_PROMPTS:,} answers at once", param="n")
    return Asked(
        kind=kind, model=given["model"], prompts=prompts, n=given.get("n", 1), most=most, least=least,
        stop=tuple(given.get("stop", ())), seed=given.get("seed", 0), stream=stream,
        usage=bool(options.get("include_usage")), always=bool(options.get("continuous_usage_stats")),
        ignore_eos=given.get("ignore_eos", False), marks=given.get("add_special_tokens", kind == "text"),
        priority=given.get("priority", 0),
    )  # fmt: skip


def conversation(messages: Any, where: str, words: Mapping[str, Any]) -> Prompt:
    """Messages, and as one text, each under its role, for models whose chat template is not known."""
    if not messages:
        raise Refused(f"{where}: expected at least one message", param=where)
    parts, last, plain = [], "", []
    for i, message in enumerate(messages):
        if not isinstance(message, dict):
            raise Refused(f"{where}[{i}]: expected an object", param=where)
        role = message.get("role")
        if not isinstance(role, str) or not role:
            raise Refused(f"{where}[{i}].role: expected a string", param=where)
        content = _content(message.get("content"), f"{where}[{i}].content", where)
        parts.append(f"<|{role}|>\n{content}\n")
        plain.append({**message, "content": content})
        if role == "user":
            last = content
    return Prompt(text="".join(parts) + "<|assistant|>\n", said=last, messages=tuple(plain), words=words)


def _content(content: Any, place: str, param: str) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, list):
        raise Refused(f"{place}: expected a string or a list of parts", param=param)
    texts = []
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind not in ("text", "input_text", "output_text") or not isinstance(part.get("text"), str):
            named = f", got {kind}" if isinstance(kind, str) and kind != "text" else ""
            raise Refused(f"{place}: only parts of text are read{named}", param=param)
        texts.append(part["text"])
    return "\n".join(texts)


def _chat(given: Mapping[str, Any]) -> list[Prompt]:
    return [conversation(given["messages"], "messages", template_words(given))]


def template_words(given: Mapping[str, Any]) -> dict[str, Any]:
    """What a call says to the chat template."""
    opens = {"add_generation_prompt": given["add_generation_prompt"]} if "add_generation_prompt" in given else {}
    return {**given.get("chat_template_kwargs", {}), **opens}


def _text(given: Mapping[str, Any]) -> list[Prompt]:
    prompt = given["prompt"]
    if isinstance(prompt, str) or (prompt and all(type(each) is int for each in prompt)):
        prompt = [prompt]
    if not prompt:
        raise Refused("prompt: expected at least one", param="prompt")
    if len(prompt) > MOST_PROMPTS:
        raise Refused(f"prompt: at most {MOST_PROMPTS:,} at once", param="prompt")
    made = []
    for each in prompt:
        if isinstance(each, str):
            made.append(Prompt(text=each, said=each))
        elif isinstance(each, list) and each and all(type(token) is int for token in each):
            if not all(0 <= token < MOST_TOKEN for token in each):
                raise Refused("prompt: there is no such token", param="prompt")
            made.append(Prompt(ids=tuple(each)))
        else:
            raise Refused("prompt: expected strings, or lists of token ids", param="prompt")
    return made


def _response(given: Mapping[str, Any]) -> list[Prompt]:
    listed = given["input"]
    messages = [{"role": "user", "content": listed}] if isinstance(listed, str) else list(listed)
    if given.get("instructions"):
        messages.insert(0, {"role": "system", "content": given["instructions"]})
    return [conversation(messages, "input", {})]
