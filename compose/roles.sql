-- The database and its three roles, as a superuser of the server or a role that may create both:
--
--   psql -v owner_password=… -v service_password=… -f compose/roles.sql
--
-- keyward_owner owns the schema, and is for `migrate`, and for the `token` and `audit` commands
-- that change something. keyward_service serves; it owns nothing and gets its rights, table by
-- table, from the migrations. The settings lie in the role, where a pooler cannot lose them. The
-- service becomes keyward_reconciler for its work across tenants: rotating, re-wrapping,
-- destroying. NOINHERIT keeps it from having those rights all the time, and the server refuses to
-- start without it.
\set ON_ERROR_STOP on
CREATE ROLE keyward_owner LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE PASSWORD :'owner_password';
CREATE ROLE keyward_service LOGIN NOINHERIT NOSUPERUSER NOBYPASSRLS NOCREATEDB NOCREATEROLE
  PASSWORD :'service_password';
CREATE ROLE keyward_reconciler NOLOGIN NOSUPERUSER NOBYPASSRLS NOCREATEDB NOCREATEROLE;
GRANT keyward_reconciler TO keyward_service;
ALTER ROLE keyward_service SET statement_timeout = '15s';
ALTER ROLE keyward_service SET lock_timeout = '5s';
ALTER ROLE keyward_service SET idle_in_transaction_session_timeout = '15s';
ALTER ROLE keyward_service SET jit = off;
CREATE DATABASE keyward OWNER keyward_owner;
REVOKE ALL ON DATABASE keyward FROM PUBLIC;
GRANT CONNECT ON DATABASE keyward TO keyward_service;
