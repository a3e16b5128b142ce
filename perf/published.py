"""What others publish of their own pools, beside what the same takes here.  Other languages, other machines."""

from __future__ import annotations

from .report import Figure, shown

#: The README of https://github.com/pantopic/wazero-pool: nanoseconds per call, 16 threads of a machine it does not name.
WAZERO_POOL = {
    "add": {
        "linear (one lease)": 38.95,
        "pooled (lease, call, put)": 160.9,
        "parallel-2": 445.3,
        "parallel-4": 508.7,
        "parallel-16": 745.8,
        "unlimited (submit, gather)": 331.8,
    },
    "microsleep": {
        "linear (one lease)": 40574.0,
        "pooled (lease, call, put)": 94872.0,
        "parallel-2": 14738.0,
        "parallel-4": 11234.0,
        "parallel-16": 969.3,
        "unlimited (submit, gather)": 517.5,
    },
}
#: https://github.com/alitto/pond-benchmarks, BenchmarkAllSleep10ms/1u-1Mt/AntsPool-8: seconds per job, 8 cores.
ANTS = 0.640480375 / 1_000_000

NOTES = """
wazero-pool leases instances of one process to goroutines. `add` there is a function call; the price of the pool is a lock,
and it grows with the callers that want it (`parallel-n`). Here a call goes to another process and back, so one caller pays
two system calls and a switch, and more callers pay little more, until the one interpreter that sends for all of them is
busy: what helps then is not more callers but `map`. `microsleep` sleeps a microsecond, which takes Linux some 50 us: there
parallel callers overlap without end, a goroutine each; here as far as instances go (2 workers, n/2 instances each).

ants runs each job in a goroutine of one process; 1,000,000 jobs that sleep 10 ms took 0.64 s with a pool of up to 200,000.
A thread of a worker process is what sleeps here: 512 of them can end no more than 51,200 jobs a second. Its own README
shows its figures only as pictures, so the figure is that of a comparison by another library's author.
"""


def table(figures: list[Figure]) -> str:
    """Markdown, where the rows were measured; empty otherwise."""
    ours = {(figure.what, figure.way): figure.median for figure in figures}
    lines = []
    for export, rows in WAZERO_POOL.items():
        what = f"wazero-pool's table: {export}, per call"
        for way, nanoseconds in rows.items():
            if (what, way) in ours:
                here = shown(ours[what, way], "second")
                lines.append(f"| wazero-pool {export}, per call | {way} | {shown(nanoseconds / 1e9, 'second')} | {here} |")
        if (what, "map") in ours:
            lines.append(f"| wazero-pool {export}, per call | map | (none) | {shown(ours[what, 'map'], 'second')} |")
    for way in ("procpool, 100,000 jobs", "procpool, 1,000,000 jobs"):
        here_jobs = ours.get(("jobs of a 10 ms sleep, each, by instances", way))
        if here_jobs is not None:
            published = shown(ANTS, "second") if "1,000,000" in way else "(a picture)"
            lines.append(
                f"| ants, jobs of a 10 ms sleep, each | {way}, 512 instances | {published} | {shown(here_jobs, 'second')} |"
            )
    if not lines:
        return ""
    head = ["## Beside what others publish", NOTES, "| what | way | published | here |", "| --- | --- | ---: | ---: |"]
    return "\n".join([*head, *lines]) + "\n"
