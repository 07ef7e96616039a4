"""Chat, completions and responses through the openai package: what they say, and how long tokens take."""

import asyncio
import json
import sys
import time

import openai

URL = sys.argv[1]
MODEL = "qwen3-32b"


def refused(kind, status, code, call):
    found = None
    try:
        call()
    except kind as error:
        found = error.status_code, error.code
    assert found == (status, code), found


def talk(client):
    """What is refused is refused in the package's own classes."""
    assert [model.id for model in client.models.list()] == [MODEL]
    hello = [{"role": "user", "content": "Hello"}]
    refused(openai.NotFoundError, 404, "model_not_found",
            lambda: client.chat.completions.create(model="gpt-9", messages=hello))  # fmt: skip
    refused(openai.BadRequestError, 400, "context_length_exceeded",
            lambda: client.chat.completions.create(model=MODEL, messages=hello, max_tokens=10**6))  # fmt: skip
    tools = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
    refused(openai.BadRequestError, 400, "unsupported_parameter",
            lambda: client.chat.completions.create(model=MODEL, messages=hello, tools=tools))  # fmt: skip
    wrong = openai.OpenAI(base_url=f"{URL}/v1", api_key="wrong", max_retries=0)
    refused(openai.AuthenticationError, 401, "invalid_api_key", wrong.models.list)


async def stream(client, tokens):
    """(time to first token, mean time per later token) of one stream."""
    began = time.perf_counter()
    times, last = [], None
    answer = await client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": f"Tell me of {tokens} things"}], max_tokens=tokens,
        stream=True, stream_options={"include_usage": True},
    )  # fmt: skip
    async for part in answer:
        if part.choices and part.choices[0].delta.content:
            times.append(time.perf_counter())
        last = part
    assert last.usage.completion_tokens == len(times) == tokens
    return times[0] - began, (times[-1] - times[0]) / (tokens - 1)


async def main():
    client = openai.AsyncOpenAI(base_url=f"{URL}/v1", api_key="sesame", max_retries=0)
    await stream(client, 2)  # connections, imports
    seen = []
    for _ in range(2):
        seen += await asyncio.gather(*(stream(client, 50 + 5 * i) for i in range(6)))
    text = await client.completions.create(model=MODEL, prompt=["a", "b"], max_tokens=2)
    assert [len(choice.text.split()) for choice in text.choices] == [2, 2]
    said = await client.responses.create(model=MODEL, input="Hello", max_output_tokens=2)
    assert len(said.output_text.split()) == 2
    parts = [
        part async for part in await client.responses.create(model=MODEL, input="Hi", max_output_tokens=2, stream=True)
    ]
    assert parts[-1].response.output_text == "".join(p.delta for p in parts if p.type == "response.output_text.delta")
    count = len(seen)
    print(json.dumps({"requests": count, "ttft_s": sum(t for t, _ in seen) / count,
                      "tpot_s": sum(t for _, t in seen) / count}))  # fmt: skip


talk(openai.OpenAI(base_url=f"{URL}/v1", api_key="sesame", max_retries=0))
asyncio.run(main())
