"""The front of a server: nginx or haproxy with TLS 1.3 only, and the balance among engines of one model.

It runs as a unit and a user of its own, apart from the distribution's service. Answers stream: nothing is
buffered on the way back. Neighbours: `units.py` (hardening), `standby.py` (which server has the address).
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from sextant.render.dumping import text_file
from sextant.render.hosts import hsm
from sextant.render.hosts.places import BUNDLE, CERTIFICATE, CERTIFICATE_KEY, CLIENT_CA, ETC, Ground
from sextant.render.hosts.units import HARDENED, INSTALL, Line, hsm_lines, unit_file
from sextant.spec.bundle import File

UNIT = "sextant-front.service"
HEADERS_TIMEOUT_S = 10
ANSWER_TIMEOUT_S = 3600
"""Between two bytes of an answer; the gateway has the shorter bounds."""
CONNECTIONS = 8192
RESTART_WAIT_S = 30
"""haproxy holds requests that arrive while the gateway restarts for so long."""


class Balance(msgspec.Struct, frozen=True):
    """One model's engines: where the gateway finds them, and where they are."""

    key: str
    port: int
    servers: tuple[str, ...]
    """`host:port`."""


def front_files(ground: Ground, balances: Sequence[Balance]) -> tuple[File, ...]:
    """The configuration of the front that the document names, and its unit."""
    kind = ground.order.deployment.spec.delivery.front
    haproxy_is = kind == "haproxy"
    file = (
        text_file("front/haproxy.cfg", haproxy(ground, balances))
        if haproxy_is
        else text_file("front/nginx.conf", nginx(ground, balances))
    )
    if ground.contained:
        return (file,)
    return file, *hsm.front_files(ground), _unit(ground, *(_HAPROXY if haproxy_is else _NGINX))


def nginx(ground: Ground, balances: Sequence[Balance]) -> str:
    """nginx.conf. HTTP/2 to callers, HTTP/1.1 with kept connections to the gateway."""
    spec = ground.order.deployment.spec
    listen = f"{_bracketed(ground.public_host)}:" if ground.public_host and not ground.contained else ""
    tls = spec.gateway.tls
    mutual = (
        f"\n        ssl_client_certificate {CLIENT_CA};\n        ssl_verify_client on;"
        if _mutual(tls)
        else ""
    )
    name = spec.delivery.ingress_host or "_"
    return _NGINX_TEXT.format(
        connections=CONNECTIONS,
        body_mib=-(-spec.gateway.limits.body_bytes // (1 << 20)),
        headers_s=HEADERS_TIMEOUT_S,
        answer_s=ANSWER_TIMEOUT_S,
        gateway=f"{ground.gateway_host}:{ground.port}",
        listen=listen + str(ground.public_port),
        name=name,
        certificate=CERTIFICATE,
        key=hsm.key_line(ground, CERTIFICATE_KEY),
        variables=hsm.worker_variables(ground),
        mutual=mutual,
        engines="".join(_nginx_balance(ground, balance) for balance in balances),
    )


def haproxy(ground: Ground, balances: Sequence[Balance]) -> str:
    """haproxy.cfg. A request that finds the gateway restarting waits instead of failing."""
    spec = ground.order.deployment.spec
    mutual = f" ca-file {CLIENT_CA} verify required" if _mutual(spec.gateway.tls) else ""
    host = _bracketed(ground.public_host) if ground.public_host and not ground.contained else "*"
    return _HAPROXY_TEXT.format(
        connections=CONNECTIONS,
        headers_s=HEADERS_TIMEOUT_S,
        answer_s=ANSWER_TIMEOUT_S,
        retries=RESTART_WAIT_S,
        bind=f"{host}:{ground.public_port} ssl crt {ETC}/tls/server.pem{mutual}",
        gateway=f"{ground.gateway_host}:{ground.port}",
        engines="".join(_haproxy_balance(ground, balance) for balance in balances),
    )


def _mutual(tls: object) -> bool:
    return getattr(tls, "client_ca_file", None) is not None


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _nginx_balance(ground: Ground, balance: Balance) -> str:
    servers = "".join(
        f"        server {server} max_fails=3 fail_timeout=30s;\n" for server in balance.servers
    )
    return (
        f"\n    upstream engine-{balance.key} {{\n        least_conn;\n{servers}"
        f"        keepalive 64;\n    }}\n"
        f"    server {{\n        listen {ground.front_host}:{balance.port};\n        location / {{\n"
        f"            proxy_pass http://engine-{balance.key};\n        }}\n    }}\n"
    )


def _haproxy_balance(ground: Ground, balance: Balance) -> str:
    servers = "".join(
        f"    server engine-{number} {server} check inter 2s fall 3 rise 2\n"
        for number, server in enumerate(balance.servers)
    )
    bind = f"{ground.front_host}:{balance.port}"
    return f"\nlisten engine-{balance.key}\n    bind {bind}\n    balance leastconn\n{servers}"


def _unit(ground: Ground, program: str, start: str, reload: str, check: str) -> File:
    held = hsm.front_hsm(ground)
    return unit_file(
        UNIT,
        (
            "Unit",
            (
                ("Description", f"Sextant {ground.order.name}: {program} in front, TLS 1.3"),
                ("Documentation", f"file://{BUNDLE}/README.md"),
                ("Wants", "network-online.target"),
                ("After", "network-online.target"),
                ("PartOf", "sextant.target"),
                ("StartLimitIntervalSec", "0"),
            ),
        ),
        (
            "Service",
            (
                ("Type", "exec"),
                ("User", "sextant-front"),
                ("Group", "sextant-front"),
                *hsm.front_lines(ground),
                ("ExecStartPre", check),
                ("ExecStart", start),
                ("ExecReload", reload),
                ("KillMode", "mixed"),
                ("TimeoutStopSec", "60"),
                ("Restart", "always"),
                ("RestartSec", str(hsm.RESTART_WAIT_S) if held else "200ms"),
                ("RuntimeDirectory", "sextant"),
                ("Slice", "sextant-serving.slice"),
                ("LimitNOFILE", str(CONNECTIONS * 4)),
                ("MemoryHigh", "768M"),
                ("MemoryMax", "1G"),
                *HARDENED,
                *hsm_lines(held),
                *_BINDS,
                ("MemoryDenyWriteExecute", "yes"),
            ),
        ),
        INSTALL,
    )


_BINDS: tuple[Line, ...] = (
    ("CapabilityBoundingSet", "CAP_NET_BIND_SERVICE"),
    ("AmbientCapabilities", "CAP_NET_BIND_SERVICE"),
)
_NGINX = (
    "nginx",
    f"/usr/sbin/nginx -c {ETC}/nginx.conf -e stderr",
    "/bin/kill -HUP $MAINPID",
    f"/usr/sbin/nginx -t -q -c {ETC}/nginx.conf -e stderr",
)
_HAPROXY = (
    "haproxy",
    f"/usr/sbin/haproxy -W -f {ETC}/haproxy.cfg",
    "/bin/kill -USR2 $MAINPID",
    f"/usr/sbin/haproxy -c -q -f {ETC}/haproxy.cfg",
)
_NGINX_TEXT = """\
# Runs as the unit sextant-front.service, apart from the distribution's nginx.
daemon off;
pid /run/sextant/nginx.pid;
error_log stderr warn;
worker_processes auto;
worker_shutdown_timeout 45s;
{variables}
events {{
    worker_connections {connections};
}}

http {{
    access_log off;
    server_tokens off;
    client_body_temp_path /run/sextant/body;
    proxy_temp_path /run/sextant/proxy;
    fastcgi_temp_path /run/sextant/fastcgi;
    uwsgi_temp_path /run/sextant/uwsgi;
    scgi_temp_path /run/sextant/scgi;

    ssl_protocols TLSv1.3;
    ssl_session_tickets off;
    ssl_session_cache shared:tls:10m;

    client_header_timeout {headers_s}s;
    client_body_timeout {headers_s}s;
    client_max_body_size {body_mib}m;
    keepalive_timeout 75s;
    large_client_header_buffers 4 16k;

    proxy_http_version 1.1;
    proxy_set_header Connection "";
    proxy_set_header Host $host;
    proxy_set_header X-Forwarded-For $remote_addr;
    proxy_set_header X-Forwarded-Proto https;
    proxy_buffering off;
    proxy_request_buffering off;
    proxy_connect_timeout 5s;
    proxy_read_timeout {answer_s}s;
    proxy_send_timeout {answer_s}s;
    proxy_next_upstream off;

    upstream gateway {{
        server {gateway} max_fails=0;
        keepalive 128;
    }}

    server {{
        listen {listen} ssl http2;
        server_name {name};
        ssl_certificate {certificate};
        ssl_certificate_key {key};{mutual}
        add_header Strict-Transport-Security "max-age=31536000" always;

        location / {{
            proxy_pass http://gateway;
        }}
        location = /metrics {{
            return 404;
        }}
    }}
{engines}}}
"""
_HAPROXY_TEXT = """\
# Runs as the unit sextant-front.service, apart from the distribution's haproxy.
global
    maxconn {connections}
    log stdout format raw local0 warning
    ssl-default-bind-options ssl-min-ver TLSv1.3 no-tls-tickets
    hard-stop-after 60s

defaults
    mode http
    log global
    option dontlog-normal
    option http-keep-alive
    timeout connect 1s
    timeout client {answer_s}s
    timeout server {answer_s}s
    timeout http-request {headers_s}s
    timeout http-keep-alive 75s
    timeout queue 30s

frontend callers
    bind {bind} alpn h2,http/1.1
    http-request set-header X-Forwarded-For %[src]
    http-request set-header X-Forwarded-Proto https
    http-request return status 404 if {{ path /metrics }}
    http-response set-header Strict-Transport-Security max-age=31536000
    default_backend gateway

backend gateway
    retries {retries}
    retry-on conn-failure
    server gateway {gateway} maxconn {connections}
{engines}"""
