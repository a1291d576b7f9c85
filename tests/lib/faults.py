"""What tests/faults/fault_inject.c makes fail, and what the log of a program must say about it."""

import ctypes
import mmap
import os
import pathlib
import re
import subprocess

from world import BIN

LIBRARY = BIN.parent / "tests" / "libfault_inject.so"
ROLES = ("agent", "supervisor", "route")
KINDS = ("open", "write", "sync", "truncate", "rename", "unlink", "mmap", "mkdir", "socket", "connect", "accept", "send", "receive",
         "poll", "epoll", "thread", "spawn")
MEMORY_OFF, MEMORY_RECORD, MEMORY_FAIL = range(3)
NOBODY = 99
SHORT = -1
SITES = 8192


class Site(ctypes.Structure):
    _fields_ = [("site", ctypes.c_uint64), ("role", ctypes.c_uint32), ("state", ctypes.c_uint32)]


class State(ctypes.Structure):
    """shared_state of fault_inject.c."""
    _fields_ = [("calls", ctypes.c_uint64 * len(KINDS) * len(ROLES)), ("role", ctypes.c_uint32), ("kind", ctypes.c_uint32),
                ("error", ctypes.c_int32), ("memory", ctypes.c_uint32), ("at", ctypes.c_uint64), ("count", ctypes.c_uint64),
                ("seen", ctypes.c_uint64), ("failed", ctypes.c_uint64), ("memory_more", ctypes.c_uint64),
                ("memory_count", ctypes.c_uint64), ("about", ctypes.c_char * 1024), ("folder", ctypes.c_char * 512),
                ("sites", Site * SITES)]


def missing():
    """Why faults cannot be injected into these programs, or None."""
    if LIBRARY.exists():
        return None
    if "__asan_init" in subprocess.run(["nm", "-D", str(BIN / "sidespool-postgres")], stdout=subprocess.PIPE, text=True).stdout:
        return "a sanitizer has an allocator of its own and takes no other library before it"
    raise FileNotFoundError(f"{LIBRARY}: build the target fault_inject")


class Faults:
    """The file that the test shares with the programs of one world."""

    def __init__(self, world):
        self.path = world.folder / "faults"
        self.path.write_bytes(bytes(ctypes.sizeof(State)))
        with open(self.path, "r+b") as file:
            self.memory = mmap.mmap(file.fileno(), 0)
        self.state = State.from_buffer(self.memory)
        self.state.role = NOBODY
        self.state.folder = str(world.folder).encode()
        self.env = {"SIDESPOOL_FAULTS": str(self.path), "LD_PRELOAD": str(LIBRARY)}

    def clear(self):
        s = self.state
        s.error, s.memory, s.role, s.memory_more = 0, MEMORY_OFF, NOBODY, 0

    victim = None

    def arm(self, role, kind, error, at, count=1):
        """The at-th call of that kind from now on fails, and the count - 1 after it."""
        self.clear()
        s = self.state
        s.seen = s.failed = 0
        s.at, s.count, s.kind, s.role = at, count, KINDS.index(kind), ROLES.index(role)
        s.about, self.victim = b"", role
        s.error = error

    def record_sites(self, role):
        self.clear()
        ctypes.memset(ctypes.addressof(self.state.sites), 0, ctypes.sizeof(self.state.sites))
        self.state.role, self.state.memory = ROLES.index(role), MEMORY_RECORD

    def sites(self):
        return sorted(s.site for s in self.state.sites if s.site)

    def arm_sites(self, role, sites, count=1):
        """Each of these fails once, at its first call, and the count - 1 allocations after it."""
        self.clear()
        s = self.state
        ctypes.memset(ctypes.addressof(s.sites), 0, ctypes.sizeof(s.sites))
        for number in sites:
            at = number % SITES
            while s.sites[at].site:
                at = (at + 1) % SITES
            s.sites[at].site, s.sites[at].state = number, 1
        s.seen = s.failed = 0
        s.memory_count, s.about, self.victim = count, b"", role
        s.role, s.memory = ROLES.index(role), MEMORY_FAIL

    def calls(self):
        return {(role, kind): self.state.calls[r][k] for r, role in enumerate(ROLES) for k, kind in enumerate(KINDS)}

    def about(self):
        """The call that failed last; of an allocation the functions above it."""
        text = self.state.about.decode(errors="replace")
        return self.functions(text) if "+0x" in text else text

    def functions(self, frames):
        program = BIN / ("sidespool-postgres" if self.victim == "agent" else "sidespool-applier")
        told = []
        for name, offset in re.findall(r"(\S*)\+0x([0-9a-f]+)", frames):
            if name == "PROGRAM":  # a return address: the call is before it
                found = subprocess.run(["addr2line", "-Cfsp", "-e", str(program), hex(int(offset, 16) - 1)], stdout=subprocess.PIPE, text=True)
                told.append(found.stdout.strip())
            else:
                told.append(f"{name}+0x{offset}")
        return " < ".join(told)


def complaints(text):
    """The lines of a log by which a person learns of a trouble."""
    return [line for line in text.splitlines() if re.search(r"\blevel=(warn|error)\b", line)]


def tmpfs(folder, size):
    """Mounts a small file system of its own; says why not when that is not allowed."""
    pathlib.Path(folder).mkdir(parents=True, exist_ok=True)
    if os.geteuid() != 0:
        return "only root may mount a small file system"
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size},mode=755", "tmpfs", str(folder)], capture_output=True, text=True)
    return None if done.returncode == 0 else f"a small file system cannot be mounted: {done.stderr.strip()}"


def remount(folder, size):
    subprocess.run(["mount", "-o", f"remount,size={size}", str(folder)], check=True)


def unmount(folder):
    subprocess.run(["umount", "-l", str(folder)], check=True)
