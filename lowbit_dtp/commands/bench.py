"""`lowbit-dtp bench`."""

from .execution import use_threads
from .options import Json, Threads
from .printing import print_result


def bench(threads: Threads = None, as_json: Json = False) -> None:
    """Time few-bit products and training steps on this machine, compared with NumPy, in under a minute.

    [bold]Example[/bold]: lowbit-dtp bench --threads 1
    """
    from ..backends import packed
    from ..backends.numba_cpu import threads_used

    use_threads(threads)
    from threadpoolctl import threadpool_limits

    from ..benchmark import products, steps

    with threadpool_limits(threads_used(), user_api="blas"):
        timings = [*products(), *steps()]
    rows = [
        {
            "what": x.name,
            "microseconds": x.seconds * 1e6,
            "numpy_ratio": x.numpy_seconds and x.numpy_seconds / x.seconds,
        }
        for x in timings
    ]
    if as_json:
        print_result({"threads": threads_used(), "target": packed.features(), "timings": rows}, as_json)
        return
    print(f"{threads_used()} thread{'s' * (threads_used() > 1)}; {packed.describe()}")
    for row in rows:
        ratio = f"{row['numpy_ratio']:6.1f} times NumPy's float32" if row["numpy_ratio"] else ""
        print(f"{row['what']:42} {row['microseconds']:10,.0f} us  {ratio}".rstrip())
