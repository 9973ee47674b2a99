"""The doctor's first checks: each looks at one thing for real and says what it saw and what to do."""

import asyncio
import resource
import shutil
import socket
import ssl
import sys
from pathlib import Path

from msgspec import Struct

from headgate.core.errors import HeadgateError
from headgate.core.ports import Backend

DISK_FREE_MIN = 512 * 1024 * 1024
OPEN_FILES_MIN = 4_096
PROBE_SECONDS = 5.0


class Finding(Struct, frozen=True):
    """What one check saw. `remedy` is empty where nothing needs doing."""

    check: str
    ok: bool
    seen: str
    remedy: str = ""


def check_python() -> Finding:
    version = ".".join(str(part) for part in sys.version_info[:3])
    return Finding("python", sys.version_info >= (3, 11), f"Python {version}", "Headgate needs 3.11 or newer.")


def check_open_files() -> Finding:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    remedy = (
        f"Each stream takes two descriptors: raise the limit ('ulimit -n {min(hard, 65_536)}') before serving many."
    )
    return Finding("open files", soft >= OPEN_FILES_MIN, f"{soft} allowed (hard limit {hard})", remedy)


def check_tls_roots() -> Finding:
    count = len(ssl.create_default_context().get_ca_certs())
    paths = ssl.get_default_verify_paths()
    found = count > 0 or (paths.capath is not None and any(Path(paths.capath).iterdir()))
    return Finding(
        "TLS roots", found, f"{count} root certificates", "Install 'ca-certificates': providers are reached over TLS."
    )


def check_disk(home: Path) -> Finding:
    folder = next(place for place in (home, *home.parents) if place.exists())
    free = shutil.disk_usage(folder).free
    seen = f"{free // 2**20} MiB free in {folder}"
    return Finding("disk", free >= DISK_FREE_MIN, seen, "Free some space: the usage ledger must be able to grow.")


async def check_port(host: str, port: int) -> Finding:
    """Whether the port can be bound; a Headgate already there is good news too."""
    try:
        family, kind, proto, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, proto) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        if await _is_headgate(host, port):
            return Finding("port", True, f"a Headgate server answers on {host}:{port}")
        seen = f"{host}:{port} cannot be bound: {error.strerror}"
        return Finding("port", False, seen, "Stop what uses it, or serve with --port.")
    return Finding("port", True, f"{host}:{port} is free")


def check_model(folder: Path) -> Finding:
    missing = [name for name in ("config.json", "tokenizer.json") if not (folder / name).is_file()]
    weights = list(folder.glob("*.safetensors"))
    if not weights:
        missing.append("*.safetensors")
    if missing:
        return Finding(
            "model", False, f"{folder.name} lacks {', '.join(missing)}", "Reinstall, or name another folder."
        )
    size = sum(file.stat().st_size for file in weights)
    return Finding("model", True, f"{folder.name}, {size / 2**20:.1f} MiB")


async def check_backend(backend: Backend) -> Finding:
    """One real request to the backend."""
    name = f"backend {backend.name}"
    try:
        async with asyncio.timeout(PROBE_SECONDS):
            health = await backend.probe()
    except (HeadgateError, TimeoutError) as error:
        detail = error.message if isinstance(error, HeadgateError) else f"no answer within {PROBE_SECONDS:g} s"
        return Finding(name, False, detail, "Check its address and key; is it running?")
    return Finding(name, health.ok, health.detail, "Check its address and key; is it running?")


async def _is_headgate(host: str, port: int) -> bool:
    try:
        async with asyncio.timeout(PROBE_SECONDS):
            reader, writer = await asyncio.open_connection(host, port)
            try:
                writer.write(f"GET /livez HTTP/1.1\r\nhost: {host}:{port}\r\nconnection: close\r\n\r\n".encode())
                answer = await reader.read(4096)
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return False
    return b"x-headgate-version" in answer.lower()
