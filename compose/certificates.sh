#!/bin/sh
# Certificates for trying out: compose/certificates.sh <folder> <name or address of the server>…
#
# Makes an authority (ca.pem), the server's certificate for the given names (server.pem), and client
# certificates of an administrator (admin.pem) and of a service (orders.pem), each with its key
# beside it: EC P-256, a year. Existing files are left alone. In production certificates come from
# your own authority, and its key lies in no folder; what the certificates must hold is the same.
set -eu
usage="name the server: certificates.sh <folder> <name or address>…"
[ $# -gt 1 ] || { echo "$usage" >&2; exit 2; }
folder=$1
shift
umask 077
mkdir -p "$folder"
cd "$folder"

names=
for name in "$@"; do
  case $name in
    *:*) kind=IP ;;
    *[!0-9.]*) kind=DNS ;;
    *) kind=IP ;;
  esac
  names="${names:+$names,}$kind:$name"
done

new_key() { openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$1" 2>/dev/null; }

# issue <file> <common name> <usage> <alternative names>
issue() {
  [ ! -e "$1.pem" ] || return 0
  new_key "$1-key.pem"
  printf '%s\n' 'basicConstraints=critical,CA:FALSE' 'keyUsage=critical,digitalSignature' \
    "extendedKeyUsage=$3" "subjectAltName=$4" >"$1.extensions"
  openssl req -new -key "$1-key.pem" -subj "/CN=$2" |
    openssl x509 -req -CA ca.pem -CAkey ca-key.pem -CAcreateserial -days 365 -sha256 \
      -extfile "$1.extensions" -out "$1.pem" 2>/dev/null
  rm "$1.extensions"
}

if [ ! -e ca.pem ]; then
  new_key ca-key.pem
  openssl req -x509 -new -key ca-key.pem -days 3650 -sha256 -subj '/CN=Keyward trial CA' \
    -addext 'keyUsage=critical,keyCertSign,cRLSign' -out ca.pem
fi
issue server keyward serverAuth "$names"
issue admin admin clientAuth URI:spiffe://keyward.example/admin
issue orders orders clientAuth URI:spiffe://keyward.example/orders
echo "$(pwd) has ca.pem, server.pem, admin.pem and orders.pem"
