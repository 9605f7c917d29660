"""Texts generated under a vector at several strengths, side by side, to choose by eye."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from steer.base.progress import Progress, silent
from steer.generate.apply import Sampling
from steer.generate.mixed import continue_mixed
from steer.measures.tables import in_console, in_notebook
from steer.models.model import Model
from steer.steering.operation import Coefficient
from steer.steering.spec import SteerSpec
from steer.steering.steers import resolve
from steer.vectors.provenance import Read
from steer.vectors.vector import SteeringVector

#: Multiples of the recommended strength: its opposite, None for unsteered, and three positive ones.
STRENGTHS = (-1.0, None, 0.5, 1.0, 1.5)
#: Prompts for a base model, and the tokens of each text.
OPENINGS = ("One day", "The house", "He said that")
TOKENS = 40


@dataclass(frozen=True, slots=True)
class Sample:
    """Texts at one strength. spec: how `-v` writes it; None is unsteered."""

    spec: SteerSpec | None
    texts: tuple[str, ...]


@dataclass(frozen=True)
class SampledVector:
    """A vector with texts that the model generates under it. vector: recommends the calibrated
    strength. described: one line about the model. prompts: the prompts that the texts continue.
    """

    vector: SteeringVector
    described: str
    prompts: tuple[str, ...]
    samples: tuple[Sample, ...]

    def named(self, reference: str) -> SampledVector:
        """The same, with specs that name the vector so."""
        renamed = (
            replace(
                sample,
                spec=None if sample.spec is None else replace(sample.spec, reference=reference),
            )
            for sample in self.samples
        )
        return replace(self, samples=tuple(renamed))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON: the recommendation and the samples."""
        recommended = self.vector.metadata.recommended
        return {
            "name": self.vector.name,
            "model": self.vector.metadata.model.id,
            "layers": list(recommended.layers),
            "coefficient": recommended.coefficient,
            "evidence": recommended.evidence,
            "prompts": list(self.prompts),
            "samples": [
                {
                    "steer": None if sample.spec is None else str(sample.spec),
                    "texts": list(sample.texts),
                }
                for sample in self.samples
            ],
        }

    def view(self) -> Iterator[str]:
        """The samples as lines of text."""
        for sample in self.samples:
            yield "unsteered" if sample.spec is None else f"-v {sample.spec}"
            for prompt, text in zip(self.prompts, sample.texts, strict=True):
                yield f"  {prompt} → {' '.join(text.split())}"
            yield ""

    def __rich_console__(self, console: Any, options: Any) -> Iterator[Any]:
        yield from in_console(self.view())

    def _repr_html_(self) -> str:
        return in_notebook(self)


def samples_of(
    model: Model, vector: SteeringVector, prompts: Sequence[str], progress: Progress = silent
) -> tuple[Sample, ...]:
    """Texts under a vector, at each of `STRENGTHS`, greedy.

    Raises:
        HookError: the vector was never applied.
    """
    read = vector.metadata.read
    texts = list(prompts)
    if read.chat is True:
        system = read.system if isinstance(read, Read) and isinstance(read.system, str) else None
        texts = [model.chat(prompt, system) for prompt in prompts]
    specs = [
        None if strength is None else SteerSpec(vector.name, _amount(strength))
        for strength in STRENGTHS
    ]
    cells = [[] if spec is None else [resolve(spec, vector)] for spec in specs]
    beginnings = [(model.encode(text, special=read.chat is not True), 0) for text in texts]
    steerings = [steers for steers in cells for _ in texts]
    sampling = Sampling(max_tokens=TOKENS, temperature=0.0, batch_size=len(steerings))
    with progress("writing samples", len(steerings)) as advance:
        new = continue_mixed(model, beginnings * len(cells), steerings, sampling, advance)
    written = iter(map(model.decode, new))
    return tuple(Sample(spec, tuple(next(written) for _ in texts)) for spec in specs)


def _amount(strength: float) -> Coefficient | None:
    """The coefficient to type after the vector's name; empty for the recommended one."""
    return None if strength == 1 else Coefficient(strength)
