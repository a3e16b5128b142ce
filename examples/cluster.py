"""Count primes on every host of a Dask cluster, and see where the work goes.

Run it:  python examples/cluster.py --below 4000000
         python examples/cluster.py --scheduler tcp://scheduler:8786

Without a scheduler's address it makes a cluster of its own, in this process: one host.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from distributed import Client, LocalCluster

from procpool.cluster import ClusterEvent, ClusterWasmPool

MODULE = Path(__file__).parent.parent / "fixtures" / "kernels.wasm"


def tell(event: ClusterEvent) -> None:
    """What happens to hosts; what happens to their workers is for the log."""
    if event.kind.startswith("node_"):
        print(event.message)


def main() -> None:
    """Count, and say what did."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scheduler", metavar="ADDRESS", help="of a Dask scheduler, such as tcp://scheduler:8786")
    parser.add_argument("--below", type=int, default=4_000_000, metavar="N", help="count the primes below N")
    parser.add_argument("--step", type=int, default=100_000, metavar="N", help="numbers in one job")
    options = parser.parse_args()

    where = options.scheduler or LocalCluster(n_workers=1, threads_per_worker=2, processes=False, dashboard_address=":0")
    starts = range(0, options.below, options.step)
    # A job whose host is lost runs again on another: counting has no effects outside.
    with Client(where) as client, ClusterWasmPool(MODULE, client=client, retries=2, on_event=tell) as pool:
        counts = pool.map("count_primes", starts, [min(start + options.step, options.below) for start in starts])
        print(f"{sum(counts):,} primes below {options.below:,}")
        print(pool.stats())


if __name__ == "__main__":
    main()
