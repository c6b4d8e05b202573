/**
 * Key versions on their way under other root and seal keys, of this token or of another: what a
 * batch has read, what became of it, and the batch as SQL has it.
 *
 * Invariant: what became of a version goes with the sealed row that it was made of, so that it is
 * written only over that. Knows neither which versions those are nor where they are written.
 */
import type { RootKeyId, SealKeyId } from '../../ids.ts';
import { fromVersionRow, type KeyVersionRecord, type VersionRow } from '../keys/key-versions.ts';

/** A key version as a batch has read it, and what it is to be brought under. */
export interface KeyVersionToRewrap {
  readonly record: KeyVersionRecord;
  /** The last parts of its key's name. */
  readonly tenant: string;
  readonly key: string;
  readonly rootKeyId: RootKeyId;
  readonly sealKeyId: SealKeyId;
}

/** Its row. */
export type ToRewrapRow = VersionRow & {
  tenant: string;
  key: string;
  to_root: RootKeyId;
  to_seal: SealKeyId;
};

/** What a version has become. */
export type RewrappedKeyVersion = {
  readonly before: KeyVersionRecord;
  readonly after: Pick<KeyVersionRecord, 'rootKeyId' | 'wrap' | 'wrapped' | 'sealKeyId' | 'seal'>;
};

/** A FROM item of what versions have become, of the values of {@link valuesOf}. */
export const REWRAPPED_BATCH = `unnest($1::uuid[], $2::uuid[], $3::integer[], $4::bytea[], $5::uuid[], $6::smallint[],
    $7::bytea[], $8::uuid[], $9::bytea[])
  AS b (tenant_id, key_id, version, seal_before, root_key_id, wrap, wrapped, seal_key_id, seal)`;

/** Whether `key_versions v` is still what was read for `b`. */
export const IS_AS_READ = `v.tenant_id = b.tenant_id AND v.key_id = b.key_id AND v.version = b.version
  AND v.seal = b.seal_before AND v.state <> 'DESTROYED'`;

export function toRewrap(row: ToRewrapRow): KeyVersionToRewrap {
  return {
    record: fromVersionRow(row),
    tenant: row.tenant,
    key: row.key,
    rootKeyId: row.to_root,
    sealKeyId: row.to_seal,
  };
}

/** The parameters of a statement with {@link REWRAPPED_BATCH}. */
export function valuesOf(items: readonly RewrappedKeyVersion[]): unknown[] {
  return [
    items.map(({ before }) => before.tenantId),
    items.map(({ before }) => before.keyId),
    items.map(({ before }) => before.version),
    items.map(({ before }) => before.seal),
    items.map(({ after }) => after.rootKeyId),
    items.map(({ after }) => after.wrap),
    items.map(({ after }) => after.wrapped),
    items.map(({ after }) => after.sealKeyId),
    items.map(({ after }) => after.seal),
  ];
}
