"""What other programs' clients get from a server: `python clients.py CLIENT URL MODEL ALIAS`.

Run by `test_clients.py`, with a Python that has the client. Prints JSON: the client's greedy text
of the model, the same streamed, and that of the alias, which is steered; exit status 3 if the
client is not installed.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Callable
from typing import Any

TEXT, QUESTION, MOST = "One day", "Tell me a story.", 12
Texts = dict[str, Any]
#: Client by name: (URL, model, alias) -> texts.
CLIENTS: dict[str, Callable[[str, str, str], Texts]] = {}


def client(function: Callable[[str, str, str], Texts]) -> Callable[[str, str, str], Texts]:
    CLIENTS[function.__name__] = function
    return function


@client
def openai(url: str, model: str, alias: str) -> Texts:
    import openai

    api = openai.OpenAI(base_url=f"{url}/v1", api_key="none")
    assert {model, alias} <= {entry.id for entry in api.models.list()}
    assert api.models.retrieve(alias).id == alias
    common: dict[str, Any] = {"temperature": 0, "max_tokens": MOST}
    complete, chat = api.completions.create, api.chat.completions.create
    messages: list[Any] = [{"role": "user", "content": QUESTION}]
    steered = chat(model=alias, messages=messages, **common)
    by_field = chat(
        model=model, messages=messages, **common, extra_body={"steer": alias.partition(":")[2]}
    )
    assert steered.choices[0].message.content == by_field.choices[0].message.content
    pieces = [
        chunk.choices[0].delta.content or ""
        for chunk in chat(model=model, messages=messages, stream=True, **common)
    ]
    chunks = complete(model=model, prompt=TEXT, stream=True, logprobs=2, **common)
    return {
        "plain": complete(model=model, prompt=TEXT, **common).choices[0].text,
        "streamed": "".join(chunk.choices[0].text for chunk in chunks),
        "steered": complete(model=alias, prompt=TEXT, **common).choices[0].text,
        "chat": chat(model=model, messages=messages, **common).choices[0].message.content,
        "chat_streamed": "".join(pieces),
        "chat_steered": steered.choices[0].message.content,
    }


@client
def langchain(url: str, model: str, alias: str) -> Texts:
    from langchain_openai import ChatOpenAI, OpenAI

    def both(name: str) -> tuple[Any, Any]:
        common: dict[str, Any] = {"temperature": 0, "max_tokens": MOST, "model": name}
        place: dict[str, Any] = {"base_url": f"{url}/v1", "api_key": "none"}
        return OpenAI(**common, **place), ChatOpenAI(**common, **place)

    (text, chat), (steered, chat_steered) = both(model), both(alias)
    batch = chat.batch([QUESTION, QUESTION])
    assert batch[0].content == batch[1].content
    return {
        "plain": text.invoke(TEXT),
        "streamed": "".join(text.stream(TEXT)),
        "steered": steered.invoke(TEXT),
        "chat": chat.invoke(QUESTION).content,
        "chat_streamed": "".join(piece.content for piece in chat.stream(QUESTION)),
        "chat_steered": chat_steered.invoke(QUESTION).content,
    }


@client
def llama_index(url: str, model: str, alias: str) -> Texts:
    from llama_index.core.llms import ChatMessage
    from llama_index.llms.openai_like import OpenAILike

    def llm(name: str, *, chats: bool) -> Any:
        place: dict[str, Any] = {"api_base": f"{url}/v1", "api_key": "none"}
        return OpenAILike(**place, model=name, is_chat_model=chats, temperature=0, max_tokens=MOST)

    messages = [ChatMessage(role="user", content=QUESTION)]
    text, chat = llm(model, chats=False), llm(model, chats=True)
    return {
        "plain": text.complete(TEXT).text,
        "streamed": "".join(piece.delta for piece in text.stream_complete(TEXT)),
        "steered": llm(alias, chats=False).complete(TEXT).text,
        "chat": chat.chat(messages).message.content,
        "chat_streamed": "".join(piece.delta or "" for piece in chat.stream_chat(messages)),
        "chat_steered": llm(alias, chats=True).chat(messages).message.content,
    }


@client
def lm_eval(url: str, model: str, alias: str) -> Texts:
    from lm_eval.api.instance import Instance
    from lm_eval.models.openai_completions import LocalCompletionsAPI

    def texts(name: str) -> tuple[str, list[tuple[float, bool]]]:
        llm = LocalCompletionsAPI(
            base_url=f"{url}/v1/completions",
            model=name,
            tokenizer_backend="remote",
            max_retries=1,
            num_concurrent=1,
        )
        until = {"until": [], "max_gen_toks": MOST, "temperature": 0}
        generated = llm.generate_until([Instance("generate_until", {}, (TEXT, until), 0)])
        scored = [(TEXT, " Mara woke up."), (TEXT, " qqq")]
        pairs = [Instance("loglikelihood", {}, pair, 0) for pair in scored]
        return generated[0], llm.loglikelihood(pairs)

    (plain, scores), (steered, steered_scores) = texts(model), texts(alias)
    assert scores[0][0] > scores[1][0]
    assert scores != steered_scores
    # It sends token ids, without the token that begins texts.
    return {"bare": plain, "bare_steered": steered}


@client
def inspect_ai(url: str, model: str, alias: str) -> Texts:
    import tempfile

    from inspect_ai import Task
    from inspect_ai import eval as evaluate
    from inspect_ai.dataset import Sample
    from inspect_ai.model import GenerateConfig, get_model
    from inspect_ai.scorer import includes

    os.environ["INSPECT_TRACE_FILE"] = f"{tempfile.mkdtemp()}/trace.log"
    config = GenerateConfig(temperature=0, max_tokens=MOST, logprobs=True, top_logprobs=2, seed=1)

    def llm(name: str) -> Any:
        return get_model(
            f"openai-api/steer/{name}", base_url=f"{url}/v1", api_key="none", config=config
        )

    async def answers() -> list[str]:
        return [(await llm(name).generate(QUESTION)).completion for name in (model, alias)]

    chat, steered = asyncio.run(answers())
    (log,) = evaluate(
        Task(dataset=[Sample(QUESTION, target=steered[:5])], scorer=includes()),
        model=llm(alias),
        display="none",
        log_dir=tempfile.mkdtemp(),
    )
    assert log.status == "success", log.error
    assert log.results is not None
    assert log.results.scores[0].metrics["accuracy"].value == 1
    return {"chat": chat, "chat_steered": steered}


@client
def ollama(url: str, model: str, alias: str) -> Texts:
    import ollama

    api = ollama.Client(host=url)
    assert alias in [model.model for model in api.list().models]
    options = {"num_predict": MOST, "temperature": 0}
    messages = [{"role": "user", "content": QUESTION}]
    raw: dict[str, Any] = {"prompt": TEXT, "raw": True, "options": options}
    pieces = api.generate(model=model, stream=True, **raw)
    chunks = api.chat(model=model, messages=messages, options=options, stream=True)
    return {
        "plain": api.generate(model=model, **raw).response,
        "streamed": "".join(piece.response for piece in pieces),
        "steered": api.generate(model=alias, **raw).response,
        "chat": api.chat(model=model, messages=messages, options=options).message.content,
        "chat_streamed": "".join(piece.message.content for piece in chunks),
        "chat_steered": api.chat(model=alias, messages=messages, options=options).message.content,
    }


if __name__ == "__main__":
    name, *rest = sys.argv[1:]
    try:
        result = CLIENTS[name](*rest)
    except ModuleNotFoundError:
        raise SystemExit(3) from None
    sys.stdout.write(json.dumps(result) + "\n")
