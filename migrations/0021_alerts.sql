-- Alerts, and the outbox by which they reach people: what is found is written here once for all
-- replicas, together with what is to be delivered of it.
--
-- Runs under release 0.2.0, whose code looks at none of it.

-- An alert of one condition about one subject, from when it was first found until it has ended. Of
-- the whole service, so its tenant is `system`; no seal: a line of the log says the same.
CREATE TABLE alerts (
  tenant_id uuid NOT NULL REFERENCES tenants,
  alert_id uuid NOT NULL,
  condition text NOT NULL CHECK (condition ~ '^[a-z][a-z0-9-]{0,62}$'),
  subject text NOT NULL CHECK (length(subject) <= 512),
  severity text NOT NULL CHECK (severity IN ('critical', 'warning', 'info')),
  state text NOT NULL DEFAULT 'ACTIVE' CHECK (state IN ('ACTIVE', 'RESOLVED')),
  -- How often it was found, when first and when last, by which replica, and what was found last.
  count bigint NOT NULL CHECK (count > 0),
  first_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  last_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  replica text NOT NULL,
  fields text NOT NULL CHECK (length(fields) <= 8192),
  resolved_at timestamptz,
  -- Whether what is to be delivered was decided: that it was raised, and that it has ended.
  raised_is_planned boolean NOT NULL DEFAULT false,
  resolved_is_planned boolean NOT NULL DEFAULT false,
  PRIMARY KEY (tenant_id, alert_id),
  CONSTRAINT alerts_resolved_at_check CHECK ((state = 'RESOLVED') = (resolved_at IS NOT NULL))
);
CREATE UNIQUE INDEX alerts_active ON alerts (tenant_id, condition, subject) WHERE state = 'ACTIVE';
CREATE INDEX alerts_unplanned ON alerts (tenant_id)
  WHERE NOT raised_is_planned OR NOT resolved_is_planned;

-- What one receiver is to be told of one alert: the outbox. A replica that takes one up puts off
-- `next_attempt_at` first, so no other does meanwhile.
CREATE TABLE alert_deliveries (
  tenant_id uuid NOT NULL,
  alert_id uuid NOT NULL,
  event text NOT NULL CHECK (event IN ('raised', 'resolved')),
  receiver text NOT NULL,
  state text NOT NULL DEFAULT 'PENDING' CHECK (state IN ('PENDING', 'DELIVERED', 'DEAD')),
  attempts integer NOT NULL DEFAULT 0,
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  next_attempt_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  ended_at timestamptz,
  -- How the last attempt failed, without anything secret.
  failure text NOT NULL DEFAULT '' CHECK (length(failure) <= 512),
  PRIMARY KEY (tenant_id, alert_id, event, receiver),
  FOREIGN KEY (tenant_id, alert_id) REFERENCES alerts ON DELETE CASCADE
);
CREATE INDEX alert_deliveries_pending ON alert_deliveries (next_attempt_at) WHERE state = 'PENDING';

-- Which alerts are not delivered, until when: one row, under one seal with a revision. A list that
-- does not verify counts as empty.
CREATE TABLE alert_silences (
  tenant_id uuid PRIMARY KEY REFERENCES tenants,
  revision bigint NOT NULL DEFAULT 0 CHECK (revision >= 0),
  content text NOT NULL DEFAULT '[]' CHECK (octet_length(content) <= 262144),
  seal_key_id uuid,
  seal bytea CHECK (octet_length(seal) = 32),
  CONSTRAINT alert_silences_check CHECK ((seal IS NULL) = (seal_key_id IS NULL))
);
INSERT INTO alert_silences (tenant_id) SELECT tenant_id FROM tenants WHERE name = 'system';

GRANT SELECT ON alerts, alert_deliveries, alert_silences TO keyward_service;
GRANT UPDATE (revision, content, seal_key_id, seal) ON alert_silences TO keyward_service;
GRANT SELECT, INSERT, DELETE, UPDATE (state, count, last_at, replica, fields, resolved_at,
  raised_is_planned, resolved_is_planned) ON alerts TO keyward_reconciler;
GRANT SELECT, INSERT, DELETE, UPDATE (state, attempts, next_attempt_at, ended_at, failure)
  ON alert_deliveries TO keyward_reconciler;
GRANT SELECT, UPDATE (seal_key_id, seal) ON alert_silences TO keyward_reconciler;

REVOKE ALL ON ALL TABLES IN SCHEMA public FROM PUBLIC;

INSERT INTO schema_releases (migration, oldest_release) VALUES ('0021_alerts', '0.2.0');
