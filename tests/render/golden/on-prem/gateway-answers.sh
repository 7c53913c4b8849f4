#!/bin/bash
# gateway-answers.sh PORT, for keepalived: whether the gateway on this server answers. One that hangs lets
# callers connect and never answers.
set -eu
exec 3<>"/dev/tcp/127.0.0.1/$1" || exit 1
printf 'GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n' >&3
read -r -t 2 _ status _ <&3 && [ "$status" = 200 ]
