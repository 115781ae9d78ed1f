"""Samples of the system (CPU, memory, disk, network, GPU) beside a run's curves, taken by MLflow's own thread."""

import os
import time

from pipeline.trackingclient import while_it_answers

FIRST_SAMPLE_SECONDS = 1.0
SAMPLE_SHARE = 1 / 30  # of the run's age so far: a short run has samples, a long one has hundreds and not thousands
SAMPLE_SECONDS_MAX = 60.0


class Sampler:
    """The thread that samples for a run. It ends with the run; samples that a server does not take are lost."""

    def __init__(self, run_id: str, uri: str, resumed: bool) -> None:
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        self._started = time.monotonic()
        self._uri = uri
        self._monitor = while_it_answers(
            uri,
            lambda: SystemMetricsMonitor(  # type: ignore[no-untyped-call]
                run_id, FIRST_SAMPLE_SECONDS, resume_logging=resumed, tracking_uri=uri
            ),
        )
        self._monitor.start()

    def pace(self) -> None:
        """Sample more rarely as the run grows older."""
        if "MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL" not in os.environ:
            age = time.monotonic() - self._started
            self._monitor.sampling_interval = min(max(FIRST_SAMPLE_SECONDS, age * SAMPLE_SHARE), SAMPLE_SECONDS_MAX)

    def finish(self) -> None:
        """End the thread."""
        while_it_answers(self._uri, self._monitor.finish)
