"""`lowbit-dtp report`."""

from .options import Json, Run
from .printing import print_result


def report(run: Run, as_json: Json = False) -> None:
    """Write the page of a comparison again, `RUN/report.html`.

    [bold]Example[/bold]: lowbit-dtp report runs/demo
    """
    from ..report import write_report

    print_result({"report": str(write_report(run))}, as_json)
