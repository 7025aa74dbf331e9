"""Download a file once and trust it only when its sha256 is the published one."""

import hashlib
import http.client
import os
import urllib.request

from .errors import DataError


def sha256(path):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def download(url, path, digest):
    """Fetch `url` to `path`; what comes incomplete, or with another sha256, never gets that name."""
    part = f"{path}.{os.getpid()}.part"
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with urllib.request.urlopen(url, timeout=60) as answer, open(part, "wb") as file:
            while block := answer.read(1 << 20):
                file.write(block)
        if (found := sha256(part)) != digest:
            raise DataError(f"{url} sent a file with sha256 {found}, not {digest}.\n"
                            f"Try again later, or put the right file at {path} by hand.")
        os.replace(part, path)
    except (OSError, http.client.HTTPException) as error:
        raise DataError(f"cannot download {url} to {path}: {error}.\n"
                        "Check the connection, or put the file there by hand.") from None
    finally:
        if os.path.exists(part):
            os.remove(part)
