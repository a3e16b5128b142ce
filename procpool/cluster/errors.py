"""What can go wrong with a cluster and not with a pool on one machine."""

from __future__ import annotations

from ..errors import ProcpoolError

__all__ = ["NodeLost"]


class NodeLost(ProcpoolError):
    """Raised when the node that had begun a job was lost: its host died, its process did, or the network cut it off.

    Whether the job has run to its end there is not known.  It is not run again, unless ``retries=`` says so.
    """

    def __init__(self, host: str, address: str, job: str, reason: str) -> None:
        super().__init__(f"the node on {host} ({address}) was lost while {job!r} ran there, or was about to: {reason}")
        self.host = host  #: of the node
        self.address = address  #: of the Dask worker that it lived in
        self.job = job  #: the export, or the callable, that was called
        self.reason = reason  #: how that was noticed
