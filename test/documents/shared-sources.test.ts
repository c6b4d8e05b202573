/**
 * Sources that the client package and the server both have, since neither may import the other:
 * byte for byte the same. `UPDATE=1` copies the client's.
 */
import assert from 'node:assert/strict';
import { copyFileSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';

const ROOT = join(import.meta.dirname, '..', '..');
/** The client's file, and the server's copy. */
const SHARED = [['client/src/audit/tree.ts', 'src/hsm/merkle.ts']] as const;

for (const [original, copy] of SHARED)
  test(`${copy} is ${original}`, () => {
    if (process.env['UPDATE'] === '1') copyFileSync(join(ROOT, original), join(ROOT, copy));
    assert.equal(
      readFileSync(join(ROOT, copy), 'utf8'),
      readFileSync(join(ROOT, original), 'utf8'),
    );
  });
