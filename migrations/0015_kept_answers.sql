-- What a mutation did is kept with its request id, so that the same request gets the answer of
-- then: the answer as the contract has it, and what replicas had to forget. Under an HMAC of the
-- HSM's, so that a writer of the database cannot make one up.
--
-- Runs under release 0.1.0, whose code goes on writing `reference`. A request that one of the two
-- codes performed is not answered by the other: it is told to look.

ALTER TABLE request_ids
  ALTER COLUMN reference SET DEFAULT '{}',
  -- Null in rows from before, and until the mutation is about to commit.
  ADD COLUMN effect text,
  ADD COLUMN mask_key_id uuid,
  ADD COLUMN mac bytea;
GRANT UPDATE (effect, mask_key_id, mac) ON request_ids TO keyward_service;

INSERT INTO schema_releases (migration, oldest_release) VALUES ('0015_kept_answers', '0.1.0');
