"""Measures seconds and bytes of rewriting the report page, for a long training with many sites and a short one.

Run it as ``python benchmarks/report.py``; the events are made up.
"""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the made-up events are those of the tests

from fednnunet.events.run_state import RunState
from fednnunet.report.page.parts import parts_of_run
from fednnunet.report.page.rendering import write_page
from tests.report.page.made_up import a_run


def measure(path: Path, rounds: int, sites: int, repeats: int) -> tuple[float, float, int]:
    """Return the median seconds, and seconds of the processor, of a rewriting, and the page's bytes."""
    state = RunState.of(a_run(rounds, [f"hospital-{number:02d}" for number in range(sites)]))
    seconds, busy = [], []
    write_page(path, "warm up", parts_of_run(state))
    for _ in range(repeats):
        began, began_busy = time.perf_counter(), time.process_time()
        write_page(path, "A run", parts_of_run(state), state.condition)
        seconds.append(time.perf_counter() - began)
        busy.append(time.process_time() - began_busy)
    return statistics.median(seconds), statistics.median(busy), path.stat().st_size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=1000)
    parser.add_argument("--sites", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "report.html"
        short = measure(path, 10, arguments.sites, arguments.repeats)
        long = measure(path, arguments.rounds, arguments.sites, arguments.repeats)
    print(f"| rounds ({arguments.sites} sites, 3 labels) | s | processor s | MB |\n|--:|--:|--:|--:|")
    for rounds, (seconds, busy, size) in ((10, short), (arguments.rounds, long)):
        print(f"| {rounds} | {seconds:.2f} | {busy:.2f} | {size / 1e6:.2f} |")
    ratios = [there / here for here, there in zip(short, long, strict=True)]
    print("| ratio | " + " | ".join(f"{ratio:.2f}" for ratio in ratios) + " |")


if __name__ == "__main__":
    main()
