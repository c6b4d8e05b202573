/**
 * Key versions to be brought under new root keys: one each of many keys that agents have made past
 * the service (`make-keys.ts`), and those that the bench has besides.
 *
 * Knows the database's tables.
 */
import { setTimeout as delay } from 'node:timers/promises';
import { REWRAP_SIZES } from '../src/keyring/pace.ts';

import { VERSION_COLUMNS } from '../src/store/keys/key-versions.ts';
import { makeKeys } from './make-keys.ts';
import { type PlainTable, PlainUpdate } from './plain-update.ts';
import type { Subject } from './rewrap-job.ts';

const PARENT = 'tenants/system';
/** As the service's own: a version costs what so many data keys do. */
const COST = 4;
export const KEY_VERSION_BATCH = Math.ceil(REWRAP_SIZES.batch / COST);
const LOOK_MS = 50;

interface Row {
  tenant_id: string;
  key_id: string;
  version: number;
  root_key_id: string;
  wrap: number;
  wrapped: Buffer;
  seal_key_id: string;
  seal: Buffer;
}

/** What is written back: what a version is wrapped and sealed by, and both. */
const TABLE: PlainTable<Row> = {
  name: 'key_versions',
  primaryKey: 'tenant_id, key_id, version',
  columns: 'state, algorithm, root_key_id, wrap, wrapped, check_value, seal_key_id, seal',
  read: VERSION_COLUMNS.replaceAll('v.', ''),
  batch: KEY_VERSION_BATCH,
  write: (rows) => ({
    text: `UPDATE floor f SET root_key_id = b.root_key_id, wrap = b.wrap, wrapped = b.wrapped,
        seal_key_id = b.seal_key_id, seal = b.seal
      FROM unnest($1::uuid[], $2::uuid[], $3::integer[], $4::uuid[],
         $5::smallint[], $6::bytea[], $7::uuid[], $8::bytea[])
        AS b (tenant_id, key_id, version, root_key_id, wrap, wrapped, seal_key_id, seal)
      WHERE f.tenant_id = b.tenant_id AND f.key_id = b.key_id AND f.version = b.version`,
    values: [
      rows.map((row) => row.tenant_id),
      rows.map((row) => row.key_id),
      rows.map((row) => row.version),
      rows.map((row) => row.root_key_id),
      rows.map((row) => row.wrap),
      rows.map((row) => row.wrapped),
      rows.map((row) => row.seal_key_id),
      rows.map((row) => row.seal),
    ],
  }),
};

/** See this file's first paragraph. */
export const keyVersions: Subject = {
  async fill(environment, owner, rows) {
    await makeKeys(environment, owner, { count: rows });
    await owner.query('ANALYZE keys, key_versions');
    const { rows: counted } = await owner.query<{ count: number }>(
      'SELECT count(*)::integer AS count FROM key_versions',
    );
    return {
      rows: counted[0]?.count ?? 0,
      floor: await PlainUpdate.create(environment, owner, TABLE),
    };
  },

  async rotate(client) {
    let rootKey = await client.rotateRootKey({ parent: PARENT });
    for (; rootKey.state !== 'CURRENT'; await delay(LOOK_MS))
      rootKey = await client.getTokenKey({ name: rootKey.name });
    return rootKey.rewrapJob;
  },

  /** The next measurement's are these. */
  async clear() {},
};
