"""`lowbit-dtp rules`."""

import json
from typing import TYPE_CHECKING, Any

from .options import Json
from .printing import print_facts

if TYPE_CHECKING:
    from ..rules import LearningRule


def rules(as_json: Json = False) -> None:
    """List the learning rules, with their tasks, the traffic on links, and the source.

    [bold]Example[/bold]: lowbit-dtp rules --json
    """
    from ..rules import RULES

    rows = [{"name": name, **described(kind)} for name, kind in RULES.items()]
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    columns = ("description", "learns to", "what crosses", "source")
    lines = [(row["description"], ", ".join(row["tasks"]), row["crosses"], row["source"]) for row in rows]
    for row, line in zip(rows, lines, strict=True):
        print(row["name"])
        print_facts(columns, line)


def described(kind: "type[LearningRule]") -> dict[str, Any]:
    """Description, tasks, traffic and source of a rule, from its class."""
    return {
        "description": (kind.__doc__ or "").split("\n")[0],
        "tasks": list(getattr(kind, "tasks", ("classify",))),
        "crosses": getattr(kind, "crosses", ""),
        "source": getattr(kind, "source", ""),
    }
