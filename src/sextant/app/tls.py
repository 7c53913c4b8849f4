"""Server TLS contexts for our own listeners: TLS 1.3 only."""

from __future__ import annotations

import ssl

from sextant.base.errors import Misconfigured
from sextant.spec.snapshot import TlsFiles


def server_context(files: TlsFiles) -> ssl.SSLContext:
    """A server context: TLS 1.3 only; clients must show a certificate when a CA is named. Raises
    Misconfigured."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    try:
        context.load_cert_chain(files.cert_file, files.key_file)
        if files.client_ca_file is not None:
            context.load_verify_locations(files.client_ca_file)
            context.verify_mode = ssl.CERT_REQUIRED
    except (OSError, ssl.SSLError) as error:
        raise Misconfigured(
            f"the TLS files cannot be used ({files.cert_file}, {files.key_file}"
            f"{', ' + files.client_ca_file if files.client_ca_file else ''}): {error}"
        ) from None
    return context
