#!/bin/sh
# Run by PostgreSQL's image when its data is made: the roles, with the passwords that lie in files.
set -eu
psql --username "$POSTGRES_USER" --no-psqlrc \
  -v owner_password="$(cat /run/secrets/owner_password)" \
  -v service_password="$(cat /run/secrets/service_password)" \
  -f /etc/keyward/roles.sql
