"""Becomes mpirun's daemon on one of several nodes of one host, under a host name of its own.

Open MPI 5 knows a node by the name of its host. Called as ``daemon WORD...``, on its own and by path; standard library.
"""

import ctypes
import os
import socket
import sys

#: Holds the name; where the job is confined, its sandbox has that name already.
VARIABLE = "RUNYARD_HOST_NAME"
#: unshare(2): a host name, and the rights of a user, that only this process and its children have.
_NEW_NAME, _NEW_USER = 0x04000000, 0x10000000


def main() -> None:
    """Take the name, and be the daemon."""
    name, words = os.environ[VARIABLE], sys.argv[1:]
    try:
        if socket.gethostname() != name:
            _take(name)
    except OSError as error:
        sys.exit(
            f"Open MPI 5 needs a host name for each node, and this host does not let {name} have one: {error}. Use "
            "one node with more processes (process_count_per_node), or Open MPI 4."
        )
    os.execvp(words[0], words)


def _take(name: str) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    user, group = os.geteuid(), os.getegid()
    if libc.unshare(_NEW_NAME) != 0:
        # Whoever is not root may still be one over nothing but the name.
        if libc.unshare(_NEW_USER | _NEW_NAME) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        for file, line in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
            with open(f"/proc/self/{file}", "w", encoding="ascii") as stream:
                stream.write(line)
    socket.sethostname(name)


if __name__ == "__main__":
    main()
