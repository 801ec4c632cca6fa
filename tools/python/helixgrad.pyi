"""DNABERT and its relatives, trained by Helixgrad or Hugging Face: vectors, predictions and variants."""

import os
from collections.abc import Sequence
from typing import Literal, TypedDict, Union, final

import numpy
from numpy.typing import NDArray

__version__: str

Path = Union[str, "os.PathLike[str]"]
Variant = Union[str, tuple[str, int, str, str]]

class Changes(TypedDict):
    """What variants do: a row for each allele and strand, or gene."""

    variant: NDArray[numpy.int64]
    allele: list[str]
    gene: list[Union[str, None]]
    strand: list[str]
    scores: NDArray[numpy.float64]
    offsets: NDArray[numpy.float64]
    skipped: list[tuple[int, str, str]]

@final
class Model:
    """A model in memory; `load` makes it. Threads may share it."""

    @property
    def labels(self) -> list[str]:
        """Names of the classes, or of the numbers of a regression; none of a model without a classifier."""
    @property
    def task(self) -> Union[Literal["single-label", "multi-label", "regression"], None]:
        """What `predict` answers with; None of a model without a classifier."""
    @property
    def columns(self) -> int:
        """Width of a vector."""
    @property
    def layers(self) -> int:
        """Layers of the encoder."""
    def embed(
        self, sequences: Union[Sequence[str], Path], *, pool: Literal["mean", "cls"] = "mean", layer: int = -1
    ) -> NDArray[numpy.float32]:
        """A vector for each sequence, `[sequences, columns]`."""
    def predict(self, sequences: Union[Sequence[Union[str, tuple[str, str]]], Path]) -> NDArray[numpy.float64]:
        """Class probabilities, or numbers, of each sequence or pair, `[sequences, labels]`."""
    def variants(self, variants: Sequence[Variant]) -> Changes:
        """What variants do to splice sites."""

def load(
    path: Path,
    *,
    genome: Union[Path, None] = None,
    annotation: Union[Path, None] = None,
    distance: int = 50,
    window: Union[int, None] = None,
    rc: bool = False,
    threads: Union[int, None] = None,
) -> Model:
    """Reads a model: a run's folder, a checkpoint, a Hugging Face directory."""
