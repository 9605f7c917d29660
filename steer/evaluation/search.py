"""Search a grid for its strongest cells: score them in steps, the likeliest ones on all texts.

Most of many layers have little effect within a budget; three coefficients on some of the texts show
which (`steer.measures.grids.pilot`). The cells of the other rows are scored by elimination
(`steer.evaluation.bench.run`), and the best rows then get finer coefficients.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any

from steer.base.journal import Journal
from steer.base.progress import Progress, silent
from steer.evaluation.bench import Bench, acting_rows, journal, run
from steer.evaluation.data import Warn
from steer.measures.elimination import looks, n_looks
from steer.measures.grids import Grid, Scores, finer, join_scores, pilot, promising_rows
from steer.measures.heat import heat_map


@dataclass
class GridSearch:
    """The search of a grid, and what it left out.

    max_kl: the budget, in nats per token. eliminates: whether rows and cells that cannot be the
    strongest within it are dropped. refines: whether the best rows get finer coefficients.
    first_look: whether many rows are compared on some texts first. resumable: whether journals keep
    the scores.

    After `run`, left_out has the names of the rows that were dropped after a first look, and idle
    those of the rows that change no scored token.
    """

    texts: Bench
    max_kl: float
    eliminates: bool = True
    refines: bool = True
    first_look: bool = True
    resumable: bool = True
    progress: Progress = silent
    note: Warn = lambda text: None
    left_out: tuple[str, ...] = ()
    idle: list[str] = field(default_factory=list)
    _journals: list[Journal] = field(default_factory=list)

    def run(self, grid: Grid) -> tuple[Grid, Scores]:
        """The rows that were scored, with finer ones at the end, and their scores.

        Raises:
            IdleError: no row changes a scored token.
        """
        if self.eliminates and self.first_look:
            grid = self._promising(grid)
        grid, scores = self._scored(grid)
        more = finer(grid, scores, self.max_kl) if self.refines else None
        if more is not None:
            more, second = self._scored(more)
            grid, scores = Grid(grid.rows + more.rows), join_scores(scores, second)
        return grid, scores

    def finish(self) -> None:
        """Remove the journals, once the result is stored."""
        for each in self._journals:
            each.finish()

    def _promising(self, grid: Grid) -> Grid:
        """The promising rows of a grid with many."""
        pilot_grid = pilot(grid)
        if pilot_grid is None:
            return grid
        n_texts = self.texts.n_items, len(self.texts.unrelated)
        n = n_looks(min(n_texts))
        items, unrelated = (looks(size, n)[0] for size in n_texts)
        scores, rows = self._score(pilot_grid, self.texts.part(items, unrelated), max_kl=None)
        grid = grid.part(rows)
        kept = promising_rows(scores.part(rows), self.max_kl)
        names = grid.labels()
        self.left_out = tuple(name for index, name in enumerate(names) if index not in kept)
        if self.left_out:
            going_on = ", ".join(names[row] for row in kept)
            self.note(f"{len(kept)} of {len(names)} rows go on: {going_on}")
        return grid.part(kept)

    def _scored(self, grid: Grid) -> tuple[Grid, Scores]:
        """The rows that change a scored token, and their scores."""
        max_kl = self.max_kl if self.eliminates else None
        scores, rows = self._score(grid, self.texts, max_kl=max_kl)
        return grid.part(rows), scores.part(rows)

    def _score(self, grid: Grid, texts: Bench, *, max_kl: float | None) -> tuple[Scores, list[int]]:
        """The scores of a grid, and the indices of the rows that change a scored token."""
        done = journal(texts.model, grid, texts) if self.resumable else Journal(None)
        self._journals.append(done)
        if len(done):
            self.note("resuming an interrupted sweep")
        scores: Scores | None = None
        n_cells, share_done = len(grid.rows) * grid.n_columns, 0.0
        with self.progress("scoring", n_cells) as advance:

            def on_progress(activity: str, share: float) -> None:
                nonlocal share_done
                picture = partial(_picture, grid, scores, self.max_kl)
                advance((share - share_done) * n_cells, activity, picture)
                share_done = share

            for so_far in run(texts, grid, done, on_progress, max_kl):
                scores = so_far
        assert scores is not None
        rows, names = acting_rows(grid, scores), grid.labels()
        for row in sorted(scores.idle):
            self.note(f"{names[row]} is left out: nothing changes there in what is scored")
            self.idle.append(names[row])
        return scores, rows


def _picture(grid: Grid, scores: Scores | None, max_kl: float, width: int) -> Any:
    return heat_map(grid, scores, max_kl, width=width)
