"""A PostgreSQL server of the tests' own: on 127.0.0.1, on a free port, in a folder that is gone afterwards."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import socket
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
_USER = "postgres"


def program(name: str) -> str:
    """Path of one of PostgreSQL's programs; ``scripts/install-postgresql`` installs them where they are missing."""
    for _ in range(2):
        folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
        found = shutil.which(name, path=os.pathsep.join([*map(str, folders), os.environ["PATH"]]))
        if found:
            return found
        subprocess.run(["sh", ROOT / "scripts" / "install-postgresql"], check=True, timeout=300)
    raise FileNotFoundError(f"{name} is missing after scripts/install-postgresql")


@dataclass(frozen=True, slots=True)
class Server:
    """A server that runs, and its superuser.

    Attributes:
        folder: Where all of it lies.
        port: On 127.0.0.1.
        password: Of the user ``postgres``.
    """

    folder: Path
    port: int
    password: str

    @classmethod
    def start(cls) -> Server:
        folder = Path(tempfile.mkdtemp(prefix="ilp-postgresql-"))
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            server = cls(folder, int(probe.getsockname()[1]), secrets.token_hex(16))
        (folder / "password").write_text(server.password)
        if os.getuid() == 0:
            # PostgreSQL refuses to be run by root.
            owner = pwd.getpwnam(_USER)
            for path in (folder, folder / "password"):
                os.chown(path, owner.pw_uid, owner.pw_gid)
        options = ["--auth=scram-sha-256", "--no-sync", "--encoding=UTF8", "--locale=C", "--username", _USER]
        server.run("initdb", "--pgdata", folder / "data", "--pwfile", folder / "password", *options)
        server.start_again()
        return server

    def start_again(self) -> None:
        """Start it after ``stop``."""
        settings = (
            f"-c listen_addresses=127.0.0.1 -c port={self.port} -c fsync=off -c max_connections=60 -k {self.folder}"
        )
        log = self.folder / "log"
        self.run("pg_ctl", "--wait", "--pgdata", self.folder / "data", "--log", log, "--options", settings, "start")

    def stop(self, mode: str = "immediate") -> None:
        self.run("pg_ctl", "--wait", "--pgdata", self.folder / "data", "--mode", mode, "stop")

    def remove(self) -> None:
        try:
            self.stop()
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)

    def run(self, name: str, *arguments: str | Path) -> None:
        """Run one of PostgreSQL's programs as a user that may."""
        command = [program(name), *map(str, arguments)]
        if os.getuid() == 0:
            command = ["setpriv", "--reuid", _USER, "--regid", _USER, "--init-groups", *command]
        # What the server prints must not keep a pipe of this process open for as long as it lives.
        with (self.folder / "programs.log").open("ab") as log:
            done = subprocess.run(command, cwd=self.folder, stdout=log, stderr=log, check=False, timeout=60)
        if done.returncode != 0:
            raise RuntimeError(f"{name} failed: {(self.folder / 'programs.log').read_text()[-2000:]}")

    def url(self, user: str = _USER, password: str | None = None, database: str = "postgres") -> str:
        return f"postgresql://{user}:{password or self.password}@127.0.0.1:{self.port}/{database}"

    def environment(self) -> dict[str, str]:
        """For PostgreSQL's client programs."""
        return {"PGHOST": "127.0.0.1", "PGPORT": str(self.port), "PGUSER": _USER, "PGPASSWORD": self.password}
