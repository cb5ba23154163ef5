"""Files of lines that grow: read as streams, appended to so that a kill or a full disk leaves whole lines only.

A name that ends in `.gz` or `.zst` is compressed. Each append is a member (a frame) of its own, which every tool that reads
the format takes as one file.
"""

from __future__ import annotations

import contextlib
import errno
import gzip
import io
import os
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from counterpoint.errors import Failure, PromptError, UsageError

CHUNK = 1 << 20


@contextlib.contextmanager
def open_lines(path: str) -> Iterator[IO[bytes]]:
    """A file's lines, unpacked by its name; `-` is standard input.

    Raises:
        PromptError: it can't be read, or is not what its name says.
    """
    try:
        with contextlib.ExitStack() as stack:
            if path == "-":
                yield sys.stdin.buffer
            elif path.endswith(".gz"):
                yield stack.enter_context(io.BufferedReader(gzip.open(path, "rb")))
            elif path.endswith(".zst"):
                raw = stack.enter_context(open(path, "rb"))
                stream = _zstandard().ZstdDecompressor().stream_reader(raw, read_across_frames=True)
                yield stack.enter_context(io.BufferedReader(stream))
            else:
                yield stack.enter_context(open(path, "rb"))
    except OSError as error:
        raise PromptError(f"the file {path!r} can't be read: {error.strerror or error}") from None
    except (EOFError, zlib.error) as error:
        raise PromptError(f"the file {path!r} is cut off or broken: {error}") from None


class LineFile:
    """A file that lines are appended to, each whole or not at all.

    Args:
        path: made where it is missing. What a kill left of a last line is cut off.

    Raises:
        UsageError: it can't be opened, or another process appends to it.
        Failure: it is no file of lines, or broken before its end.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = str(path)
        try:
            self._file = open(self.path, "ab", buffering=0)  # open as long as this object is
        except OSError as error:
            raise UsageError(f"the file {self.path!r} can't be written: {error.strerror}; give another one") from None
        try:
            if not lock(self._file):
                raise UsageError(
                    f"the file {self.path!r} is written by another process; wait for it, or give another file"
                )
            self._end = self._whole()
            if self._end < os.path.getsize(self.path):
                self._file.truncate(self._end)
        except BaseException:
            self._file.close()
            raise

    def lines(self) -> Iterator[bytes]:
        """The lines that are there, without their ends."""
        if self._end:
            with open_lines(self.path) as source:
                for line in source:
                    yield line.rstrip(b"\n")

    def append(self, *lines: bytes) -> None:
        """Add lines, which end in no newline of their own; when this returns they outlive the process.

        Raises:
            Failure: they can't be written; the file is as it was.
        """
        data = memoryview(_packed(self.path, b"".join(line + b"\n" for line in lines)))
        written = 0
        try:
            while written < len(data):
                written += self._file.write(data[written:])
        except OSError as error:
            self._file.truncate(self._end)
            raise Failure(
                f"{self.path!r} can't be written: {error.strerror}; make room, and the same command goes on"
            ) from None
        self._end += written

    def sync(self) -> None:
        """Wait until the lines outlive the machine too."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()

    def _whole(self) -> int:
        """How many bytes hold whole lines."""
        if self.path.endswith(".gz"):
            return self._whole_members(lambda: zlib.decompressobj(wbits=31))
        if self.path.endswith(".zst"):
            return self._whole_members(lambda: _zstandard().ZstdDecompressor().decompressobj())
        size = os.path.getsize(self.path)
        with open(self.path, "rb") as source:
            at = size
            while at > 0:
                start = max(0, at - CHUNK)
                source.seek(start)
                found = source.read(at - start).rfind(b"\n")
                if found >= 0:
                    return start + found + 1
                at = start
        return 0

    def _whole_members(self, new: Any) -> int:
        whole = at = 0
        unpack = new()
        with open(self.path, "rb") as source:
            while data := source.read(CHUNK):
                at += len(data)
                while data:
                    try:
                        unpack.decompress(data)
                    except Exception as error:  # zlib.error, ZstdError
                        raise Failure(f"{self.path!r} is broken at byte {whole}: {error}; give another file") from None
                    if not unpack.eof:
                        break
                    data = unpack.unused_data
                    whole, unpack = at - len(data), new()
        return whole


def lock(file: IO[bytes]) -> bool:
    """Take a file for this process as long as it is open; False where another has it. Elsewhere than on Unix, nothing."""
    try:
        import fcntl
    except ModuleNotFoundError:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in (errno.EWOULDBLOCK, errno.EACCES)  # some file systems have no locks
    return True


def replace_lines(path: str, keep: Iterator[bytes]) -> None:
    """Put a file of these lines in the place of a file, at once; the old one stays where anything fails."""
    part = Path(f"{path}.part{''.join(Path(path).suffixes[-1:])}")
    part.unlink(missing_ok=True)
    new = LineFile(part)
    try:
        for line in keep:
            new.append(line)
        new.sync()
        new.close()
        os.replace(part, path)
    except BaseException:
        new.close()
        part.unlink(missing_ok=True)
        raise


def _packed(path: str, data: bytes) -> bytes:
    if path.endswith(".gz"):
        return gzip.compress(data, mtime=0)
    if path.endswith(".zst"):
        return _zstandard().ZstdCompressor(write_checksum=True).compress(data)
    return data


def _zstandard() -> Any:
    try:
        import zstandard
    except ModuleNotFoundError:
        raise UsageError("a .zst file needs zstandard; in a clone of Counterpoint: pip install '.[batch]'") from None
    return zstandard
