#!/bin/sh
# Secrets and certificates for compose.yaml, as root:
#
#   sudo compose/prepare.sh [<name or address of the server>…]
#
# Makes compose/local/ (or $KEYWARD_COMPOSE) with a file for each secret, owned by the account that
# reads it: the service runs as 10001, its agents as 10002, PostgreSQL's image as 999. Keyward
# refuses secrets that other accounts may read. Existing files are left alone, so that it may be run
# again.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
folder=${KEYWARD_COMPOSE:-$here/local}
umask 077
mkdir -p "$folder/keyward" "$folder/agents" "$folder/postgres" "$folder/tls"
folder=$(cd "$folder" && pwd)

secret() { [ -s "$1" ] || openssl rand -hex 24 | tr -d '\n' >"$1"; }
for name in superuser owner service; do secret "$folder/postgres/$name-password"; done
secret "$folder/agents/pin"
socket='host=/var/run/postgresql'
url() {
  printf 'postgresql://keyward_%s:%s@/keyward?%s' \
    "$1" "$(cat "$folder/postgres/$1-password")" "$socket"
}
url service >"$folder/keyward/database-url"
url owner >"$folder/keyward/migration-database-url"
# For `token init`, which opens the token as the agents' user.
url owner >"$folder/agents/migration-database-url"

[ $# -gt 0 ] || set -- localhost 127.0.0.1
"$here/certificates.sh" "$folder/certificates" "$@"
for name in server.pem server-key.pem ca.pem; do
  cp "$folder/certificates/$name" "$folder/tls/$name"
done

chown -R 999:999 "$folder/postgres"
chown -R 10001:10001 "$folder/keyward" "$folder/tls"
chown -R 10002:10002 "$folder/agents"
# The administrator's certificate is for whoever asked for it.
chown -R "${SUDO_UID:-0}:${SUDO_GID:-0}" "$folder/certificates"
# Others may pass through, and find nothing that is theirs to read.
chmod 711 "$folder"
echo "$folder is ready"
