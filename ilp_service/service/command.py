"""``ilp serve``: receiver, page and API, the loop over the registry, and the worker, in one process tree."""

from __future__ import annotations

import logging
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

import click

from ilp_service.service.configuration import Configuration, load_configuration
from ilp_service.service.supervision import COMMAND

LOG = logging.getLogger("ilp.service")


@click.command()
@click.option("--host", help="Address to listen on; others than loopback need a token.  [default: 127.0.0.1]")
@click.option("--port", type=click.IntRange(0, 65535), help="Port to listen on; 0 takes a free one.  [default: 8350]")
@click.option("--config", type=click.Path(path_type=Path), metavar="FILE", help="YAML file with settings.")
@click.option("--tracking-uri", help="MLflow's address.  [default: MLFLOW_TRACKING_URI, else mlruns/mlflow.db]")
@click.option("--experiment", help="MLflow experiment.  [default: ilp]")
@click.option("--interval", type=float, help="Seconds between two looks at the registry.  [default: 30]")
@click.option("--workers", type=int, help="Jobs that run at once.  [default: 1]")
@click.option("--backfill/--no-backfill", default=None, help="Diagnose what was registered before as well.")
@click.option("--name", "names", multiple=True, metavar="PATTERN", help="Only models with such a name.")
@click.option(
    "--plugin-dir", "plugin_dirs", type=click.Path(path_type=Path), multiple=True, help="Folder with plugins."
)
@click.option("--data-dir", "data_dirs", type=click.Path(path_type=Path), multiple=True, help="Versions may name data.")
@click.option("--print-config", is_flag=True, help="Print every setting and where it came from, then stop.")
def serve(config: Path | None, print_config: bool, **flags: object) -> None:
    """Diagnose every model version that is registered, by itself, until it is told to stop.

    Settings come from flags, ILP_SERVICE_* variables, the file of --config, and defaults; secrets come from variables
    or files only. SIGTERM and Ctrl-C stop it in order: what it is at goes on at the next start.
    """
    configuration = load_configuration(flags, config)
    if print_config:
        click.echo("\n".join(configuration.lines()))
        return
    configuration.settings.check()
    run(configuration)


def run(configuration: Configuration, command: Sequence[str] = COMMAND) -> None:
    """Serve until SIGTERM or SIGINT.

    Args:
        configuration: All settings.
        command: Starts a job's subprocess.

    Raises:
        IlpError: It cannot start.
    """
    from ilp_service.service.app import WebSettings, create_app, web_server
    from ilp_service.service.jobs import Jobs
    from ilp_service.service.meters import Meters
    from ilp_service.service.reconcile import Reconciler
    from ilp_service.service.reports import StoredReports
    from ilp_service.tracking.connection import shown

    settings = configuration.settings
    _log_to_stderr()
    jobs = Jobs(settings, command=command)
    meters = Meters(jobs)
    jobs.counting = meters
    reconciler = Reconciler(jobs, counted=lambda look: meters.reconciled(look.new))
    app = create_app(jobs, WebSettings.of(settings), reports=StoredReports(jobs.tracking), meters=meters)
    server = web_server(app, settings.host, settings.port)

    def stop(_signum: int, _frame: FrameType | None) -> None:
        server.should_exit = True

    # uvicorn puts its own in their place while it serves, and raises the signal again after.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    try:
        jobs.start()
        reconciler.start()
        # In the main thread, so that a second signal cannot cut the orderly stop short.
        if not server.should_exit:
            LOG.warning("ilp serve: http://%s:%d, MLflow at %s", settings.host, settings.port, shown(jobs.tracking.uri))
            server.run()
            LOG.warning("ilp serve: stopping")
    finally:
        stopping = threading.Thread(target=reconciler.stop)
        stopping.start()
        jobs.stop()
        stopping.join()
    LOG.warning("ilp serve: stopped")


def _log_to_stderr() -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger = logging.getLogger("ilp")
    logger.handlers[:] = [handler]
    logger.setLevel(logging.INFO)
    logger.propagate = False
