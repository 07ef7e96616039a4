"""The answer in the words of the API that was asked: whole, or in parts as server-sent events."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

DONE = b"data: [DONE]\n\n"


def usage(prompt: int, answer: int, cached: int) -> dict[str, Any]:
    """Tokens that a call took."""
    return {
        "prompt_tokens": prompt,
        "completion_tokens": answer,
        "total_tokens": prompt + answer,
        "prompt_tokens_details": {"cached_tokens": cached},
    }


def event(value: Any, name: str = "") -> bytes:
    """One server-sent event."""
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {json.dumps(value)}\n\n".encode()


class Chat:
    """/v1/chat/completions."""

    plain = True
    """Parts differ in their text alone."""
    ids, whole_kind, part_kind = "chatcmpl", "chat.completion", "chat.completion.chunk"
    opened = '"delta":{"content":"'
    closed = b'"},"logprobs":null,"finish_reason":null}]}\n\n'

    def __init__(self, number: str, created: int, model: str, choices: int) -> None:
        self.id = f"{self.ids}-{number}"
        self.created, self.model = created, model
        fixed = json.dumps({"id": self.id, "object": self.part_kind, "created": created, "model": model})[:-1]
        self._fixed = fixed
        self._heads = [f'data: {fixed}, "choices":[{{"index":{i},{self.opened}'.encode() for i in range(choices)]

    def around(self, choice: int) -> tuple[bytes, bytes]:
        """What stands before and after the text of a part that says nothing else."""
        return self._heads[choice], self.closed

    def start(self) -> bytes:
        """Before anything else."""
        return b""

    def lead(self, choice: int) -> bytes:
        """Before the first token of a choice."""
        delta = {"index": choice, "delta": {"role": "assistant", "content": ""}, "logprobs": None,
                 "finish_reason": None}  # fmt: skip
        return f'data: {self._fixed}, "choices":{json.dumps([delta])}}}\n\n'.encode()

    def part(self, choice: int, text: bytes, why: str | None, took: dict[str, Any] | None) -> bytes:
        """Some tokens (escaped); ``why`` a choice ends with them, ``took`` what it has used up to here."""
        if why is None and took is None:
            return self._heads[choice] + text + self.closed
        reason = json.dumps(why)
        used = f',"usage":{json.dumps(took)}' if took is not None else ""
        return self._heads[choice] + text + f'"}},"logprobs":null,"finish_reason":{reason}}}]{used}}}\n\n'.encode()

    def end(self, took: dict[str, Any] | None) -> bytes:
        """After everything else; ``took`` in a part of its own where it was asked for."""
        last = b"" if took is None else f'data: {self._fixed}, "choices":[],"usage":{json.dumps(took)}}}\n\n'.encode()
        return last + DONE

    def choice(self, i: int, text: str, why: str) -> dict[str, Any]:
        """One of a whole answer."""
        message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None, "tool_calls": []}
        return {"index": i, "message": message, "logprobs": None, "finish_reason": why, "stop_reason": None}

    def whole(self, said: Sequence[tuple[str, str]], took: dict[str, Any]) -> dict[str, Any]:
        """All of it: text and why it ends, by choice."""
        choices = [self.choice(i, text, why) for i, (text, why) in enumerate(said)]
        return {
            "id": self.id, "object": self.whole_kind, "created": self.created, "model": self.model,
            "choices": choices, "usage": took,
        }  # fmt: skip


class Text(Chat):
    """/v1/completions."""

    ids, whole_kind, part_kind = "cmpl", "text_completion", "text_completion"
    opened = '"text":"'
    closed = b'","logprobs":null,"finish_reason":null}]}\n\n'

    def lead(self, choice: int) -> bytes:
        """Nothing is said of roles."""
        return b""

    def part(self, choice: int, text: bytes, why: str | None, took: dict[str, Any] | None) -> bytes:
        """See ``Chat``."""
        if why is None and took is None:
            return self._heads[choice] + text + self.closed
        used = f',"usage":{json.dumps(took)}' if took is not None else ""
        return (
            self._heads[choice] + text + f'","logprobs":null,"finish_reason":{json.dumps(why)}}}]{used}}}\n\n'.encode()
        )

    def choice(self, i: int, text: str, why: str) -> dict[str, Any]:
        """See ``Chat``."""
        return {"index": i, "text": text, "logprobs": None, "finish_reason": why, "stop_reason": None}


class Response(Chat):
    """/v1/responses: one answer, told in events that are counted."""

    ids = "resp"
    plain = False

    def __init__(self, number: str, created: int, model: str, choices: int) -> None:
        super().__init__(number, created, model, choices)
        self._item = f"msg-{number}"
        self._count = 0
        self._said: list[bytes] = []
        self._why = "stop"

    def _event(self, kind: str, **fields: Any) -> bytes:
        self._count += 1
        return event({"type": kind, "sequence_number": self._count - 1, **fields}, kind)

    def _message(self, text: str | None, status: str) -> dict[str, Any]:
        content = [] if text is None else [self._content(text)]
        return {"id": self._item, "type": "message", "role": "assistant", "status": status, "content": content}

    @staticmethod
    def _content(text: str) -> dict[str, Any]:
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}

    def _response(self, output: list[Any], took: dict[str, Any] | None, why: str | None = None) -> dict[str, Any]:
        short = why == "length"
        status = "in_progress" if why is None else "incomplete" if short else "completed"
        used = None if took is None else {
            "input_tokens": took["prompt_tokens"], "output_tokens": took["completion_tokens"],
            "total_tokens": took["total_tokens"], "input_tokens_details": took["prompt_tokens_details"],
            "output_tokens_details": {"reasoning_tokens": 0},
        }  # fmt: skip
        return {
            "id": self.id, "object": "response", "created_at": self.created, "model": self.model, "status": status,
            "error": None, "incomplete_details": {"reason": "max_output_tokens"} if short else None, "output": output,
            "instructions": None, "metadata": {}, "parallel_tool_calls": False, "tool_choice": "none", "tools": [],
            "temperature": None, "top_p": None, "usage": used,
        }  # fmt: skip

    def start(self) -> bytes:
        """See ``Chat``."""
        begun = self._response([], None)
        return self._event("response.created", response=begun) + self._event("response.in_progress", response=begun)

    def lead(self, choice: int) -> bytes:
        """See ``Chat``."""
        place = {"output_index": 0}
        added = self._event("response.output_item.added", item=self._message(None, "in_progress"), **place)
        return added + self._event(
            "response.content_part.added", item_id=self._item, content_index=0, part=self._content(""), **place
        )

    def part(self, choice: int, text: bytes, why: str | None, took: dict[str, Any] | None) -> bytes:
        """See ``Chat``."""
        self._said.append(text)
        self._why = why or self._why
        piece = json.loads(b'"%b"' % text)
        return self._event(
            "response.output_text.delta", item_id=self._item, output_index=0, content_index=0, delta=piece, logprobs=[]
        )

    def end(self, took: dict[str, Any] | None) -> bytes:
        """See ``Chat``; there is no mark of the end but the last event."""
        text = json.loads(b'"%b"' % b"".join(self._said))
        place = {"item_id": self._item, "output_index": 0, "content_index": 0}
        message = self._message(text, "incomplete" if self._why == "length" else "completed")
        last = self._response([message], took, self._why)
        return b"".join((
            self._event("response.output_text.done", text=text, logprobs=[], **place),
            self._event("response.content_part.done", part=self._content(text), **place),
            self._event("response.output_item.done", output_index=0, item=message),
            self._event(f"response.{last['status']}", response=last),
        ))  # fmt: skip

    def whole(self, said: Sequence[tuple[str, str]], took: dict[str, Any]) -> dict[str, Any]:
        """See ``Chat``."""
        ((text, why),) = said
        return self._response([self._message(text, "incomplete" if why == "length" else "completed")], took, why)


FORMS = {"chat": Chat, "text": Text, "response": Response}
