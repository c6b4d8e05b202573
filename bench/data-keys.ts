/**
 * Stored data keys to be re-wrapped: one real one, made by the service, under many names. Each is
 * opened, wrapped and opened again as any other.
 *
 * Knows the database's tables, as it fills them past the service.
 */
import { connect } from 'keyward-client';
import { REWRAP_SIZES } from '../src/keyring/pace.ts';

import { type PlainTable, PlainUpdate } from './plain-update.ts';
import type { Subject } from './rewrap-job.ts';

const PARENT = 'tenants/bench';
const KEY = `${PARENT}/keys/first`;

/** What is written back: the ciphertext, and when. */
const TABLE: PlainTable<{ name: string; ciphertext: Buffer }> = {
  name: 'data_keys',
  primaryKey: 'tenant_id, key_id, name',
  columns: 'data_key_id, context_digest, ciphertext',
  read: 'name, data_key_id, context_digest, ciphertext, version',
  batch: REWRAP_SIZES.batch,
  write: (rows, [tenantId, keyId]) => ({
    text: `UPDATE floor f SET ciphertext = b.after, rewrapped_at = now()
      FROM unnest($3::text[], $4::bytea[]) AS b (name, after)
      WHERE f.tenant_id = $1 AND f.key_id = $2 AND f.name = b.name AND f.name BETWEEN $5 AND $6`,
    values: [
      tenantId,
      keyId,
      rows.map(({ name }) => name),
      rows.map(({ ciphertext }) => ciphertext),
      rows[0]?.name,
      rows.at(-1)?.name,
    ],
  }),
};

/** See this file's first paragraph. */
export const dataKeys: Subject = {
  async fill(environment, owner, rows) {
    using client = connect(environment.client);
    await client.createDataKey({ parent: KEY, dataKeyId: 'original' });
    await owner.query(
      `INSERT INTO data_keys (tenant_id, key_id, name, data_key_id, context_digest, ciphertext)
       SELECT tenant_id, key_id, 'copy-' || lpad(n::text, 9, '0'), data_key_id, context_digest,
          ciphertext
       FROM data_keys, generate_series(2, $1::integer) n WHERE name = 'original'`,
      [rows],
    );
    return { rows, floor: await PlainUpdate.create(environment, owner, TABLE) };
  },

  async rotate(client) {
    await client.rotateKey({ name: KEY });
    const [rotation] = (await client.listRotations({ parent: KEY, pageSize: 1 })).rotations;
    return rotation?.rewrapJob ?? '';
  },

  async clear(owner) {
    await owner.query('TRUNCATE data_keys');
  },
};
