/**
 * How large an entry gets: 64 KiB, whatever is sent; and that what is left out is counted, and can
 * be proven by whoever has it.
 */
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { describe, test } from 'node:test';
import { type AuditEntryContent, type KeywardClient, readAuditEntry } from 'keyward-client';
import { entryLine, MAX_LINE_BYTES } from '../../src/store/audit/entry-size.ts';
import { eventually, sharedService } from '../support/kit.ts';

const TENANT = 'tenants/acme';
const KEY = `${TENANT}/keys/mail`;

const sha256 = (text: string) => createHash('sha256').update(text).digest('hex');

/** The numbers in `0-3,7`. */
function numbersIn(ranges: unknown): number[] {
  return String(ranges)
    .split(',')
    .flatMap((range) => {
      const [from = 0, to = from] = range.split('-').map(Number);
      return Array.from({ length: to - from + 1 }, (_, index) => from + index);
    });
}

interface Line extends Omit<AuditEntryContent, 'items' | 'itemGroups'> {
  readonly items: readonly object[];
  readonly itemGroups: readonly Record<string, unknown>[];
}

const lineOf = (members: object): Line => {
  const line = entryLine({ v: 1, tenant: 'acme', ...members });
  assert.ok(Buffer.byteLength(line) <= MAX_LINE_BYTES, `${Buffer.byteLength(line)} bytes`);
  return JSON.parse(line) as Line;
};

describe('an entry’s line', () => {
  test('is as it is up to 64 KiB of UTF-8', () => {
    const filled = (letter: string, count: number) => ({ text: letter.repeat(count) });
    assert.equal(entryLine(filled('a', 65_525)), JSON.stringify(filled('a', 65_525)));
    assert.equal(Buffer.byteLength(entryLine(filled('a', 65_525))), MAX_LINE_BYTES);
    assert.deepEqual(lineOf({ detail: filled('ä', 20_000) }).detail, filled('ä', 20_000));
  });

  test('of a batch that is larger has every item’s name and outcome, the first whole, and a digest', () => {
    const context = Object.fromEntries(
      Array.from({ length: 30 }, (_, index) => [`name-${index}`, 'f'.repeat(32)]),
    );
    const items = Array.from({ length: 1_000 }, (_, index) =>
      index % 100 === 7
        ? { resource: `${TENANT}/keys/none-${index % 300}`, context, outcome: 'RESOURCE_NOT_FOUND' }
        : { keyVersion: `${KEY}/versions/${1 + (index % 3)}`, context },
    );
    const line = lineOf({ items, outcome: 'OK' });
    assert.deepEqual([line.itemCount, line.itemsLeftOut], [1_000, undefined]);
    assert.equal(line.itemsSha256, sha256(JSON.stringify(items)));
    assert.ok(line.items.length > 30);
    assert.deepEqual(line.items, items.slice(0, line.items.length));
    const told = new Map<number, unknown>();
    for (const { items: ranges, ...facts } of line.itemGroups)
      for (const number of numbersIn(ranges)) told.set(number, facts);
    assert.equal(told.size, items.length);
    for (const [index, { context: _, ...item }] of items.entries())
      assert.deepEqual(
        told.get(index),
        JSON.parse(JSON.stringify(item).replaceAll(`${TENANT}/`, '')),
      );
  });

  test('of a batch over more names than it has room for counts the items of those', () => {
    const items = Array.from({ length: 1_000 }, (_, index) => ({
      resource: `${TENANT}/keys/${'k'.repeat(58)}${index}`,
      ...(index >= 990 ? { outcome: 'PERMISSION_MISSING' } : {}),
    }));
    const line = lineOf({ items });
    const told = line.itemGroups.flatMap((group) => numbersIn(group['items']));
    assert.equal(told.length + Number(line.itemsLeftOut), 1_000);
    assert.ok(told.length > 500);
    // What failed comes first.
    assert.deepEqual(told.slice(0, 10), [990, 991, 992, 993, 994, 995, 996, 997, 998, 999]);
    assert.equal(line.itemsSha256, sha256(JSON.stringify(items)));
  });

  test('has the digest of what is too large of a change, and the rest of it', () => {
    const conditions = Array.from({ length: 16 }, (_, index) => ({
      contextKey: `k${index}`,
      requirement: { kind: 'equals', value: 'ü'.repeat(8_000) },
    }));
    const after = { member: { kind: 'principal', name: 'bob' }, conditions };
    const { change } = lineOf({ change: { kind: 'roleBinding', after } });
    const text = JSON.stringify(conditions);
    assert.deepEqual(change, {
      kind: 'roleBinding',
      after: {
        ...after,
        conditions: {
          leftOut: { count: 16, bytes: Buffer.byteLength(text), sha256: sha256(text) },
        },
      },
    });
  });
});

describe('over the wire', () => {
  let keyward: KeywardClient;
  sharedService(async (client) => {
    keyward = client;
    await client.createTenant({ tenantId: 'acme' });
    await client.createKey({ parent: TENANT, keyId: 'mail' });
  });

  async function lastOf(method: string): Promise<{ entry: Line; bytes: number }> {
    const filter = `method = "keyward.v1.${method}"`;
    return eventually(async () => {
      for await (const entry of keyward.auditEntries({ parent: TENANT, filter }))
        return {
          entry: readAuditEntry(entry) as unknown as Line,
          bytes: entry.leaf.length,
        };
      throw new Error(`no entry of ${method}`);
    });
  }

  test('a batch with the longest contexts that there can be is answered, and recorded as it was answered', async () => {
    const encryptionContext = Object.fromEntries(
      Array.from({ length: 64 }, (_, index) => [`${index}`.padStart(120, '"'), '']),
    );
    const results = await keyward.batchGenerateDataKey({
      parent: TENANT,
      requests: Array.from({ length: 300 }, (_, index) => ({
        name: index % 3 === 0 ? `${TENANT}/keys/none-${index}` : KEY,
        encryptionContext,
      })),
    });
    const { entry, bytes } = await lastOf('EncryptionService/BatchGenerateDataKey');
    assert.ok(bytes <= MAX_LINE_BYTES, `${bytes} bytes`);
    assert.deepEqual([entry.outcome, entry.itemCount, entry.itemsLeftOut], ['OK', 300, undefined]);
    const failed = entry.itemGroups
      .filter(({ outcome }) => outcome === 'RESOURCE_NOT_FOUND')
      .flatMap(({ items }) => numbersIn(items))
      .toSorted((a, b) => a - b);
    assert.deepEqual(
      failed,
      results.flatMap((result, index) => ('error' in result ? [index] : [])),
    );
    assert.equal(failed.length, 100);
    const [first] = entry.items as { readonly context: Record<string, string | null> }[];
    assert.equal(Object.keys(first?.context ?? {}).length, 64);
  });

  test('a call with the longest contexts that there can be names all of each', async () => {
    const contextOf = (letter: string) =>
      Object.fromEntries(
        Array.from({ length: 64 }, (_, index) => [`${index}`.padStart(126, letter), '']),
      );
    const sourceEncryptionContext = contextOf('"');
    const { ciphertext } = await keyward.encrypt({
      name: KEY,
      plaintext: Buffer.of(1),
      encryptionContext: sourceEncryptionContext,
    });
    const destinationEncryptionContext = contextOf('\\');
    await keyward.reEncrypt({
      name: KEY,
      ciphertext,
      sourceEncryptionContext,
      destinationEncryptionContext,
    });
    const { entry, bytes } = await lastOf('EncryptionService/ReEncrypt');
    assert.ok(bytes > 32_768 && bytes <= MAX_LINE_BYTES, `${bytes} bytes`);
    const { sourceContext } = entry.detail as { readonly sourceContext: object };
    assert.deepEqual(
      [Object.keys(entry.context ?? {}).length, Object.keys(sourceContext).length],
      [64, 64],
    );
  });
});
