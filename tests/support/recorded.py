"""The writes and syncs of a process, as the kernel saw them, and the files as a power cut would leave them.

The model is strict: of a file there is what was synced, and nothing after it; and a new file is there once its directory was
synced. Its other half, `torn`, has some of what was not synced too, in sectors, because a disk may write when it likes.

Not imitated: a disk that lies about a sync, one that reorders across one, and a sector that is itself half written.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

_CHANGES = (
    "openat", "open", "creat", "write", "pwrite64", "pwritev", "writev", "ftruncate", "truncate", "fallocate", "rename",
    "renameat", "renameat2", "unlink", "unlinkat", "link", "linkat", "fsync", "fdatasync", "sync", "msync", "sendfile",
    "copy_file_range",
)  # fmt: skip
_IMITATED = ("openat", "open", "creat", "write", "pwrite64", "ftruncate", "unlink", "fsync", "fdatasync")
#: What to record: every call that changes a file, with whole buffers, in hexadecimal, and paths for descriptors.
STRACE = (
    "strace", "-f", "-y", "-xx", "-s", "10000000", "-e", "signal=none",
    "-e", "trace=" + ",".join(_CHANGES),
)  # fmt: skip
_SECTOR = 512
_LINE = re.compile(r"^(?P<thread>\d+) +(?P<rest>.*)$")
_CALL = re.compile(r"^(?P<name>\w+)\((?P<arguments>.*)\) += (?P<result>-?\d+|\?)")
_RESUMED = re.compile(r"^<\.\.\. (?P<name>\w+) resumed>(?P<rest>.*)$")
_UNFINISHED = " <unfinished ...>"


@dataclass(frozen=True)
class Call:
    name: str
    arguments: str

    @property
    def path(self) -> str:
        """The file that its first descriptor stands for."""
        found = re.match(r"\d+<(.*?)>", self.arguments)
        return _text(found[1]).decode() if found else ""

    @property
    def quoted(self) -> str:
        """Its first argument that is text."""
        found = re.search(r'"((?:\\x[0-9a-f]{2})*)"', self.arguments)
        return found[1] if found else ""

    @property
    def all_text(self) -> str:
        """Its arguments, as far as they are text."""
        return re.sub(r"(?:\\x[0-9a-f]{2})+", lambda found: _text(found[0]).decode(errors="replace"), self.arguments)

    @property
    def buffer(self) -> bytes:
        return _text(self.quoted)

    def number(self, position: int) -> int:
        """A number among what follows the buffer, from the end."""
        return int(self.arguments.rsplit(", ", 2)[position])


def _text(escaped: str) -> bytes:
    return bytes.fromhex(escaped.replace("\\x", "")) if escaped.startswith("\\x") else escaped.encode()


def calls(trace: Path) -> Iterator[Call]:
    """The calls that succeeded, in the order in which they ended. (One that begins before another ends may be either's.)"""
    unfinished: dict[str, str] = {}
    with trace.open() as lines:
        for line in lines:
            found = _LINE.match(line.rstrip("\n"))
            if found is None:
                continue
            thread, rest = found["thread"], found["rest"]
            resumed = _RESUMED.match(rest)
            if rest.endswith(_UNFINISHED):
                unfinished[thread] = rest.removesuffix(_UNFINISHED)
                continue
            if resumed is not None:
                rest = unfinished.pop(thread) + resumed["rest"]
            call = _CALL.match(rest)
            if call is not None and call["result"] != "?" and not call["result"].startswith("-"):
                yield Call(call["name"], call["arguments"])


@dataclass
class _File:
    now: bytearray = field(default_factory=bytearray)
    synced: bytes = b""
    #: Where it was written since: offset and length.
    since: list[tuple[int, int]] = field(default_factory=list)
    #: Its name is in a directory that was synced after it was made.
    named: bool = False
    #: It was removed, which is so for good only once the directory was synced.
    removed: bool = False


class Disk:
    """The files of one directory, as they are, and as they would be after a cut."""

    def __init__(self, directory: Path) -> None:
        self._directory = str(directory)
        self._files: dict[str, _File] = {}
        self.syncs = 0

    def do(self, call: Call) -> bool:
        """Carry out a call. Returns whether it made something durable."""
        if call.name in ("open", "openat", "creat"):
            self._make(call)
            return False
        path = call.path
        if call.name not in _IMITATED:
            assert self._directory not in call.all_text, f"a call that is not imitated: {call.name}({call.all_text[:200]})"
            return False
        if call.name in ("fsync", "fdatasync") and path == self._directory:
            self._files = {path: file for path, file in self._files.items() if not file.removed}
            for file in self._files.values():
                file.named = True
            return True
        if call.name == "unlink":
            self._remove(call)
            return False
        if not path.startswith(self._directory + "/"):
            return False
        file = self._files.setdefault(path, _File())
        match call.name:
            case "write":
                self._write(file, len(file.now), call.buffer)
            case "pwrite64":
                self._write(file, call.number(-1), call.buffer)
            case "ftruncate":
                length = call.number(-1)
                del file.now[length:]
                file.now.extend(bytes(length - len(file.now)))
                file.since.append((0, length))
            case "fsync" | "fdatasync":
                file.synced, file.since = bytes(file.now), []
                self.syncs += 1
                return True
        return False

    def _make(self, call: Call) -> None:
        path = _text(call.quoted).decode()
        assert "O_TRUNC" not in call.arguments or not path.startswith(self._directory), "O_TRUNC is not imitated"
        known = path in self._files
        made = path.startswith(self._directory + "/") and "O_CREAT" in call.arguments
        if made and not (known and not self._files[path].removed):
            self._files[path] = _File(named=known)

    def _remove(self, call: Call) -> None:
        path = _text(call.quoted).decode()
        if path in self._files:
            self._files[path].removed = True

    @staticmethod
    def _write(file: _File, offset: int, buffer: bytes) -> None:
        if len(file.now) < offset:
            file.now.extend(bytes(offset - len(file.now)))
        file.now[offset : offset + len(buffer)] = buffer
        file.since.append((offset, len(buffer)))

    def now(self, name: str) -> bytes:
        """A file as it is in memory."""
        return bytes(self._files[f"{self._directory}/{name}"].now) if f"{self._directory}/{name}" in self._files else b""

    def cut(self, into: Path, names: tuple[str, ...], torn: random.Random | None = None) -> None:
        """Write the files as a power cut leaves them now. `torn`: with some of the sectors that were not synced."""
        for name in names:
            file = self._files.get(f"{self._directory}/{name}")
            target = into / name
            target.unlink(missing_ok=True)
            if file is None or not file.named:
                continue
            content = bytearray(file.synced)
            for offset, length in file.since if torn else ():
                for sector in range(offset - offset % _SECTOR, offset + length, _SECTOR):
                    if torn.random() < 0.5:
                        whole = file.now[sector : sector + _SECTOR]
                        content.extend(bytes(max(0, sector + len(whole) - len(content))))
                        content[sector : sector + len(whole)] = whole
            target.write_bytes(content)
