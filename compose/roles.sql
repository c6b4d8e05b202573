-- The database and its two roles, as a superuser of the server or a role that may create both:
--
--   psql -v owner_password=… -v service_password=… -f compose/roles.sql
--
-- keyward_owner owns the schema and is for `migrate` and `token init` alone. keyward_service serves; it owns nothing and
-- gets its rights, table by table, from the migrations. The time limits lie in the role, where a pooler can't lose them.
\set ON_ERROR_STOP on
CREATE ROLE keyward_owner LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE PASSWORD :'owner_password';
CREATE ROLE keyward_service LOGIN NOSUPERUSER NOBYPASSRLS NOCREATEDB NOCREATEROLE PASSWORD :'service_password';
ALTER ROLE keyward_service SET statement_timeout = '15s';
ALTER ROLE keyward_service SET lock_timeout = '5s';
ALTER ROLE keyward_service SET idle_in_transaction_session_timeout = '15s';
CREATE DATABASE keyward OWNER keyward_owner;
REVOKE ALL ON DATABASE keyward FROM PUBLIC;
GRANT CONNECT ON DATABASE keyward TO keyward_service;
