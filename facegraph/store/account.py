"""The operating system's account that the embedded PostgreSQL runs as.

PostgreSQL refuses to run as root, so root lends it the account ``nobody`` (or the one that owns
the data already). Neither the data nor the programs are readable to it when they lie under
root's own folders. Those stay closed: ``setpriv`` gives the server the one capability that
looks past folder modes, and takes every other away.
"""

from __future__ import annotations

import os
import pwd
import shutil
import stat
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from facegraph.errors import DatabaseError

# Weakest first: to read and search is enough, but a container may only be given the other.
_CAPABILITIES = ("dac_read_search", "dac_override")


@dataclass(frozen=True)
class Account:
    """Who runs the server: this process's own user, or another when this is root."""

    uid: int
    gid: int

    @classmethod
    def of(cls, data: Path) -> Account:
        """The owner of ``data``, or who should be; DatabaseError when that is somebody else."""
        me = os.geteuid()
        owner = data.stat() if data.exists() else None
        if me != 0:
            if owner is not None and owner.st_uid != me:
                raise DatabaseError(f"{data} belongs to user {owner.st_uid}, and this is user {me}")
            return cls(me, os.getegid())
        if owner is not None and owner.st_uid != 0:
            return cls(owner.st_uid, owner.st_gid)
        nobody = pwd.getpwnam("nobody")
        return cls(nobody.pw_uid, nobody.pw_gid)

    @property
    def is_other(self) -> bool:
        return self.uid != os.geteuid()

    @property
    def folder_mode(self) -> int:
        """For folders on the way to the data: closed, unless the server could not enter then."""
        return 0o711 if self.is_other and not self._setpriv else 0o700

    def own(self, path: Path) -> None:
        """Gives ``path`` itself to the account; never a parent of it."""
        if self.is_other:
            os.chown(path, self.uid, self.gid, follow_symlinks=False)

    def run(
        self,
        command: Sequence[str | Path],
        *,
        folders: Sequence[Path],
        timeout_s: float,
        pass_fds: Sequence[int] = (),
        stdin: str = "",
    ) -> subprocess.CompletedProcess[str]:
        """Runs ``command`` in a session of its own, so that Ctrl-C does not reach it.

        ``folders`` are what it must get at. DatabaseError when it cannot, or takes too long.
        """
        options: dict[str, Any] = {}
        if self.is_other and not self._setpriv:
            for folder in folders:
                self._require_reachable(folder)
            options = {"user": self.uid, "group": self.gid, "extra_groups": ()}
        try:
            return subprocess.run(
                [*self._setpriv, *map(str, command)],
                check=False,
                input=stdin,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=timeout_s,
                cwd="/",
                env={"PATH": "/usr/bin:/bin", "LC_ALL": "C"},
                start_new_session=True,
                pass_fds=pass_fds,
                **options,
            )
        except subprocess.TimeoutExpired:
            raise DatabaseError(f"{command[0]} did not end within {timeout_s:g} s") from None
        except OSError as error:
            raise DatabaseError(f"cannot run {command[0]}: {error.strerror}") from error

    @cached_property
    def _setpriv(self) -> list[str]:
        """The command that changes to this account; empty when not needed or not possible."""
        program = shutil.which("setpriv") if self.is_other else None
        if program is None:
            return []
        for capability in _CAPABILITIES:
            only = f"-all,+{capability}"
            prefix = [
                program,
                f"--reuid={self.uid}",
                f"--regid={self.gid}",
                "--clear-groups",
                f"--bounding-set={only}",
                f"--inh-caps={only}",
                f"--ambient-caps={only}",
                # Else the kernel ignores the capability in access(2), which pg_ctl asks, and
                # while setpriv itself looks the program up.
                "--securebits=+no_setuid_fixup",
                "--no-new-privs",
                "--",
            ]
            trial = subprocess.run([*prefix, "/bin/true"], capture_output=True, check=False)
            if trial.returncode == 0:
                return prefix
        return []

    def _require_reachable(self, folder: Path) -> None:
        for parent in (*reversed(folder.parents), folder):
            if not parent.exists():
                continue
            found = parent.stat()
            if found.st_uid == self.uid:
                needed = stat.S_IXUSR
            else:
                needed = stat.S_IXGRP if found.st_gid == self.gid else stat.S_IXOTH
            if not found.st_mode & needed:
                raise DatabaseError(
                    f"PostgreSQL runs as user {self.uid}, which cannot enter {parent}: install "
                    f"setpriv (util-linux), run as another user than root, choose another "
                    f"folder (FACEGRAPH_DATA_DIR) or name a server (FACEGRAPH_DATABASE_URL)"
                )
