"""`lowbit-dtp report`."""

from .options import TECHNOLOGIES, DataDir, Json, Run, Technologies, technologies
from .printing import print_result


def report(run: Run, technology: Technologies = TECHNOLOGIES, data_dir: DataDir = None, as_json: Json = False) -> None:
    """Write the page of a comparison again, or that of a single run or of an export: `RUN/report.html`.

    A comparison keeps the prices of its summary; `--technology` and `--data-dir` are for a single run.

    [bold]Example[/bold]: lowbit-dtp report runs/demo
    """
    from ..report import write_report

    if (run / "manifest.json").exists():
        from export import write_page

        print_result({"report": str(write_page(run))}, as_json)
        return
    summary = None
    if not (run / "summary.json").exists() and (run / "run.json").exists():
        from ..comparison import summarize_run

        summary = summarize_run(run, technologies(technology), data_dir)
    print_result({"report": str(write_report(run, summary))}, as_json)
