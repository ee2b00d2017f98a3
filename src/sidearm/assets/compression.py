"""Compressed copies, made once with all the time in the world."""

from __future__ import annotations

from collections.abc import Callable

import brotli
import zstandard
from whitenoise.compress import Compressor

#: Decoders need not support more for the coding ``zstd`` (RFC 9659, 3).
_ZSTD_WINDOW = 23  # 8 MiB, as a power of two
_ZSTD_LEVEL = 19  # the highest whose window is no larger

#: Endings, without a dot, of what is compressed already.
NEVER_COMPRESSED = (
    *Compressor.SKIP_COMPRESS_EXTENSIONS, "avif", "jxl", "zst", "mp3", "ogg", "opus"
)  # fmt: skip
_Rules = Compressor(extensions=NEVER_COMPRESSED, quiet=True)


def _zstd(content: bytes) -> bytes:
    parameters = zstandard.ZstdCompressionParameters.from_level(
        _ZSTD_LEVEL, source_size=len(content)
    )
    if parameters.window_log > _ZSTD_WINDOW:
        parameters = zstandard.ZstdCompressionParameters.from_level(
            _ZSTD_LEVEL, source_size=len(content), window_log=_ZSTD_WINDOW
        )
    return zstandard.ZstdCompressor(compression_params=parameters).compress(content)


def _gzip(content: bytes) -> bytes:
    return bytes(Compressor.compress_gzip(content))


CODINGS: dict[str, Callable[[bytes], bytes]] = {
    "br": brotli.compress,
    "zstd": _zstd,
    "gzip": _gzip,
}


def compress(name: str, content: bytes) -> dict[str, bytes]:
    """Compress a file by every coding that makes it smaller by a twentieth at least.

    Args:
        name: Its name; images and the like are left alone.
        content: What to compress.

    Returns:
        The copies, by their coding; the same ones whenever the content is the same.
    """
    if not content or not _Rules.should_compress(name):
        return {}
    copies = {coding: compressor(content) for coding, compressor in CODINGS.items()}
    return {
        coding: copy
        for coding, copy in copies.items()
        if _Rules.is_compressed_effectively(coding, name, len(content), copy)
    }
