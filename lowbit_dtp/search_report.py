"""Results of a search: the best settings as an experiment file, a table of all trials, and a page."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .curves import STYLE
from .experiment import Comparison, with_settings
from .report import filled, inline_svg, share, shown
from .runs import provenance
from .search import FIRST_SEED, Outcome, Place, Search, importances
from .search_figures import history_figure, importance_figure, settings_figure
from .spaces import Space
from .storage import write_csv, write_json, write_text
from .tasks import MEASURES

BEST, TRIALS, RESULT, PAGE = "best.toml", "trials.csv", "search.json", "search.html"
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


def write_results(folder: Path, search: Search, place: Place, found: Found) -> list[RuleResult]:
    """Write the files of a search whose trials are kept at `place`, and return the row of each rule."""
    rows, made = results(search, found), provenance()
    if "://" in place.storage:
        made["command"] = made["command"].replace(place.storage, place.shown)  # without a password
    content = {
        "budget": {"trials": search.trials, "epochs": search.epochs, "seeds": search.seeds},
        "sampler": search.sampler, "pruner": search.pruner, "seed": search.seed, "storage": place.shown,
        "rules": [asdict(row) for row in rows], "importances": importances(search, place),
        "experiment": search.comparison.content,
    }  # fmt: skip
    write_text(folder / BEST, _best_toml(search, found, rows))
    write_csv(folder / TRIALS, _table(search, found))
    write_json(folder / RESULT, content | made)
    write_text(folder / PAGE, _page(search, found, rows, content | made))
    return rows


def _page(search: Search, found: Found, rows: Sequence[RuleResult], content: Mapping[str, Any]) -> str:
    """The page of a search."""
    from matplotlib import style

    axes = {row.rule: f"validation {MEASURES[row.measure]}" + " %" * row.measure.endswith("percent") for row in rows}
    with style.context(["default", STYLE]):
        scores = "; ".join(f"{row.rule} {_score(row)}" for row in rows)
        history = inline_svg(
            history_figure(found, " / ".join(dict.fromkeys(axes.values()))), "history", "Best score by trials", scores
        )
        shares, importance = content["importances"], None
        if shares:
            words = "; ".join(
                f"{rule}: " + ", ".join(f"{name} {share(part)}" for name, part in of.items())
                for rule, of in shares.items()
            )
            importance = inline_svg(importance_figure(shares), "importance", "Importance of settings", words)
        drawn = []
        for i, row in enumerate(rows):
            outcomes, space = found[row.rule], search.spaces[row.rule]
            svg = row.score is not None and inline_svg(
                settings_figure(outcomes, space, axes[row.rule]), f"settings-{i}",
                f"{row.rule}: score over each setting", f"A point for each trial; numbers are in {TRIALS}.",
            )  # fmt: skip
            notes = Counter(outcome.note for outcome in outcomes if outcome.note)
            drawn.append({"rule": row.rule, "svg": svg, "columns": min(3, len(space)), "notes": notes})
    facts = {name: content[name] for name in ("sampler", "pruner", "seed", "storage", "command")}
    experiment = search.comparison.content
    facts |= {name: experiment[name] for name in ("data", "batch", "activation")}
    facts["sizes"] = "-".join(map(str, experiment["sizes"]))
    facts["space"] = "; ".join(f"{row.rule}: {_in_words(search.spaces[row.rule])}" for row in rows)
    table = [
        {**asdict(row), "score": _score(row), "settings": [f"{name} = {value}" for name, value in row.settings.items()]}
        for row in rows
    ]
    page = {
        "name": f"Search: {Path(search.comparison.base).name}", **content["budget"], "best": BEST, "table": TRIALS,
        "rows": table, "missing": sum(search.trials - row.trials for row in rows), "history": history,
        "importance": importance, "drawn": drawn, "facts": facts,
    }  # fmt: skip
    return filled("search.html.jinja", page)


def _score(row: RuleResult) -> str:
    return "none" if row.score is None else shown(row.score, row.measure)


def _in_words(space: Space) -> str:
    return ", ".join(
        f"{name} one of {', '.join(map(str, values.choices))}" if values.choices
        else f"{name} {values.low:g} to {values.high:g}" + ", logarithmic" * values.log
        for name, values in space.items()
    )  # fmt: skip


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
