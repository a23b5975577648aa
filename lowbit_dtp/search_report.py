"""Results of a search: the best settings as an experiment file, and tables of all trials."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .experiment import Comparison, with_settings
from .runs import provenance
from .search import FIRST_SEED, Outcome, Search
from .storage import write_csv, write_json, write_text

BEST, TRIALS, RESULT = "best.toml", "trials.csv", "search.json"
"""Files of a search."""

Found = Mapping[str, Sequence[Outcome]]
"""Finished trials of each rule."""


@dataclass(frozen=True)
class RuleResult:
    """What the search found for one rule."""

    rule: str
    measure: str
    trials: int
    """Trials that have ended."""
    stopped: int
    """How many of them ended before their last epoch: pruned or diverged."""
    epochs: int
    """Epochs trained, all trials and seeds together."""
    trial: int | None
    """Number of the best trial; None if no trial reached its last epoch."""
    score: float | None
    """Its validation score."""
    settings: dict[str, Any]
    """Its settings, of those that were searched."""
    space: dict[str, Any]


def best_of(outcomes: Sequence[Outcome]) -> Outcome | None:
    """The outcome with the lowest score, the first of several; None if there is no score."""
    scored = [outcome for outcome in outcomes if outcome.score is not None]
    return min(scored, key=lambda outcome: outcome.score or 0.0) if scored else None


def results(search: Search, found: Found) -> list[RuleResult]:
    """A row for each rule."""
    rows = []
    for rule, outcomes in found.items():
        best = best_of(outcomes)
        rows.append(
            RuleResult(
                rule=rule,
                measure=search.experiments(rule, {})[0].learned_task().measure,
                trials=len(outcomes),
                stopped=sum(outcome.score is None for outcome in outcomes),
                epochs=search.seeds * sum(len(outcome.curve) for outcome in outcomes),
                trial=best.number if best else None,
                score=best.score if best else None,
                settings=best.settings if best else {},
                space={name: values.as_dict() for name, values in search.spaces[rule].items()},
            )
        )
    return rows


def best_comparison(search: Search, found: Found) -> Comparison:
    """The comparison of the rules of `search`, each with its best settings; as given where no trial came to an end."""
    comparison, rules = search.comparison, []
    for rule, outcomes in found.items():
        best = best_of(outcomes)
        comparison, spec = with_settings(comparison, rule, best.settings if best else {})
        rules.append(spec)
    return Comparison(comparison.content | {"compare": rules}, comparison.sources, comparison.base)


def write_results(folder: Path, search: Search, found: Found, where: str) -> list[RuleResult]:
    """Write the files of a search whose trials are kept at `where`, and return the row of each rule."""
    rows = results(search, found)
    write_text(folder / BEST, _best_toml(search, found, rows))
    write_csv(folder / TRIALS, _table(search, found))
    content = {
        "budget": {"trials": search.trials, "epochs": search.epochs, "seeds": search.seeds},
        "sampler": search.sampler, "pruner": search.pruner, "seed": search.seed, "storage": where,
        "rules": [asdict(row) for row in rows], "experiment": search.comparison.content,
    }  # fmt: skip
    write_json(folder / RESULT, content | provenance())
    return rows


def _best_toml(search: Search, found: Found, rows: Sequence[RuleResult]) -> str:
    """An experiment file: what differs from the one that the search began with, and the tables of the rules."""
    import tomli_w

    comparison = best_comparison(search, found)
    content, before = comparison.content, Comparison.load(search.comparison.base).content
    tables = content["rules"]
    own = [name for spec in comparison.rules for name in (spec.partition("@")[0], spec) if name in tables]
    kept = {key: value for key, value in content.items() if key not in ("data", "search", "rules", "compare")}
    kept = {key: value for key, value in kept.items() if value != before.get(key)}
    runs = f"the mean of {search.seeds} run(s) of {search.epochs} epochs with seeds from {FIRST_SEED}"
    header = [
        f"# Settings of rules: for each, the best of {search.trials} trials by validation score,",
        f"# {runs}. Sampler: {search.sampler}, seed {search.seed}; pruner: {search.pruner}.",
        *(f"# {row.rule}: {'no trial came to an end' if row.score is None else f'{row.score:.4g}'}" for row in rows),
    ]
    body = {"data": comparison.base, **kept, "compare": comparison.rules, "rules": {name: tables[name] for name in own}}
    return "\n".join(header) + "\n" + tomli_w.dumps(body)


def _table(search: Search, found: Found) -> list[dict[str, Any]]:
    """A line for each trial, with a column for each setting of any rule."""
    names = list(dict.fromkeys(name for space in search.spaces.values() for name in space))
    lines = []
    for rule, outcomes in found.items():
        for outcome in outcomes:
            line = {
                "rule": rule, "trial": outcome.number, "valid_score": outcome.score, "epochs": len(outcome.curve),
                "seconds": outcome.seconds, "note": outcome.note,
            }  # fmt: skip
            lines.append(line | {name: outcome.settings.get(name) for name in names})
    return lines
